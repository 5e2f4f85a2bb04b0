"""Reads BTF, the type information inside an eBPF object: struct layouts, and where constants lie. Never loads anything.

Format: https://docs.kernel.org/bpf/btf.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

from weft.kit.errors import Rejected

_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_TRIPLE = struct.Struct("=III")

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT = range(1, 12)
_FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(12, 20)
#: bytes behind a type's 12, and behind each of its ``vlen`` items
_EXTRA = {_INT: (4, 0), _ARRAY: (12, 0), _STRUCT: (0, 12), _UNION: (0, 12), _ENUM: (0, 8), _FUNC_PROTO: (0, 8),
          _VAR: (4, 0), _DATASEC: (0, 12), _DECL_TAG: (4, 0), _ENUM64: (0, 12)}  # fmt: skip
_THROUGH = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    offset: int  # bytes
    type: int


@dataclass(frozen=True, slots=True)
class Type:
    kind: int
    name: str
    size: int  # bytes of INT, STRUCT, UNION, ENUM, DATASEC; else the type that is referred to
    body: bytes
    items: int


class Btf:
    """The types of one object, by their ids."""

    def __init__(self, raw: bytes) -> None:
        magic, _, _, header, type_at, type_bytes, text_at, text_bytes = _HEADER.unpack_from(raw)
        if magic != 0xEB9F:
            raise Rejected(f"BTF begins with {magic:#x}, not 0xeb9f: made for a machine of the other byte order?")
        text = raw[header + text_at : header + text_at + text_bytes]
        at, end = header + type_at, header + type_at + type_bytes
        self.types = [Type(0, "void", 0, b"", 0)]
        while at < end:
            name, info, size = _TYPE.unpack_from(raw, at)
            kind, items = info >> 24 & 0x1F, info & 0xFFFF
            fixed, each = _EXTRA.get(kind, (0, 0))
            body = raw[at + 12 : at + 12 + fixed + each * items]
            self.types.append(Type(kind, text[name : text.index(b"\0", name)].decode(), size, body, items))
            at += 12 + len(body)
        self._text = text

    @cached_property
    def structs(self) -> dict[str, int]:
        """Struct name -> id."""
        return {t.name: number for number, t in enumerate(self.types) if t.kind == _STRUCT and t.name}

    def members(self, number: int) -> tuple[Member, ...]:
        """Of a struct or union; anything else has none."""
        of = self.types[self._plain(number)]
        found: list[Member] = []
        if of.kind not in (_STRUCT, _UNION):
            return ()
        for name, kind, bits in _TRIPLE.iter_unpack(of.body):
            # With bit fields in the struct the upper byte is a width; Weft's layouts have none.
            found.append(Member(self._name(name), (bits & 0xFFFFFF) // 8, kind))
        return tuple(found)

    def size(self, number: int) -> int:
        """Bytes."""
        of = self.types[self._plain(number)]
        if of.kind == _PTR:
            return 8
        if of.kind == _ARRAY:
            element, _, count = _TRIPLE.unpack(of.body)
            return self.size(element) * int(count)
        return of.size

    def describe(self, number: int) -> str:
        """The layout in words, the same for the same layout whatever the ids: what two objects can be compared by."""
        if not number:  # a map without keys
            return "void"
        of = self.types[self._plain(number)]
        if of.kind == _ARRAY:
            element, _, count = _TRIPLE.unpack(of.body)
            return f"{self.describe(element)}[{count}]"
        if of.kind in (_STRUCT, _UNION):
            inside = " ".join(f"{m.name}@{m.offset}:{self.describe(m.type)}" for m in self.members(number))
            return f"{of.name}({of.size}){{{inside}}}"
        return f"{of.kind}/{self.size(number)}"

    def places(self, number: int, name: str = "", at: int = 0) -> dict[str, tuple[int, int]]:
        """(offset, bytes) of each field that has none inside, by its name: ``halves[1].end``."""
        of = self.types[self._plain(number)]
        if of.kind == _ARRAY:
            element, _, count = _TRIPLE.unpack(of.body)
            each = self.size(element)
            inside = [(f"{name}[{i}]", element, at + i * each) for i in range(int(count))]
        elif members := self.members(number):
            inside = [(f"{name}.{m.name}" if name else m.name, m.type, at + m.offset) for m in members]
        else:
            return {name: (at, self.size(number))}
        return {
            found: place
            for each_name, kind, there in inside
            for found, place in self.places(kind, each_name, there).items()
        }

    def constant(self, name: str, section: str = ".rodata") -> tuple[int, int] | None:
        """(offset, bytes) of a variable in its section; None when there is none of the name."""
        for of in self.types:
            if of.kind == _DATASEC and of.name == section:
                for variable, offset, size in _TRIPLE.iter_unpack(of.body):
                    if self.types[variable].name == name:
                        return offset, size
        return None

    def _name(self, at: int) -> str:
        return self._text[at : self._text.index(b"\0", at)].decode()

    def _plain(self, number: int) -> int:
        while self.types[number].kind in _THROUGH:
            number = self.types[number].size
        return number


class Translation:
    """Of a struct's bytes, as one object has it, to another's: by the names of its fields. One that the former does not
    have, or has narrower or wider, is 0.
    """

    def __init__(self, former: Btf, former_type: int, new: Btf, new_type: int) -> None:
        before = former.places(former_type)
        self._bytes = new.size(new_type)
        self._runs: list[tuple[int, int, int]] = []  # from where, to where, how many bytes
        for name, (to, size) in sorted(new.places(new_type).items(), key=lambda item: item[1]):
            since, former_size = before.get(name, (0, 0))
            if former_size != size:
                continue
            if self._runs:
                at, there, count = self._runs[-1]
                if (since, to) == (at + count, there + count):
                    self._runs[-1] = at, there, count + size
                    continue
            self._runs.append((since, to, size))

    def __call__(self, data: bytes) -> bytes:
        made = bytearray(self._bytes)
        for since, to, size in self._runs:
            made[to : to + size] = data[since : since + size]
        return bytes(made)

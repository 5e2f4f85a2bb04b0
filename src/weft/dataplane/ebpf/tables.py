"""One map beside what was told of it. Knows neither rows' meaning nor interfaces.

``told`` holds what the kernel has taken from this process: what an update may skip, and what repair() compares with.
An entry that the kernel keeps as it was, since it has refused another value of it, is told as it was.

What a former process has left counts in the reserve before anything is told, so nobody is given its room meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import libbpf
from weft.dataplane.ebpf.elements import Elements
from weft.dataplane.ebpf.reserves import Reserve
from weft.kit.errors import Rejected
from weft.policy.rows import Key, Row

R = TypeVar("R", bound=Row)
K = TypeVar("K")

_BATCH = 16384
_FULL = (errno.E2BIG, errno.ENOSPC)


class Table:
    """Puts, drops and mends the entries of one map, in batches. changed: called after each change to it; reserve: who
    may have how many; elements: of all maps of the process.
    """

    def __init__(
        self,
        of: libbpf.Map,
        changed: Callable[[], None],
        reserve: Reserve | None = None,
        elements: Elements | None = None,
    ) -> None:
        self.map = of
        self._elements = elements or Elements()
        self._reserve = reserve
        self.most = of.max_entries if reserve is None else reserve.most
        self._changed = changed
        self._keys = struct.Struct(f"{of.key_bytes}s")
        self._values = struct.Struct(f"{of.value_bytes}s")
        self.told: dict[bytes, bytes] = {}
        self._left: set[bytes] = set()  # by a former process, and counted; nothing was told of them yet
        if reserve is not None or of.type == libbpf.MapType.HASH:
            self._left.update(key for key, _ in self.entries())
        if reserve is not None:
            reserve.hold(self._left)
        self._clean: bytes | None = None  # digest of the last dump that was as told; None: told something since

    def put_rows(self, rows: Iterable[R], encode: Callable[[R], tuple[bytes, bytes]]) -> list[Failure]:
        """Rows as entries; a failure for each row that cannot be one or that the kernel refused."""
        failures: list[Failure] = []
        told, get = self.told, self.told.get
        keys: list[bytes] = []
        values: list[bytes] = []
        former: list[bytes | None] = []
        origins: list[R] = []
        for row in rows:
            try:
                key, value = encode(row)
            except Rejected as error:
                failures.append(Failure(row.key, error.message, permanent=True))
                continue
            was = get(key)
            if was == value:
                continue
            told[key] = value
            keys.append(key)
            values.append(value)
            former.append(was)
            origins.append(row)
            if len(keys) == _BATCH:
                failures += (Failure(origins[at].key, why) for at, why in self._write(keys, values, former))
                keys, values, former, origins = [], [], [], []
        failures += (Failure(origins[at].key, why) for at, why in self._write(keys, values, former))
        return failures

    def put(self, entries: Mapping[bytes, bytes]) -> list[str]:
        """Entries; why the kernel refused some."""
        return list(self.refused(entries).values())

    def put_anyway(self, key: bytes, value: bytes) -> None:
        """An entry that has to be, whatever the reserve has room for."""
        former = self.told.get(key)
        if former != value:
            self.told[key] = value
            self._write([key], [value], [former], anyway=True)

    def refused(self, entries: Mapping[bytes, bytes]) -> dict[bytes, str]:
        """Puts entries; those that the kernel refused, and why."""
        fresh = {key: value for key, value in entries.items() if self.told.get(key) != value}
        former = [self.told.get(key) for key in fresh]
        self.told.update(fresh)
        keys = list(fresh)
        return {keys[at]: why for at, why in self._write(keys, list(fresh.values()), former)}

    def drop(self, keys: Iterable[bytes]) -> None:
        """Entries; absent is success. What the kernel does not let go of stays told; raises OSError then."""
        self._delete(list(keys))

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """What the kernel has."""
        for keys, values, _ in self.map.chunks(_BATCH):
            for (key,), (value,) in zip(self._keys.iter_unpack(keys), self._values.iter_unpack(values), strict=True):
                yield key, value

    def prune(self, desired: Collection[Key], keys_of: Callable[[bytes], list[Key]]) -> None:
        """Drop every entry, told or not, that is none of the desired rows."""
        undesired: list[bytes] = []
        for keys, _, _ in self.map.chunks(_BATCH):
            rows = keys_of(keys)
            if not all(map(desired.__contains__, rows)):
                at = zip(self._keys.iter_unpack(keys), rows, strict=True)
                undesired += (key for (key,), row in at if row not in desired)
        self.drop(undesired)

    def repair(self, *, prune: bool) -> int:
        """Make the map as told; how many entries were not. prune: what was not told goes, too."""
        if self._clean is not None and self._clean == self._digest():
            return 0
        digest = hashlib.blake2b(digest_size=16)
        wrong: list[bytes] = []
        foreign: list[bytes] = []
        seen = 0
        get = self.told.get
        for keys, values, count in self.map.chunks(_BATCH):
            digest.update(keys)
            digest.update(values)
            seen += count
            here = [key for (key,) in self._keys.iter_unpack(keys)]
            actual = [value for (value,) in self._values.iter_unpack(values)]
            expected = [get(key) for key in here]
            if expected != actual:
                for key, is_, should in zip(here, actual, expected, strict=True):
                    if should is None:
                        foreign.append(key)
                    elif is_ != should:
                        wrong.append(key)
        if seen - len(foreign) < len(self.told):
            wrong += self.told.keys() - {key for key, _ in self.entries()}
        if not wrong and not foreign:
            self._clean = digest.digest()
            return 0
        as_told = [self.told[key] for key in wrong]
        self._write(wrong, as_told, list(as_told))
        if prune:
            self._delete(foreign)
        return len(wrong) + (len(foreign) if prune else 0)

    def _digest(self) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        for keys, values, _ in self.map.chunks(_BATCH):
            digest.update(keys)
            digest.update(values)
        return digest.digest()

    def _write(
        self, keys: list[bytes], values: list[bytes], former: list[bytes | None], *, anyway: bool = False
    ) -> list[tuple[int, str]]:
        """(place, reason) of those that the kernel refused. former: what was told of each, and is again then; None:
        nothing.
        """
        refused: list[tuple[int, str]] = []
        places: Sequence[int] = range(len(keys))
        fresh = [key for key, was in zip(keys, former, strict=True) if was is None]
        left = self._left.intersection(fresh)
        there = [was is not None or key in left for key, was in zip(keys, former, strict=True)]
        if self._reserve is None:
            self._left -= left
        if self._reserve is not None and (no_room := set(self._take(self._reserve, fresh, anyway=anyway))):
            refused = [(at, self._reason(errno.ENOSPC)) for at, key in enumerate(keys) if key in no_room]
            for key in no_room:
                self.told.pop(key, None)
            places = [at for at, key in enumerate(keys) if key not in no_room]
            keys, values = [keys[at] for at in places], [values[at] for at in places]
            former, there = [former[at] for at in places], [there[at] for at in places]
        stayed: dict[bytes, bytes | None] = {}  # also where a batch has several values of a key
        at = 0
        if keys:
            self._clean = None
        while at < len(keys):
            end = min(at + _BATCH, len(keys))
            result = self._elements.put(self.map, keys[at:end], values[at:end], there[at:end])
            at += result.done
            if result.errno:
                if keys[at] not in stayed:
                    # Of a key that is not there, a trie would find what covers it.
                    stayed[keys[at]] = self.map.lookup(keys[at]) if keys[at] in left else former[at]
                was = stayed[keys[at]]
                if self.told.get(keys[at]) == values[at]:
                    self._tell(keys[at], was)
                if was != values[at]:
                    refused.append((places[at], self._reason(result.errno)))
                at += 1  # a batch stops at the first refusal; what follows may still fit
        if keys:
            self._changed()
        return refused

    def _take(self, reserve: Reserve, fresh: list[bytes], *, anyway: bool) -> Collection[bytes]:
        """Of keys that are told from here on: those for which there is no room."""
        if here := self._left.intersection(fresh):  # counted already
            self._left -= here
            fresh = [key for key in fresh if key not in here]
        if anyway:
            reserve.hold(fresh)
            return ()
        return reserve.take(fresh)

    def _tell(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            del self.told[key]
            if self._reserve is not None:
                self._reserve.give([key])
        else:
            self.told[key] = value

    def _delete(self, keys: list[bytes]) -> None:
        at = 0
        if not keys:
            return
        self._clean = None
        try:
            while at < len(keys):
                end = min(at + _BATCH, len(keys))
                result = self._elements.delete(self.map, keys[at:end])
                begin, at = at, at + result.done + (result.errno == errno.ENOENT)
                self._let_go(keys[begin:at])
                if result.errno not in (0, errno.ENOENT):
                    words = f"{self.map.name}: an entry cannot be deleted: {os.strerror(result.errno)}"
                    raise OSError(result.errno, words)
        finally:
            self._changed()

    def _let_go(self, keys: list[bytes]) -> None:
        """They are not there any more."""
        told = [key for key in keys if self.told.pop(key, None) is not None]
        left = self._left.intersection(keys)
        self._left -= left
        if self._reserve is not None:
            self._reserve.give(told)
            self._reserve.give(left)

    def _reason(self, number: int) -> str:
        if number in _FULL:
            return f"{self.map.name}: full at {self.most} entries: raise the data plane's size of it"
        return f"{self.map.name}: the kernel refused the entry: {os.strerror(number)}"


def packed(keys: Iterable[Key], encode: Callable[[Key], K]) -> tuple[list[K], list[Failure]]:
    """Rows' keys as a map has them; a failure for each that cannot be one."""
    found: list[K] = []
    failures: list[Failure] = []
    for key in keys:
        try:
            found.append(encode(key))
        except Rejected as error:
            failures.append(Failure(key, error.message, permanent=True))
    return found, failures

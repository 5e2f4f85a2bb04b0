"""All of a store as lines of JSON, and an empty store filled with them: backups, and moves between kinds of store.

The first line says what it is, the last how much and which bytes: half a file is no backup. Restored, it is one commit
of a new store: revisions begin anew, and so do all hosts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from weft.contracts.store import Store
from weft.kit.errors import Rejected
from weft.store.schema import SCHEMA, Schema

_FORMAT = "weft store"

_T = TypeVar("_T")


class _Head(msgspec.Struct, frozen=True):
    format: str
    schema: int
    identity: str
    revision: int


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """value: JSON, as it is stored. raw: what is no JSON, in base64."""

    name: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    raw: str | None = None


class _Foot(msgspec.Struct, frozen=True):
    objects: int
    sha256: str


_encode = msgspec.json.Encoder().encode


async def export(
    store: Store,
    write: Callable[[bytes], object],
    version: int | None = None,
    schema: Schema = SCHEMA,
    *,
    drop: bool = False,
) -> int:
    """How many there were. A backup is of one revision, whatever is committed meanwhile.

    version: the schema that it is to be in; the store's own unless said. drop: without what that cannot say.
    """
    snapshot = await store.snapshot()
    wanted = snapshot.schema if version is None else version
    values: Mapping[str, bytes] = {name: stored.value for name, stored in snapshot.objects.items()}
    if wanted != snapshot.schema:
        values = schema.given(schema.taken(values, snapshot.schema), wanted, drop=drop).values
    write(_encode(_Head(_FORMAT, wanted, snapshot.identity, snapshot.revision)) + b"\n")
    digest = hashlib.sha256()
    for name in sorted(values):
        line = _encode(_line(name, values[name])) + b"\n"
        digest.update(line)
        write(line)
    write(_encode(_Foot(len(values), digest.hexdigest())) + b"\n")
    return len(values)


async def restore(store: Store, lines: Iterable[bytes], schema: Schema = SCHEMA) -> int:
    """How many there are. Raises Rejected for what is no whole backup, or a store that is not empty."""
    values, version = read(lines)
    schema.check(version, "the backup")
    snapshot = await store.snapshot()
    if version != snapshot.schema:
        values = schema.given(schema.taken(values, version), snapshot.schema).values
    if snapshot.objects:
        raise Rejected(
            f"the store is not empty: it has {len(snapshot.objects)} objects; a backup is restored into a new one",
            "store",
        )
    await store.commit(dict.fromkeys(values, 0), values, (), schema=snapshot.schema)
    return len(values)


def read(lines: Iterable[bytes]) -> tuple[Mapping[str, bytes], int]:
    """(values, their schema version)."""
    rest = iter(lines)
    head = _decode(next(rest, b""), _Head, 1)
    if head.format != _FORMAT:
        raise Rejected(f"line 1: {head.format!r} is no backup of a Weft store", "backup")
    values: dict[str, bytes] = {}
    digest = hashlib.sha256()
    for number, line in enumerate(rest, 2):
        if line.startswith(b'{"objects":'):
            foot = _decode(line, _Foot, number)
            if (foot.objects, foot.sha256) != (len(values), digest.hexdigest()):
                raise Rejected("the backup is damaged: its last line is not of what comes before it", "backup")
            return values, head.schema
        digest.update(line)
        found = _decode(line, _Line, number)
        values[found.name] = bytes(found.value) if found.raw is None else base64.b64decode(found.raw)
    raise Rejected("the backup is not whole: its last line is missing", "backup")


def _line(name: str, value: bytes) -> _Line:
    if b"\n" not in value:
        try:
            if msgspec.json.encode(msgspec.json.decode(value, type=msgspec.Raw)) == value:
                return _Line(name, msgspec.Raw(value))
        except msgspec.DecodeError:
            pass
    return _Line(name, raw=base64.b64encode(value).decode())


def _decode(line: bytes, type_: type[_T], number: int) -> _T:
    try:
        return msgspec.json.decode(line, type=type_)
    except msgspec.DecodeError as error:
        raise Rejected(f"line {number} is none of a backup of a Weft store: {error}", "backup") from error

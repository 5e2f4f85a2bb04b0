"""Commits and checkpoints as bytes for etcd: packed, compressed, and cut into parts that one request may carry."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from weft.contracts.store import Stored
from weft.kit.errors import Rejected

#: Of what an etcd key holds; its limit for a whole request is 1.5 MiB by default.
PART_BYTES = 1 << 20
#: A commit up to this size is in its log entry itself.
INLINE_BYTES = 512 << 10

_COMPRESS_FROM = 512
_CHUNK_BYTES = 1 << 20

Body: TypeAlias = tuple[dict[str, bytes], list[str], list[str]]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A commit in the log. id: of this commit and no other. parts: how many hold its body; 0: it is here. schema: the
    version that its values are in, and the store with them from it on; the release that had but one said nothing of it.
    """

    id: bytes
    parts: int
    body: bytes
    schema: int = 1


class Pointer(msgspec.Struct, frozen=True, array_like=True):
    """Where the newest checkpoint is: everything as of ``revision``, in so many parts, of so many bytes."""

    revision: int
    id: bytes
    parts: int
    size: int


class Meta(msgspec.Struct, frozen=True):
    """Of the store as a whole. JSON, for people who look."""

    schema: int
    identity: str


_pack = msgspec.msgpack.Encoder().encode
_unpack_body = msgspec.msgpack.Decoder(Body).decode
_unpack_chunk = msgspec.msgpack.Decoder(dict[str, tuple[bytes, int]]).decode
_unpack_entry = msgspec.msgpack.Decoder(Entry).decode
_unpack_pointer = msgspec.msgpack.Decoder(Pointer).decode
_unpack_meta = msgspec.json.Decoder(Meta).decode


def encode_body(puts: Mapping[str, bytes], deletes: Collection[str], marks: Collection[str]) -> bytes:
    return _squeeze(_pack((puts, list(deletes), list(marks))))


def decode_body(raw: bytes) -> Body:
    body: Body = _unpack_body(_unsqueeze(raw))
    return body


def encode_entry(entry: Entry) -> bytes:
    return _pack(entry)


def decode_entry(raw: bytes) -> Entry:
    return _unpack_entry(raw)


def encode_pointer(pointer: Pointer) -> bytes:
    return _pack(pointer)


def decode_pointer(raw: bytes) -> Pointer:
    return _unpack_pointer(raw)


def encode_meta(meta: Meta) -> bytes:
    return msgspec.json.encode(meta)


def decode_meta(raw: bytes) -> Meta:
    try:
        return _unpack_meta(raw)
    except msgspec.DecodeError as error:
        raise Rejected(f"what is there is no Weft store: {error}", "store") from error


def cut(body: bytes) -> list[bytes]:
    return [body[first : first + PART_BYTES] for first in range(0, len(body), PART_BYTES)]


def encode_objects(objects: Mapping[str, Stored]) -> bytes:
    """A checkpoint: chunks, each with its length before it."""
    return b"".join(_chunks(objects.items()))


def decode_objects(raw: bytes) -> dict[str, Stored]:
    objects: dict[str, Stored] = {}
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        chunk = _unpack_chunk(_unsqueeze(raw[at + 4 : at + 4 + size]))
        objects.update((name, Stored(value, revision)) for name, (value, revision) in chunk.items())
        at += 4 + size
    return objects


def _chunks(objects: Iterable[tuple[str, Stored]]) -> Iterator[bytes]:
    chunk: dict[str, tuple[bytes, int]] = {}
    size = 0
    for name, stored in objects:
        chunk[name] = (stored.value, stored.revision)
        size += len(name) + len(stored.value) + 16
        if size >= _CHUNK_BYTES:
            yield _framed(chunk)
            chunk, size = {}, 0
    if chunk:
        yield _framed(chunk)


def _framed(chunk: dict[str, tuple[bytes, int]]) -> bytes:
    raw = _squeeze(_pack(chunk))
    return len(raw).to_bytes(4, "big") + raw


def _squeeze(raw: bytes) -> bytes:
    # Level 1: specs are names and addresses, and shrink to a tenth by it.
    return b"\x01" + zlib.compress(raw, 1) if len(raw) >= _COMPRESS_FROM else b"\x00" + raw


def _unsqueeze(raw: bytes) -> bytes:
    return zlib.decompress(raw[1:]) if raw[:1] == b"\x01" else raw[1:]

"""etcd 3.4 and later, by its JSON gateway: what a store needs of it, typed. Knows nothing of Weft.

The gateway, and not gRPC: it is part of every etcd, needs no library but the HTTP client that is here already, and
what a commit costs is etcd's own fsync and quorum. (grpcio with stubs of our own would be 15 MB for a fifth of a
millisecond; the clients on PyPI are untyped or no longer maintained.)
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
import msgspec
import structlog

from weft.kit.errors import Rejected, Retry
from weft.tls.contexts import ClientTls, Files

# A node that takes connections and says nothing (paused, cut off) is given up after this long.
TRY_S = 1.5
# A request that carries a megabyte is given longer.
_LONG_TRY_S = 10.0
_CONNECT_S = 0.7

# Certificates are looked at this often.
_LOOK_S = 2.0

_UNAUTHENTICATED = 16

_log = structlog.stdlib.get_logger("weft.store")

_T = TypeVar("_T")

# A TLS 1.3 server refuses a certificate after the handshake: that alert comes as it is, through the HTTP client.
_BROKEN = (httpx2.HTTPError, ssl.SSLError)


class Unanswered(Retry):
    """A request was sent and no answer came: it may have been carried out, or be under way still."""


class CompactedHistory(Exception):
    """etcd no longer has the revision asked for."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where etcd is and how to come in. prefix: of all our keys."""

    endpoints: tuple[str, ...]
    prefix: str = "/weft"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = None


class KeyValue(msgspec.Struct, frozen=True):
    key: bytes
    value: bytes = b""
    mod_revision: int = 0
    lease: int = 0


class _Header(msgspec.Struct, frozen=True):
    revision: int = 0


class Found(msgspec.Struct, frozen=True):
    """more: the limit has cut it off."""

    header: _Header = _Header()
    kvs: list[KeyValue] = []
    more: bool = False


class _Response(msgspec.Struct, frozen=True):
    response_range: Found | None = None


class Outcome(msgspec.Struct, frozen=True):
    """Of a transaction. ranges: answers of the reads of the branch that was taken, in order."""

    header: _Header = _Header()
    succeeded: bool = False
    responses: list[_Response] = []

    @property
    def ranges(self) -> list[Found]:
        return [each.response_range for each in self.responses if each.response_range is not None]


class Compare(msgspec.Struct, frozen=True, omit_defaults=True):
    """What must hold of one key."""

    key: bytes
    target: str
    value: bytes | None = None
    create_revision: str | None = None
    mod_revision: str | None = None
    version: str | None = None
    result: str = "EQUAL"


class Range(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key, or all from ``key`` to before ``range_end``, in order."""

    key: bytes
    range_end: bytes | None = None
    limit: int = 0
    revision: int = 0
    keys_only: bool = False
    serializable: bool = False


class Put(msgspec.Struct, frozen=True, omit_defaults=True):
    key: bytes
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, omit_defaults=True):
    key: bytes
    range_end: bytes | None = None


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the three."""

    request_range: Range | None = None
    request_put: Put | None = None
    request_delete_range: Delete | None = None


class Transaction(msgspec.Struct, frozen=True, omit_defaults=True):
    compare: Sequence[Compare] = ()
    success: Sequence[Operation] = ()
    failure: Sequence[Operation] = ()


class _Changed(msgspec.Struct, frozen=True):
    kv: KeyValue
    type: str = "PUT"


class Watched(msgspec.Struct, frozen=True):
    """What a watch says at once; canceled: it says no more."""

    header: _Header = _Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[_Changed] = []


class _Streamed(msgspec.Struct, frozen=True):
    result: Watched | None = None
    error: object = None


class _Fault(msgspec.Struct, frozen=True):
    message: str = ""
    error: str = ""
    code: int = 0


class _Lease(msgspec.Struct, frozen=True):
    id: int = msgspec.field(name="ID", default=0)
    ttl: int = msgspec.field(name="TTL", default=0)


class _Kept(msgspec.Struct, frozen=True):
    result: _Lease = _Lease()


class _Token(msgspec.Struct, frozen=True):
    token: str


class _Refusal(Exception):
    """etcd's own answer that says no."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def put(key: bytes, value: bytes, lease: int = 0) -> Operation:
    return Operation(request_put=Put(key, value, lease))


def delete(key: bytes, range_end: bytes | None = None) -> Operation:
    return Operation(request_delete_range=Delete(key, range_end))


def read(key: bytes, range_end: bytes | None = None, limit: int = 0) -> Operation:
    return Operation(request_range=Range(key, range_end, limit))


def has_value(key: bytes, value: bytes) -> Compare:
    return Compare(key, "VALUE", value=value)


def is_absent(key: bytes) -> Compare:
    return Compare(key, "CREATE", create_revision="0")


def is_present(key: bytes) -> Compare:
    return Compare(key, "VERSION", version="0", result="GREATER")


def is_at(key: bytes, mod_revision: int) -> Compare:
    return Compare(key, "MOD", mod_revision=str(mod_revision))


def end_of(prefix: bytes) -> bytes:
    """The first key after all that begin with a prefix (that does not end in 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Etcd:
    """Keeps to the node that answered last, and goes on to the next when one does not. Never repeats a request to the
    same node; whoever calls must bear that one is carried out though an earlier node was asked for it, too.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._tls: ClientTls | None = None
        if any(each.startswith("https:") for each in address.endpoints):
            try:
                self._tls = ClientTls(Files(address.certificate, address.key, address.ca))
            except Rejected as error:
                raise Rejected(f"the certificates for etcd cannot be read: {error.message}", "store") from error
        self._looked_s = time.monotonic()
        verify: ssl.SSLContext | bool = False if self._tls is None else self._tls.context
        self._nodes = [
            httpx2.AsyncClient(
                base_url=each,
                transport=httpx2.AsyncHTTPTransport(verify=verify, limits=httpx2.Limits(max_keepalive_connections=8)),
                trust_env=False,
                timeout=httpx2.Timeout(TRY_S, connect=_CONNECT_S),
            )
            for each in address.endpoints
        ]
        self._at = 0
        self._closed = False
        self._token: str | None = None

    async def close(self) -> None:
        self._closed = True
        for node in self._nodes:
            await node.aclose()

    async def range(self, wanted: Range) -> Found:
        return await self._call("/v3/kv/range", wanted, Found)

    async def transact(self, transaction: Transaction) -> Outcome:
        return await self._call("/v3/kv/txn", transaction, Outcome)

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        await self._call("/v3/kv/put", Put(key, value, lease), dict[str, object])

    async def delete(self, key: bytes, range_end: bytes | None = None) -> None:
        await self._call("/v3/kv/deleterange", Delete(key, range_end), dict[str, object])

    async def compact(self, revision: int) -> None:
        """Lets etcd forget what keys were before. One that has been compacted already is no fault."""
        with suppress(CompactedHistory):
            await self._call("/v3/kv/compaction", {"revision": str(revision)}, dict[str, object])

    async def grant(self, ttl_s: int) -> int:
        return (await self._call("/v3/lease/grant", {"TTL": str(ttl_s)}, _Lease)).id

    async def keep(self, lease: int) -> bool:
        """Whether the lease was still there; it then runs anew."""
        return (await self._call("/v3/lease/keepalive", {"ID": str(lease)}, _Kept)).result.ttl > 0

    async def revoke(self, lease: int) -> None:
        await self._call("/v3/lease/revoke", {"ID": str(lease)}, dict[str, object])

    async def watch(self, prefix: bytes, revision: int) -> AsyncGenerator[Watched, None]:
        """Every change below a prefix, from an etcd revision on. Ends, or raises Retry, when the node goes or has no
        leader; raises CompactedHistory.
        """
        at = self._at
        body = {"create_request": {"key": prefix, "range_end": end_of(prefix), "start_revision": str(revision)}}
        # Without it a node that is cut off from the others would be silent for ever.
        silent = httpx2.Timeout(TRY_S, connect=_CONNECT_S, read=None)
        try:
            headers = {**await self._headers(at), "grpc-metadata-hasleader": "true"}
            async with self._nodes[at].stream(
                "POST", "/v3/watch", content=msgspec.json.encode(body), headers=headers, timeout=silent
            ) as answer:
                if answer.status_code >= 400:
                    raise Retry(f"etcd refuses the watch: {_fault(await answer.aread()).message}")
                rest = b""
                async with aclosing(answer.aiter_raw()) as chunks:
                    async for chunk in chunks:
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            said = msgspec.json.decode(line, type=_Streamed, strict=False).result
                            if said is None:
                                raise Retry(f"etcd ends the watch: {line[:200]!r}")
                            if said.compact_revision:
                                raise CompactedHistory
                            if said.canceled:
                                raise Retry(f"etcd ends the watch: {said.cancel_reason}")
                            yield said
        except (*_BROKEN, msgspec.DecodeError, _Refusal) as error:
            raise Retry(f"the watch at {self._address.endpoints[at]} broke: {_said(error)}") from error

    def move_on(self) -> None:
        """Keep to another node."""
        self._at = (self._at + 1) % len(self._nodes)

    async def _call(self, path: str, body: object, type_: type[_T]) -> _T:
        self._take_up_certificates()
        content = msgspec.json.encode(body)
        maybe = False
        reasons: list[str] = []
        for _ in self._nodes:
            at = self._at
            if self._closed:
                break
            try:
                return await self._ask(at, path, content, type_)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                reasons.append(f"{self._address.endpoints[at]}: {_said(error)}")
            except _BROKEN as error:
                maybe = True
                reasons.append(f"{self._address.endpoints[at]}: {_said(error)}")
            except _Refusal as error:
                _raise_if_final(error)
                # No leader, time is up, too many requests: another node may know better. It may have been taken.
                maybe = True
                reasons.append(f"{self._address.endpoints[at]}: {error.message}")
            if self._at == at:
                self.move_on()
        if self._closed:
            raise Retry("the store is closed")
        text = f"no etcd node answers: {'; '.join(reasons)}"
        raise Unanswered(text) if maybe else Retry(text)

    def _take_up_certificates(self) -> None:
        """Those that were replaced; what cannot be used is said, and the former are."""
        if self._tls is None or time.monotonic() < self._looked_s + _LOOK_S:
            return
        self._looked_s = time.monotonic()
        try:
            if self._tls.check():
                _log.info("certificates for etcd were replaced")
        except Rejected as fault:
            _log.warning("certificates for etcd cannot be used; the former ones are", reason=str(fault))

    async def _ask(self, at: int, path: str, content: bytes, type_: type[_T]) -> _T:
        timeout = httpx2.Timeout(_LONG_TRY_S if len(content) > 100_000 else TRY_S, connect=_CONNECT_S)
        for again in (True, False):
            headers = await self._headers(at)
            answer = await self._nodes[at].post(path, content=content, headers=headers, timeout=timeout)
            if answer.status_code < 400:
                try:
                    return msgspec.json.decode(answer.content, type=type_, strict=False)
                except msgspec.DecodeError as error:
                    raise httpx2.DecodingError(f"its answer is not etcd's: {error}") from error
            fault = _fault(answer.content)
            if fault.code == _UNAUTHENTICATED and self._address.user is not None and again:
                self._token = None  # it has run out
                continue
            raise _Refusal(fault.code, fault.message or fault.error)
        raise AssertionError("the second try returns or raises")

    async def _headers(self, at: int) -> dict[str, str]:
        if self._address.user is None:
            return {}
        if self._token is None:
            body = {"name": self._address.user, "password": self._address.password or ""}
            answer = await self._nodes[at].post("/v3/auth/authenticate", content=msgspec.json.encode(body))
            if answer.status_code >= 400:
                fault = _fault(answer.content)
                raise _Refusal(fault.code, fault.message or fault.error)
            self._token = msgspec.json.decode(answer.content, type=_Token).token
        return {"authorization": self._token}


def _raise_if_final(error: _Refusal) -> None:
    if "has been compacted" in error.message:
        raise CompactedHistory(error.message) from error
    if error.code in (3, 7):  # invalid argument, permission denied: no other node would say otherwise
        raise Rejected(f"etcd refuses: {error.message}", "store") from error


def _fault(body: bytes) -> _Fault:
    try:
        return msgspec.json.decode(body, type=_Fault, strict=False)
    except msgspec.DecodeError:
        return _Fault(message=body[:200].decode(errors="replace"))


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__

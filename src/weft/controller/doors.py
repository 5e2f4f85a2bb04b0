"""Where callers come in, and who stands there: listeners, and the connections that they accept. Decides no request.

Each connection is bounded before its first request is read: how long it may take to say what it wants, and how many
there may be of one caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from weft.tls.contexts import ServerTls
from weft.tls.expiry import ends
from weft.tls.identity import Identity

#: Where a request's scope holds its Peer.
PEER = "weft.peer"
#: And what ends its connection at once.
ABORT = "weft.abort"

_CREDENTIALS = struct.Struct("3i")  # SO_PEERCRED: pid, uid, gid


class Door(StrEnum):
    """How a connection was made."""

    LOCAL = "local"  # a unix socket: whoever may open it is this machine's operator
    LOOPBACK = "loopback"  # plain HTTP on this machine
    OPEN = "open"  # plain HTTP from anywhere, because somebody said --insecure
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end. identity, ends_s: of the certificate that was shown and found good (Unix time)."""

    door: Door
    address: str
    identity: Identity | None = None
    begins_s: float = 0.0
    ends_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Listener:
    """One place to listen at."""

    door: Door
    bound: socket.socket
    tls: ServerTls | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection may take, in seconds, and how many there may be."""

    handshake_s: float = 10.0
    headers_s: float = 10.0
    idle_s: float = 75.0
    headers_bytes: int = 64 << 10
    connections: int = 16384
    #: Of one address that shows no certificate, which may be of many callers.
    connections_of_address: int = 2048
    #: Of one certificate's holder.
    connections_of_holder: int = 64


#: What is not sent yet of a connection, before whoever writes has to wait. Of asyncio's own for TLS, 512 KiB, five
#: hundred hosts that come back at once would keep a quarter of a GiB waiting.
_UNSENT_BYTES = 64 << 10

#: asyncio's buffer for what is read of a connection over TLS, which each has for its life; 256 KiB unless said.
_READ_BYTES = 32 << 10


@dataclass(slots=True)
class Crowd:
    """The connections that are open."""

    patience: Patience
    all: int = 0
    of: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    timed_out: int = 0

    def admit(self, peer: Peer) -> bool:
        key, most = self._place(peer)
        if self.all >= self.patience.connections or self.of[key] >= most:
            self.turned_away += 1
            return False
        self.all += 1
        self.of[key] += 1
        return True

    def leave(self, peer: Peer) -> None:
        key, _ = self._place(peer)
        self.all -= 1
        self.of[key] -= 1
        if self.of[key] <= 0:
            del self.of[key]

    def _place(self, peer: Peer) -> tuple[str, int]:
        if peer.identity is not None:
            return peer.identity.uri, self.patience.connections_of_holder
        if peer.door is Door.LOCAL:
            return peer.address, self.patience.connections  # who is root here needs no bounds of ours
        return peer.address, self.patience.connections_of_address


class Connection(HttpToolsProtocol):
    """uvicorn's, which knows its peer, and does not wait for ever for a request to be said."""

    def __init__(self, door: Door, crowd: Crowd, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._door = door
        self._crowd = crowd
        self._peer: Peer | None = None
        self._admitted = False
        self._deadline: asyncio.TimerHandle | None = None  # while a request's beginning is not read
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._peer = _peer(self._door, transport)
        self._admitted = self._crowd.admit(self._peer)
        if not self._admitted:
            transport.abort()
            return
        transport.set_write_buffer_limits(_UNSENT_BYTES)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expected()
        if self._admitted and self._peer is not None:
            self._admitted = False
            self._crowd.leave(self._peer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.parser is None or not self._admitted:
            return  # bytes may follow what was aborted
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()
        super().data_received(data)
        if self._deadline is not None:
            self._unread_bytes += len(data)
            if self._unread_bytes > self._crowd.patience.headers_bytes:
                self._give_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[PEER] = self._peer  # type: ignore[literal-required]  # a key of ours
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]  # as above

    def on_headers_complete(self) -> None:
        self._expected()
        super().on_headers_complete()

    def _expect(self) -> None:
        self._unread_bytes = 0
        self._deadline = self.loop.call_later(self._crowd.patience.headers_s, self._give_up)

    def _expected(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._crowd.timed_out += 1
        self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn at several doors. Signals are the process's own: uvicorn's would end it as if killed."""

    def __init__(
        self, config: uvicorn.Config, listeners: Sequence[Listener], crowd: Crowd, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._listeners = listeners
        self._crowd = crowd
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # its signature
        loop = asyncio.get_running_loop()
        sslproto.SSLProtocol.max_size = _READ_BYTES
        self.servers = [
            await loop.create_server(
                partial(
                    Connection, each.door, self._crowd, config=self.config, server_state=self.server_state, app_state={}
                ),
                sock=each.bound,
                ssl=None if each.tls is None else each.tls.context,
                ssl_handshake_timeout=None if each.tls is None else self._crowd.patience.handshake_s,
                backlog=self.config.backlog,
            )
            for each in self._listeners
        ]
        self.started = True
        self._ready()


def _peer(door: Door, transport: asyncio.Transport) -> Peer:
    match door:
        case Door.LOCAL:
            return Peer(door, _local_user(transport))
        case Door.LOOPBACK | Door.OPEN:
            return Peer(door, _address(transport))
        case Door.TLS:
            shown: dict[str, Any] = transport.get_extra_info("peercert") or {}
            return Peer(
                door,
                _address(transport),
                Identity.of_names(shown.get("subjectAltName")),
                _seconds(shown.get("notBefore")),
                _seconds(shown.get("notAfter")),
            )


def _seconds(text: str | None) -> float:
    return float(ssl.cert_time_to_seconds(text)) if text else 0.0


def _address(transport: asyncio.Transport) -> str:
    found = transport.get_extra_info("peername")
    return str(found[0]) if isinstance(found, tuple) and found else ""


def _local_user(transport: asyncio.Transport) -> str:
    try:
        raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return "uid unknown"
    return f"uid {_CREDENTIALS.unpack(raw)[1]}"


def figures(crowd: Crowd, listeners: Sequence[Listener], shown_to_etcd: Path | None = None) -> Iterator[Metric]:
    """For /metrics. shown_to_etcd: a certificate."""
    yield GaugeMetricFamily("weft_connections", "Connections that are open", value=crowd.all)
    ended = CounterMetricFamily("weft_connections_ended", "Connections that were not served", labels=["reason"])
    ended.add_metric(["too many"], crowd.turned_away)
    ended.add_metric(["too slow"], crowd.timed_out)
    yield ended
    expiry = GaugeMetricFamily(
        "weft_certificate_expiry_timestamp_seconds", "When a certificate ends (Unix time)", labels=["certificate"]
    )
    for tls in {each.tls for each in listeners if each.tls is not None}:
        for name, end in tls.ends.items():
            expiry.add_metric([name], end.timestamp())
    for end in ends(shown_to_etcd).values():
        expiry.add_metric(["etcd"], end.timestamp())
    yield expiry

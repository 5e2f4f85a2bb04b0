"""The agent's own API, on a unix socket that only its owner may open. Never listens on a network."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from weft.agent import conntrack, metrics
from weft.agent.service import Agent
from weft.contracts.dataplane import DataPlane, Traffic
from weft.kit.errors import Conflict, Missing, Rejected
from weft.policy.connections import Expected
from weft.wire import problem

#: No request of ours is longer.
MOST_BODY_BYTES = 64 * 1024

STOP_S = 1


class _Attach(msgspec.Struct, forbid_unknown_fields=True):
    port: str
    interface: str


class _Detach(msgspec.Struct, forbid_unknown_fields=True):
    port: str


class Api:
    """One method for each route."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def attach(self, request: Request) -> Response:
        wanted = await _body(request, _Attach)
        await self._agent.attach(wanted.port, wanted.interface)
        return _json(self._port(wanted.port))

    async def detach(self, request: Request) -> Response:
        wanted = await _body(request, _Detach)
        await self._agent.detach(wanted.port)
        return _json(self._port(wanted.port))

    async def status(self, _request: Request) -> Response:
        agent = self._agent
        usage = await agent.reconciler.ask(lambda plane: dict(plane.usage()))
        progress = agent.reconciler.progress
        return _json(
            {
                "host": agent.host,
                "revision": progress.revision,
                "synced": progress.synced,
                "controller": {
                    "url": agent.controller.url,
                    "connected": agent.connection.connected,
                    "reason": agent.connection.reason,
                },
                "ports": {name: self._port(name) for name in sorted(agent.known)},
                "ambiguous": agent.plan.ambiguous,
                "failures": agent.failures(),
                "usage": {table: {"used": used, "capacity": capacity} for table, (used, capacity) in usage.items()},
                "ways": _ways(agent),
                "cache": {"fault": agent.cache_fault},
                "rule_log": {"fault": agent.rule_log.fault, "lost": agent.rule_log.lost},
            }
        )

    async def counters(self, _request: Request) -> Response:
        counters = await self._agent.reconciler.ask(lambda plane: dict(plane.counters()))
        return _json({name: _traffic(traffic) for name, traffic in counters.items()})

    async def heard(self, _request: Request) -> Response:
        """Who is in the VLANs behind the uplinks."""
        heard = await self._agent.reconciler.ask(lambda plane: plane.heard())
        learned = [
            {"vsid": each.vsid, "mac": each.mac, "interface": each.interface, "age_s": round(each.age_s, 3)}
            for each in heard.learned
        ]
        return _json({"learned": learned, "refused": heard.refused})

    async def rules(self, _request: Request) -> Response:
        """How often each rule of a security group has decided here."""
        return _json(await self._agent.reconciler.ask(lambda plane: dict(sorted(plane.hits().items()))))

    async def denials(self, _request: Request) -> Response:
        """By port and by the rule that denies ("": none speaks of them), packets that rules have not let pass."""
        found = await self._agent.reconciler.ask(lambda plane: plane.denials())
        return _json({port: dict(sorted(by_rule.items())) for port, by_rule in sorted(found.items())})

    async def connections(self, request: Request) -> Response:
        wanted = await self._wanted(request)
        rules = self._agent.rules
        return _json([conntrack.shown(found, rules) for found in await self._agent.conntrack.list(wanted)])

    async def flush(self, request: Request) -> Response:
        return _json({"forgotten": await self._agent.conntrack.flush(await self._wanted(request))})

    async def connection_events(self, request: Request) -> Response:
        wanted = await self._wanted(request)

        async def lines() -> AsyncIterator[bytes]:
            async with self._agent.conntrack.listening(wanted) as heard:
                yield b""  # from here on; who is answered hears what comes
                while True:
                    yield msgspec.json.encode(conntrack.shown_event(await heard.next(), self._agent.rules)) + b"\n"

        begun = lines()
        await anext(begun)
        return StreamingResponse(begun, media_type="application/x-ndjson")

    async def _wanted(self, request: Request) -> conntrack.Filter:
        """Raises Rejected, or Missing for a port or a tenant that this host does not have."""
        await self._agent.loaded()
        return conntrack.check(conntrack.parse(request.query_params), self._agent.known)

    async def healthz(self, _request: Request) -> Response:
        return _json({"status": "ok", "revision": self._agent.reconciler.progress.revision})

    async def metrics(self, _request: Request) -> Response:
        agent = self._agent
        usage, counters, unlearned, rules, expected = await agent.reconciler.ask(_read)
        status = agent.status()
        active = sum(port.state == "active" for port in status.ports.values()) if status else 0
        text = metrics.render(
            agent.reconciler.progress,
            connected=agent.connection.connected,
            usage=usage,
            counters=counters,
            unlearned=unlearned,
            rules=rules,
            expected=expected,
            active_ports=active,
            pas_missing=len(agent.pas_missing),
            answers=agent.responder.figures,
            announcements=agent.announcer.figures,
            certificate_ends=agent.certificate_ends(),
        )
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    def _port(self, name: str) -> dict[str, Any]:
        agent = self._agent
        port = agent.ports.get(name)
        holder = name if port is None or port.parent is None else port.parent
        interface = agent.plan.bindings.get(holder) or agent.attachments.interfaces.get(holder)
        if port is None:
            failure = agent.reconciler.progress.binding_failures.get(name)
            known = {"state": "failed", "reason": failure.reason} if failure else _UNKNOWN_PORT
            return {"interface": interface, **known}
        found = agent.state_of(port)
        return {"interface": interface, "state": found.state, "reason": found.reason}


_UNKNOWN_PORT = {"state": "down", "reason": "this host has no such port yet; its interface is closed until it has"}


def create_app(agent: Agent) -> Starlette:
    api = Api(agent)
    return Starlette(
        routes=[
            Route("/attach", api.attach, methods=["POST"]),
            Route("/detach", api.detach, methods=["POST"]),
            Route("/status", api.status),
            Route("/counters", api.counters),
            Route("/heard", api.heard),
            Route("/rules", api.rules),
            Route("/denials", api.denials),
            Route("/connections", api.connections),
            Route("/connections/flush", api.flush, methods=["POST"]),
            Route("/connections/events", api.connection_events),
            Route("/healthz", api.healthz),
            Route("/metrics", api.metrics),
        ],
        exception_handlers={Rejected: _refused, HTTPException: _no_route},
    )


async def serve(agent: Agent, path: Path, ready: Callable[[], None] = lambda: None) -> None:
    """Until it is cancelled; the socket's file goes with it. Raises Conflict when another agent serves there.

    ready: called once requests are answered.
    """
    with _listening(path) as listener:
        config = uvicorn.Config(
            create_app(agent),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=STOP_S,
        )
        server = _Server(config, ready)
        serving = asyncio.ensure_future(server.serve([listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            server.force_exit = True  # nobody's request is worth a slow stop
            await serving
            raise


class _Server(uvicorn.Server):
    """Signals are the whole process's business, not the socket's."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o177)  # from its first moment: a chmod would come after it
        try:
            listener.bind(str(path))
        except OSError as fault:  # a path longer than 107 bytes among others
            raise Rejected(f"{path} cannot be listened on: {fault.strerror or fault}") from fault
        finally:
            os.umask(mask)
        try:
            listener.listen(128)
            listener.setblocking(False)
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """A killed agent leaves its socket; a living one answers on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except OSError as fault:
            if fault.errno != errno.ECONNREFUSED:
                raise Rejected(f"{path} cannot be listened on: {fault.strerror}") from fault
            path.unlink(missing_ok=True)
            return
    raise Conflict(f"another agent serves {path}; give each its own --run directory")


async def _body(request: Request, kind: type[Any]) -> Any:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise HTTPException(413, f"a request is at most {MOST_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        wanted = ", ".join(f'"{field}"' for field in kind.__struct_fields__)
        raise HTTPException(400, f"the body is to be a JSON object of {wanted}: {fault}") from fault


def _refused(_request: Request, fault: Exception) -> Response:
    match fault:
        case Missing(message=message, field=field):
            status = 404
        case Conflict(message=message, field=field):
            status = 409
        case Rejected(message=message, field=field):
            status = 422
        case _:
            raise fault
    return _problem(status, message, field)


def _no_route(_request: Request, fault: Exception) -> Response:
    if not isinstance(fault, HTTPException):
        raise fault
    return _problem(fault.status_code, str(fault.detail))


def _problem(status: int, detail: str, field: str = "") -> Response:
    body = problem.encode(problem.problem(status, detail, field))
    return Response(body, status_code=status, media_type=problem.CONTENT_TYPE)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _ways(agent: Agent) -> list[dict[str, Any]]:
    """To each peer: whether probes come back (null: not known yet), and the path's MTU (0: as the uplink's)."""
    state = agent.prober.paths.state() if agent.prober is not None else []
    return [
        {"source": source, "destination": destination, "works": works, "mtu_bytes": mtu_bytes}
        for source, destination, works, mtu_bytes in state
    ]


def _read(
    plane: DataPlane,
) -> tuple[dict[str, tuple[int, int]], dict[str, Traffic], int, metrics.Rules, dict[Expected, int]]:
    rules = metrics.Rules(plane.hits(), plane.denials(), plane.unidentified())
    return dict(plane.usage()), dict(plane.counters()), plane.heard().refused, rules, dict(plane.expected())


def _traffic(traffic: Traffic) -> dict[str, Any]:
    return {
        "received_packets": traffic.received_packets,
        "received_bytes": traffic.received_bytes,
        "sent_packets": traffic.sent_packets,
        "sent_bytes": traffic.sent_bytes,
        "drops": {reason.label: count for reason, count in traffic.drops.items()},
    }

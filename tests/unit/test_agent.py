"""The agent as it lives: a real service on a real socket, a real feed, and the reference data plane."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import httpx2
import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as HttpRoute

from polling import PATIENCE_S
from weft.agent import reconcile
from weft.agent.links import Link
from weft.agent.process import live, locked
from weft.agent.service import Agent
from weft.client.client import AsyncClient
from weft.contracts.dataplane import Failure
from weft.feed.log import FeedLog, Gone, Limits
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Conflict, Rejected, Retry
from weft.policy.connections import Expected
from weft.policy.delta import ScopedDelta, ordered
from weft.policy.rows import (
    Direction,
    Host,
    Key,
    Pair,
    Port,
    Record,
    Row,
    Scope,
    SecurityGroup,
    SecurityRule,
    Subnet,
    Uplink,
)
from weft.reference.plane import ReferenceDataPlane
from weft.wire.api import Announced, Announcements, PortReport, StatusReport

HOST = "hosts/h1"
OWN = "host:hosts/h1"
RDID = "7f3c2d1e-0000-4000-8000-000000000001"
DOMAIN = f"rd:{RDID}"
WEB = "tenants/blue/ports/web-1"
DATABASE = "tenants/blue/ports/database-1"

HOST_ROW = Host(HOST, ("192.0.2.1",), (Uplink("uplink0", 1500),))
SUBNET = Subnet(5000, RDID, ("10.0.0.0/24",), ("10.0.0.1",), "02:57:45:46:54:01", 0)


def record(number: int, pa: str = "192.0.2.2") -> Record:
    return Record(5000, f"10.0.0.{number}", pa, f"02:00:00:00:00:{number:02x}")


def port(name: str, number: int, **changed: object) -> Port:
    return Port(name, 5000, f"02:00:00:00:00:{number:02x}", (f"10.0.0.{number}",), **changed)


def over(socket: Path) -> httpx2.AsyncHTTPTransport:
    """To a unix socket. verify: a certificate store takes 30 ms to read, and there is no certificate."""
    return httpx2.AsyncHTTPTransport(uds=str(socket), verify=False)


def client_of(socket: Path) -> AsyncClient:
    return AsyncClient(f"unix://{socket}", transport=over(socket))


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Returns once it is so. A deadline is for a test that would hang, not a measure."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 -- what is waited for is another party's, and rings no bell of ours
            await asyncio.sleep(0.002)


class Interfaces:
    """A host's interfaces, as the test makes them."""

    def __init__(self, *names: str) -> None:
        self._links = {name: Link(name, 10 + number, up=True) for number, name in enumerate(names)}
        self._links["lo"] = Link("lo", 1, up=True, loopback=True)
        self._changed = asyncio.Event()
        self._addresses: dict[str, list[str]] = {}

    def by_name(self) -> dict[str, Link]:
        return dict(self._links)

    def addresses(self) -> dict[str, list[str]]:
        return self._addresses

    def give(self, name: str, *addresses: str) -> None:
        self._addresses = {**self._addresses, name: list(addresses)}
        self._changed.set()

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def set(self, name: str, index: int, *, up: bool = True) -> None:
        self._links[name] = Link(name, index, up)
        self._changed.set()

    def remove(self, name: str) -> None:
        del self._links[name]
        self._changed.set()


class Watched(ReferenceDataPlane):
    """The reference data plane, that remembers in which order it was told, and fails the rows that the test says."""

    def __init__(self) -> None:
        super().__init__(HOST)
        self.told: list[str] = []
        self.failing: dict[Key, Failure] = {}
        self.aside: dict[Key, Failure] = {}  # what every call says, whatever it is about
        self.put: list[Row] = []
        self.deleted: list[Key] = []
        self.bindings: dict[str, str] = {}
        self.busy = 0
        self.breaking: set[str] = set()  # calls that the kernel refuses something in the midst of, once
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)

    @property
    def upcall_fd(self) -> int:
        return self._bell

    def upcalls(self):
        os.eventfd_read(self._bell)
        return super().upcalls()

    def from_guest(self, interface: str, frame: bytes) -> None:
        self.from_port(interface, frame)
        os.eventfd_write(self._bell, 1)

    def update(self, rows):
        rows = list(rows)
        self.told.append("update")
        self.breaks("update")
        self.put += rows
        failures = [self.failing[row.key] for row in rows if row.key in self.failing]
        some = [row for row in rows if row.key not in self.failing]
        return [*super().update(some), *failures, *self.aside.values()]

    def delete(self, keys):
        keys = list(keys)
        self.told.append("delete")
        self.breaks("delete")
        self.deleted += keys
        return [*super().delete(keys), *self.aside.values()]

    def prune(self, desired):
        self.told.append("prune")
        self.breaks("prune")
        if self.told.count("prune") <= self.busy:
            raise Retry("the data plane is busy")
        return super().prune(desired)

    def bind(self, bindings):
        self.told.append("bind")
        self.breaks("bind")
        self.bindings = dict(bindings)
        return super().bind(bindings)

    def repair(self) -> int:
        self.told.append("repair")
        self.breaks("repair")
        return super().repair()

    def breaks(self, call: str) -> None:
        if call in self.breaking:
            self.breaking.remove(call)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    def close(self) -> None:
        self.told.append("close")

    def rows(self) -> dict[Key, Row]:
        return {row.key: row for row in self.read()}


class Controller:
    """A small controller: a feed of rows that the test writes, and what the agent says of itself."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.rows: dict[Scope, dict[Key, Row]] = {OWN: {}, DOMAIN: {}}
        self.revision = 1
        self.limits = Limits(bookmark_s=0.05)
        self.log = self._new_log()
        self.reports: list[StatusReport] = []
        self.announced: list[Announced] = []
        self.put(HOST_ROW, SUBNET)

    def _new_log(self) -> FeedLog:
        return FeedLog(
            lambda scope: list(self.rows[scope].values()),
            lambda host: frozenset(self.rows) if host == HOST else frozenset(),
            self.revision,
            limits=self.limits,
        )

    def put(self, *rows: Row, deletes: tuple[Key, ...] = ()) -> None:
        changed: dict[Scope, tuple[list[Row], list[Key]]] = {}
        for row in rows:
            scope = OWN if isinstance(row, Host | Port) else DOMAIN
            self.rows[scope][row.key] = row
            changed.setdefault(scope, ([], []))[0].append(row)
        for key in deletes:
            scope = OWN if key[0] in ("hosts", "ports") else DOMAIN
            del self.rows[scope][key]
            changed.setdefault(scope, ([], []))[1].append(key)
        self.revision += 1
        self.log.publish(self.revision, ScopedDelta({s: ordered(*change) for s, change in changed.items()}))

    def forget_history(self) -> None:
        """As a controller that was started anew at a later revision."""
        self.revision += 10
        self.log = self._new_log()

    def desired(self) -> dict[Key, Row]:
        return {key: row for rows in self.rows.values() for key, row in rows.items()}

    @property
    def ports(self) -> dict[str, PortReport]:
        known: dict[str, PortReport] = {}
        for said in self.reports:
            known = dict(said.ports) if said.complete else {**known, **said.ports}
        return known

    async def _feed(self, request: Request) -> Response:
        revision = request.query_params.get("revision")
        stream = self.log.stream(HOST, int(revision) if revision else None)
        try:
            first = await anext(stream)
        except Gone as fault:
            return Response(msgspec.json.encode({"title": "Gone", "status": 410, "detail": str(fault)}), 410)

        async def body() -> AsyncIterator[bytes]:
            yield first
            async with contextlib.aclosing(stream):
                async for data in stream:
                    yield data

        return StreamingResponse(body(), media_type="application/x-ndjson")

    async def _announced(self, request: Request) -> Response:
        self.announced.extend(msgspec.json.decode(await request.body(), type=Announcements).announcements)
        return Response(status_code=204)

    async def _status(self, request: Request) -> Response:
        self.reports.append(msgspec.json.decode(await request.body(), type=StatusReport))
        return Response(status_code=204)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = Starlette(
            routes=[
                HttpRoute("/v1/hosts/h1/feed", self._feed),
                HttpRoute("/v1/hosts/h1/status", self._status, methods=["POST"]),
                HttpRoute("/v1/hosts/h1/announcements", self._announced, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(app, uds=str(self.socket), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: server.started)
        try:
            yield
        finally:
            server.should_exit = True
            for connection in list(server.server_state.connections):
                connection.transport.abort()  # as when it is killed: a stream does not end by itself
            await serving


class Scene:
    """One host: its directories, interfaces, data plane, and the agents that come and go on it."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.state.mkdir()
        self.socket = directory / "agent.sock"
        self.controller = Controller(directory / "controller.sock")
        self.links = Interfaces("eth7", "eth8", "uplink0")
        self.plane = Watched()

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[Agent]:
        stop = asyncio.Event()
        async with client_of(self.controller.socket) as client:
            agent = Agent(HOST, self.plane, client, self.state, self.links, MonotonicClock(), Random(1))  # noqa: S311 -- jitter
            living = asyncio.ensure_future(live(agent, self.socket, stop))
            try:
                await until(lambda: self.socket.exists() or living.done())
                yield agent
            finally:
                stop.set()
                await living

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        async with httpx2.AsyncClient(
            transport=over(self.socket), verify=False, base_url="http://agent", trust_env=False
        ) as http:
            answer = await http.request(method, path, json=body)
        return answer.status_code, answer.json()

    def programmed(self) -> bool:
        bound = {("ports", port) for port in self.plane.bindings}  # read() tells of no others
        desired = self.controller.desired()
        return self.plane.rows() == {key: row for key, row in desired.items() if key[0] != "ports" or key in bound}


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Awaitable[Scene]]]:
    async def make() -> Scene:
        # A unix socket's path is at most 107 bytes: not below a test's own long name.
        return Scene(tmp_path_factory.mktemp("a"))

    return make


async def test_what_the_feed_says_is_programmed_and_reported(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    async with here.controller.serving(), here.agent():
        await until(here.programmed)
        here.controller.put(record(2), port(WEB, 2))
        await until(here.programmed)
        reason = "no interface: none was attached, and there is no tapweb-1"
        await until(lambda: here.controller.ports.get(WEB) == PortReport("down", reason))
        assert here.controller.reports[0].complete
        here.controller.put(deletes=(record(2).key,))
        await until(here.programmed)
        await until(lambda: here.controller.reports[-1].revision == here.controller.revision)


async def test_a_port_is_active_when_its_row_is_programmed_and_its_interface_up(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    async with here.controller.serving(), here.agent():
        status, said = await here.ask("POST", "/attach", {"port": WEB, "interface": "eth7"})
        assert (status, said["state"]) == (200, "down")
        assert here.plane.bindings == {WEB: "eth7"}
        here.controller.put(record(2), port(WEB, 2))
        await until(lambda: here.controller.ports.get(WEB) == PortReport("active"))
        here.links.set("eth7", 10, up=False)
        idle = PortReport("down", "interface eth7 is not up, or has no carrier: nobody is at its other end")
        await until(lambda: here.controller.ports[WEB] == idle)
        here.links.set("eth7", 10, up=True)
        await until(lambda: here.controller.ports[WEB] == PortReport("active"))
        here.controller.put(port(WEB, 2, enabled=False))
        await until(lambda: here.controller.ports[WEB] == PortReport("down", "the port's admin state is down"))
        status, said = await here.ask("POST", "/detach", {"port": WEB})
        assert (status, said["state"], said["interface"]) == (200, "down", None)
        assert here.plane.bindings == {}


async def test_an_interface_named_like_a_port_is_bound_without_being_told(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    async with here.controller.serving(), here.agent():
        here.controller.put(port(WEB, 2), port(DATABASE, 3))
        await until(here.programmed)
        here.links.set("tapdatabase-1", 40)
        await until(lambda: here.plane.bindings == {DATABASE: "tapdatabase-1"})
        bound = here.plane.told.count("bind")
        here.links.set("tapdatabase-1", 41)  # made anew under its old name
        await until(lambda: here.plane.told.count("bind") > bound)
        here.links.remove("tapdatabase-1")
        await until(lambda: here.plane.bindings == {})


async def test_an_interface_that_may_be_of_two_ports_is_bound_to_none_and_reported(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    one, other = "tenants/blue/ports/application-1", "tenants/red/ports/application-2"
    async with here.controller.serving(), here.agent():
        here.controller.put(port(one, 2), port(other, 3))
        here.links.set("tapapplication", 40)
        await until(lambda: here.controller.ports.get(one, PortReport("down")).state == "failed")
        assert (
            here.controller.ports[one].reason
            == f"interface tapapplication may as well be of {other}: attach one of them"
        )
        assert here.plane.bindings == {}
        await here.ask("POST", "/attach", {"port": one, "interface": "eth7"})
        await until(lambda: here.plane.bindings == {one: "eth7", other: "tapapplication"})


async def test_a_pa_that_the_host_does_not_have_is_said_everywhere_until_it_has_it(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    here.links.give("eth7", "192.0.2.77")
    here.links.give("uplink0", "192.0.2.9", "2001:db8::9")
    pas = ("192.0.2.1", "192.0.2.77")
    here.controller.put(replace(HOST_ROW, uplinks=(Uplink("uplink0", 1500, pas=pas),)))
    async with here.controller.serving(), here.agent() as agent:
        await until(lambda: here.controller.reports[-1:] and here.controller.reports[-1].failures)
        (failure,) = here.controller.reports[-1].failures
        assert failure.key == ["hosts", HOST]
        assert failure.reason == (
            "this host does not have its PA 192.0.2.1, so what other hosts send there is lost: give it to uplink0 "
            f"(ip address add 192.0.2.1/LENGTH dev uplink0), or put into the pas of {HOST} an address that uplink0 has "
            "(192.0.2.9, 2001:db8::9)"
        )
        (said,) = (await here.ask("GET", "/status"))[1]["failures"]
        assert said["reason"] == failure.reason
        assert list(agent.pas_missing) == ["192.0.2.1"]
        here.links.give("uplink0", "192.0.2.1")
        await until(lambda: not here.controller.reports[-1].failures)
        assert not agent.pas_missing
        here.links.give("uplink0")
        await until(lambda: here.controller.reports[-1].failures)
        assert here.controller.reports[-1].failures[0].reason.endswith("an address that uplink0 has (none)")


async def test_an_interface_found_by_name_stays_closed_when_its_port_goes_also_after_a_restart(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    async with here.controller.serving():
        async with here.agent() as agent:
            here.controller.put(port(DATABASE, 3))
            here.links.set("tapdatabase-1", 40)
            await until(lambda: here.plane.bindings == {DATABASE: "tapdatabase-1"})
            here.controller.put(deletes=(port(DATABASE, 3).key,))
            await until(lambda: agent.reconciler.progress.revision == here.controller.revision)
            assert here.plane.bindings == {DATABASE: "tapdatabase-1"}
        here.plane.bindings = {}
        async with here.agent():
            await until(lambda: here.plane.bindings == {DATABASE: "tapdatabase-1"})
            _, said = await here.ask("GET", "/status")
            assert said["ports"][DATABASE]["state"] == "down"
            status, _ = await here.ask("POST", "/attach", {"port": WEB, "interface": "tapdatabase-1"})
            assert status == 200
            assert here.plane.bindings == {WEB: "tapdatabase-1"}


async def test_attaching_what_cannot_be_attached_is_refused_with_the_reason(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    async with here.controller.serving(), here.agent():
        await until(here.programmed)
        await here.ask("POST", "/attach", {"port": WEB, "interface": "eth7"})
        for body, status, field, said in (
            ({"port": DATABASE, "interface": "eth9"}, 404, "interface", "no interface 'eth9'"),
            ({"port": DATABASE, "interface": "eth7"}, 409, "interface", f"eth7 is the interface of {WEB}"),
            ({"port": DATABASE, "interface": "uplink0"}, 409, "interface", "uplink0 is this host's uplink"),
            ({"port": DATABASE, "interface": "lo"}, 409, "interface", "loopback"),
            ({"port": "blue/web-1", "interface": "eth8"}, 422, "name", "blue/web-1"),
            ({"port": DATABASE}, 400, None, "interface"),
            ([], 400, None, "object"),
        ):
            got, answer = await here.ask("POST", "/attach", body)
            assert (got, answer["status"], answer.get("field")) == (status, status, field), answer
            assert said in str(answer["detail"])
        got, answer = await here.ask("POST", "/detach", {"port": DATABASE})
        assert (got, answer["field"]) == (404, "port")
        assert (await here.ask("GET", "/nowhere"))[0] == 404
        assert here.plane.bindings == {WEB: "eth7"}


async def test_with_no_controller_the_agent_serves_what_it_was_last_told(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    here.controller.put(record(2), record(3), port(WEB, 2))
    async with here.controller.serving(), here.agent():
        await here.ask("POST", "/attach", {"port": WEB, "interface": "eth7"})
        await until(here.programmed)
        here.controller.put(record(4), deletes=(record(3).key,))
        await until(here.programmed)
    here.plane = Watched()  # the machine was started anew: nothing is programmed
    async with here.agent() as agent:
        await until(here.programmed)
        await until(lambda: here.plane.bindings == {WEB: "eth7"})
        await until(lambda: agent.connection.reason.startswith("no controller answers"))
        status, said = await here.ask("GET", "/status")
        assert (status, said["revision"], said["synced"]) == (200, here.controller.revision, False)
        assert said["ports"] == {WEB: {"interface": "eth7", "state": "active", "reason": ""}}
        assert "prune" not in here.plane.told


async def test_nothing_is_deleted_before_everything_was_sent(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    stray = record(99)
    here.plane.update([HOST_ROW, SUBNET, stray])
    here.plane.bind({WEB: "eth7"})
    async with here.agent() as agent:
        await until(lambda: agent.connection.reason.startswith("no controller answers"))
        assert stray.key in here.plane.rows()
        assert here.plane.bindings == {WEB: "eth7"}, "a host of which nothing is known keeps what is bound"
        async with here.controller.serving():
            await until(here.programmed)
            assert stray.key not in here.plane.rows()


async def test_a_prune_that_is_refused_for_now_is_done_later(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    here.plane.busy = 2
    here.plane.update([HOST_ROW, SUBNET, record(99)])
    async with here.controller.serving(), here.agent() as agent:
        await until(lambda: agent.reconciler.progress.synced)
        assert here.plane.told.count("prune") == 3
        assert here.programmed()


@pytest.mark.parametrize("call", ["update", "delete", "prune", "bind", "repair"])
async def test_what_the_kernel_refuses_in_the_midst_of_a_call_is_tried_again(
    scene: Callable[[], Awaitable[Scene]], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "REPAIR_S", 0.1)
    here = await scene()
    here.plane.breaking = {call}
    here.controller.put(record(2), record(3), port(WEB, 5))
    async with here.controller.serving(), here.agent() as agent:
        await agent.attach(WEB, "eth7")
        await until(lambda: agent.reconciler.progress.synced)
        here.controller.put(deletes=(record(3).key,))
        await until(lambda: not here.plane.breaking and here.plane.told.count(call) > 1)
        await until(lambda: here.programmed() and here.plane.bindings == {WEB: "eth7"})
        await until(lambda: not agent.reconciler.progress.troubles)
        assert not agent.reconciler.progress.binding_failures


async def test_a_controller_that_returns_is_resumed_from(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    async with here.agent():
        async with here.controller.serving():
            here.controller.put(record(2))
            await until(here.programmed)
            await until(lambda: any(said.complete for said in here.controller.reports))
        here.controller.put(record(3, "192.0.2.9"), deletes=(record(2).key,))
        told = len(here.controller.reports)
        async with here.controller.serving():
            await until(here.programmed)
            assert here.controller.log.counters.streams_full == 1
            assert here.controller.log.counters.streams_resumed >= 1
            # The full report is repeated: the controller keeps none on disk.
            await until(lambda: any(said.complete for said in here.controller.reports[told:]))


async def test_a_controller_that_has_forgotten_is_asked_for_everything(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    async with here.agent():
        async with here.controller.serving():
            here.controller.put(record(2), record(3), port(WEB, 2))
            await until(here.programmed)
        here.controller.put(record(3, "192.0.2.9"), deletes=(record(2).key,))
        here.controller.forget_history()
        async with here.controller.serving():
            await until(here.programmed)
            assert here.controller.log.counters.streams_gone == 1


async def test_an_agent_that_was_killed_in_between_prunes_what_it_never_heard_of(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    async with here.controller.serving():
        async with here.agent():
            here.controller.put(record(2), record(3))
            await until(here.programmed)
        # Programmed, and its deletion written down, but not carried out when the end came.
        here.plane.update([record(7)])
        here.controller.put(record(4))
        async with here.agent():
            await until(here.programmed)


async def test_what_failed_is_tried_again_and_reported_until_it_is_done(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    full = Failure(record(3).key, "table records is full (2 entries)")
    never = Failure(record(4).key, "never", permanent=True)
    here.plane.failing = {full.key: full, never.key: never}
    async with here.controller.serving(), here.agent() as agent:
        here.controller.put(record(2), record(3), record(4))
        await until(lambda: len(here.controller.reports[-1:]) and len(here.controller.reports[-1].failures) == 2)
        assert here.controller.reports[-1].revision == here.controller.revision
        del here.plane.failing[full.key]
        await until(lambda: full.key in here.plane.rows())
        await until(lambda: [failure.reason for failure in here.controller.reports[-1].failures] == ["never"])
        assert agent.reconciler.progress.troubles[never.key].attempts == 1
        here.plane.failing.clear()
        here.controller.put(record(4, "192.0.2.8"))
        await until(here.programmed)
        await until(lambda: here.controller.reports[-1].failures == [])


@pytest.mark.parametrize("by", ["a put", "a delete"])
async def test_what_fails_without_having_been_asked_for_is_put_again_and_never_deleted(
    scene: Callable[[], Awaitable[Scene]], by: str
) -> None:
    """As rules do: one change of a group, and ports and records far from it may have no room."""
    here = await scene()
    rows: list[Row] = [HOST_ROW, port(WEB, 2), record(2)]
    async with here.controller.serving(), here.agent() as agent:
        await here.ask("POST", "/attach", {"port": WEB, "interface": "eth7"})
        here.controller.put(port(WEB, 2), record(2), record(3))
        await until(lambda: here.programmed() and record(3).key in here.plane.rows())
        # One of which a put is yet to be tried again.
        here.plane.failing = {record(4).key: Failure(record(4).key, "full")}
        here.controller.put(record(4))
        troubles = agent.reconciler.progress.troubles
        await until(lambda: record(4).key in troubles)
        here.plane.aside = {row.key: Failure(row.key, "no room") for row in [*rows, record(4)]}
        here.plane.put.clear()
        if by == "a put":
            here.controller.put(record(5))
        else:
            here.controller.put(deletes=(record(3).key,))
        await until(lambda: {key for key, _ in [*troubles.items()]} >= here.plane.aside.keys())
        await until(lambda: here.controller.ports[WEB] == PortReport("failed", "no room"))
        await until(lambda: all(row in here.plane.put for row in [*rows, record(4)]), "tried again")
        here.plane.aside.clear()
        here.plane.failing.clear()
        await until(lambda: here.programmed() and not troubles)
        await until(lambda: here.controller.ports[WEB] == PortReport("active"))
        assert here.plane.deleted == ([] if by == "a put" else [record(3).key])


async def test_what_failed_without_having_been_asked_for_is_forgotten_with_its_row(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    here = await scene()
    async with here.controller.serving(), here.agent() as agent:
        here.controller.put(record(2), record(3))
        await until(here.programmed)
        here.plane.aside = {record(2).key: Failure(record(2).key, "no room")}
        here.controller.put(record(5))
        await until(lambda: record(2).key in agent.reconciler.progress.troubles)
        here.plane.aside.clear()
        here.controller.put(deletes=(record(2).key,))
        await until(lambda: here.programmed() and not agent.reconciler.progress.troubles)
        here.plane.put.clear()
        here.controller.put(record(6))
        await until(lambda: record(6) in here.plane.put and here.programmed())
        assert record(2) not in here.plane.put


async def test_a_stop_leaves_the_data_plane_as_it_is(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    async with here.controller.serving():
        async with here.agent():
            here.controller.put(record(2), port(WEB, 2))
            await here.ask("POST", "/attach", {"port": WEB, "interface": "eth7"})
            await until(here.programmed)
        assert here.programmed()
        assert here.plane.bindings == {WEB: "eth7"}
        assert not here.socket.exists()


async def test_the_socket_is_for_its_owner_and_one_agent_only(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    async with here.agent():
        assert stat.S_IMODE(here.socket.stat().st_mode) == 0o600
        async with client_of(here.controller.socket) as client:
            other = Agent(HOST, Watched(), client, here.state, here.links, MonotonicClock(), Random(2))  # noqa: S311
            with pytest.raises(Conflict, match="another agent serves"):
                await live(other, here.socket, asyncio.Event())
        assert (await here.ask("GET", "/healthz"))[0] == 200


async def test_a_socket_left_by_a_killed_agent_is_no_obstacle(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    async with here.agent():
        here.socket.rename(here.socket.with_suffix(".kept"))
    here.socket.with_suffix(".kept").rename(here.socket)
    async with here.agent() as agent:
        await until(lambda: agent.connection.reason != "not tried yet")
        assert (await here.ask("GET", "/healthz"))[0] == 200


def test_two_agents_of_one_state_directory_refuse_each_other(tmp_path: Path) -> None:
    with (
        locked(tmp_path, HOST),
        pytest.raises(Conflict, match="is in use by the agent of hosts/h1, process"),
        locked(tmp_path, HOST),
    ):
        pass
    with locked(tmp_path, HOST):
        pass


async def test_attachments_that_cannot_be_read_end_the_start(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    (here.state / "bindings.json").write_text("{")
    with pytest.raises(Rejected, match="is not JSON"):
        async with here.agent():
            pass
    assert here.plane.told == []


async def test_metrics_and_counters_are_served(scene: Callable[[], Awaitable[Scene]]) -> None:
    here = await scene()
    async with here.controller.serving(), here.agent():
        here.controller.put(record(2), port(WEB, 2))
        await here.ask("POST", "/attach", {"port": WEB, "interface": "eth7"})
        await until(here.programmed)
        here.plane.from_port("eth7", b"short")
        here.plane.lookups.learned.learn(5001, bytes.fromhex("029900000001"), "eth0", 0, "tenants/blue")
        assert await here.ask("GET", "/heard") == (
            200,
            {
                "learned": [{"vsid": 5001, "mac": "02:99:00:00:00:01", "interface": "eth0", "age_s": 0.0}],
                "refused": 0,
            },
        )
        rule = SecurityRule(7, "tenants/blue/security-groups/web/rules/out", Direction.EGRESS, 4)
        here.controller.put(SecurityGroup(9, "tenants/blue/security-groups/web", rules=(rule,)))
        await until(lambda: here.plane.hits() == {rule.name: 0})
        here.plane.lookups.hits[7] += 3
        here.plane.lookups.tracker.expected[Expected.OTHER_ADDRESS] += 2
        assert await here.ask("GET", "/rules") == (200, {rule.name: 3})
        here.plane.lookups.denials.update({(WEB, 7): 2, (WEB, 0): 1})
        assert await here.ask("GET", "/denials") == (200, {WEB: {"": 1, rule.name: 2}})
        status, counters = await here.ask("GET", "/counters")
        assert status == 200
        assert {key: value for key, value in counters[WEB].items() if not key.startswith("sent")} == {
            "received_packets": 1, "received_bytes": 5, "drops": {"truncated": 1},
        }  # fmt: skip
        async with httpx2.AsyncClient(
            transport=over(here.socket), verify=False, base_url="http://agent", trust_env=False
        ) as http:
            text = (await http.get("/metrics")).text
        assert f'weft_port_drops_total{{port="{WEB}",reason="truncated"}} 1.0' in text
        assert f"weft_agent_applied_revision {float(here.controller.revision)}" in text
        assert 'weft_dataplane_rows{table="records"} 1.0' in text
        assert f'weft_security_rule_hits_total{{rule="{rule.name}"}} 3.0' in text
        assert 'weft_ftp_expectations_total{outcome="other_address"} 2.0' in text
        assert f'weft_security_denials_total{{port="{WEB}",rule="{rule.name}"}} 2.0' in text
        assert f'weft_security_denials_total{{port="{WEB}",rule="none"}} 1.0' in text
        assert "weft_security_unidentified_records 0.0" in text


def gratuitous_arp(number: int, address: int) -> bytes:
    """Of a guest by its MAC, for 10.0.0.<address>."""
    mac, ip = bytes((2, 0, 0, 0, 0, number)), bytes((10, 0, 0, address))
    return b"\xff" * 6 + mac + bytes.fromhex("08060001080006040001") + mac + ip + bytes(6) + ip


async def test_what_a_guest_announces_reaches_the_controller_also_when_it_comes_back_later(
    scene: Callable[[], Awaitable[Scene]],
) -> None:
    it = await scene()
    it.controller.put(port(WEB, 5, pairs=(Pair("02:00:00:00:00:05", "10.0.0.48/28"),)))
    async with it.agent() as agent:
        async with it.controller.serving():
            await agent.attach(WEB, "eth7")
            await until(lambda: it.controller.ports.get(WEB) == PortReport("active"))
            it.plane.from_guest("eth7", gratuitous_arp(5, 50))
            await until(lambda: it.controller.announced)
            it.plane.from_guest("eth7", gratuitous_arp(5, 77))  # no pair has it
        await until(lambda: not agent.connection.connected)
        it.plane.from_guest("eth7", gratuitous_arp(5, 51))
        async with it.controller.serving():
            await until(lambda: len(it.controller.announced) == 2)
    assert it.controller.announced == [Announced(WEB, "02:00:00:00:00:05", f"10.0.0.{last}") for last in (50, 51)]

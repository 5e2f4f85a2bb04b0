"""The agent: joins the feed, the interfaces, the data plane, the reports and the local socket. Decides little itself.

It knows no controller but a URL's worth of one, and needs none to serve: what it was last told is on its disk. It can
be killed at any moment; whatever was under way is done again, or was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Protocol

import msgspec
import structlog

from weft.agent import announce, answers, conntrack, cuts, dhcp, handover, report, snooping
from weft.agent.bindings import Attachments, Found, Plan, plan
from weft.agent.cache import Cache, Compaction, Loaded
from weft.agent.exchange import Exchange
from weft.agent.exporter import Exporter
from weft.agent.interest import Interest
from weft.agent.links import Links
from weft.agent.memory import Memory
from weft.agent.paths import Paths
from weft.agent.probes import Prober
from weft.agent.queues import Queues
from weft.agent.reconcile import Bind, Lead, Prune, Reconciler, Start
from weft.agent.rule_log import RuleLog
from weft.agent.upcalls import Upcalls
from weft.client.client import ApiError
from weft.contracts.clock import Clock
from weft.contracts.dataplane import DataPlane, Handed, Way
from weft.feed.log import Gone
from weft.feed.reflector import Asked, Batch, Connected, Lost, Piece, Reflector, Tables, follow
from weft.kit.errors import Retry
from weft.policy.rows import Host, Key, MacRecord, Member, Peer, Port, Row, SecurityGroup, Subnet
from weft.wire.api import FailureReport, PortReport, StatusReport
from weft.wire.listed import MOST_LISTED

_log = structlog.get_logger("weft.agent")

#: Between two full reports with no other occasion for one.
REPEAT_S = 30.0

#: Between two looks at what was dropped, for the controller to be told of.
DROPS_S = 10.0

#: Between two looks whether the data plane has taken the ways that it was told.
WAYS_AGAIN_S = 2.0

#: A load of fewer rows is not worth a word with the garbage collector.
_BULK_ROWS = 10_000


class Controller(report.Controller, announce.Controller, answers.Controller, handover.Controller, Protocol):
    """The controller, as far as an agent knows it."""

    @property
    def url(self) -> str: ...

    def feed(self, host: str, revision: int | None = None, history: str = "") -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Connection:
    """Whether the feed is open, and why not."""

    connected: bool
    reason: str = ""


class Agent:
    """One host's agent. ``run`` is its whole life."""

    def __init__(
        self,
        host: str,
        plane: DataPlane,
        controller: Controller,
        state: Path,
        links: Links,
        clock: Clock,
        random: Random,
        paths: Paths | None = None,
        interest: Interest | None = None,
    ) -> None:
        """paths: None: nobody looks for ways to other hosts, and each is reached by its first PA; interest: None, or no
        paths: nobody asks them which multicast groups they want, and each is sent all.
        """
        self.host = host
        self.controller = controller
        self.links = links
        #: When the certificate that is shown to the controller ends.
        self.certificate_ends: Callable[[], datetime | None] = lambda: None
        self.connection = Connection(False, "not tried yet")
        self.plan = Plan()
        self.attachments = Attachments(state / "bindings.json")
        # Before anybody can attach anything. Raises Rejected for a file that it cannot go on from.
        self.attachments.load()
        self._found = Found(state / "found.json")
        self._found.load()
        self._cache = Cache(state / "policy.ndjson", clock)
        self._clock = clock
        self._random = random
        self._reflector = Reflector(host=host)
        self._ports: dict[str, Port] = {}
        self._uplinks: frozenset[str] = frozenset()
        self._host_row: Host | None = None
        self._peers: dict[Key, Peer] = {}
        self._security_groups: dict[Key, SecurityGroup] = {}
        self._drops: dict[str, int] = {}  # as last counted
        self._pas_missing: Mapping[str, str] = {}  # why each matters
        self._elsewhere = False  # who is where in the underlay has changed, and the prober was not told yet
        self._loaded = asyncio.Event()
        self._known = False  # policy was read, from the disk or the controller: what is not in it need not be bound
        self._bound: tuple[Mapping[str, str], Mapping[str, int]] | None = None
        self._reached: Mapping[str, int] = {}  # sub-ports among them
        self._reporter = report.Reporter(host, controller, clock, self._to_report)
        self.reconciler = Reconciler(plane, self._cache, clock, self._reporter.changed, self._desired)
        self.responder = dhcp.Responder(self.reconciler.ask, clock, random)
        self.snooper = snooping.Snooper(self.reconciler.ask, clock, self._tell_groups)
        self.announcer = announce.Announcer(host, controller, clock)
        self._upcalls = Upcalls(
            plane.upcall_fd,
            lambda: self.reconciler.ask(lambda plane: plane.upcalls()),
            self.announcer.heard,
            self._take_handed,
            self.snooper.routed,
        )
        self.exporter = Exporter(plane.sample_fd, self.reconciler.ask, clock, _now_ms)
        self.rule_log = RuleLog(state / "rules.log", clock, _now_ms, conntrack.PROTOCOLS)
        self.conntrack = conntrack.Conntrack(plane.connection_fd, self.reconciler.ask, clock, self.rule_log)
        left: Memory[list[str]] = Memory(state / "left.json", [])
        self._giver = handover.Giver(host, self.reconciler.ask, self.conntrack, clock, left)
        self.conntrack.keep = self._giver.lingering
        coming = Memory(state / "coming.json", handover.Coming())
        self._taker = handover.Taker(host, controller, self.reconciler.ask, clock, coming)
        self._taker.changed = self._reporter.changed
        self._queues = Queues(self.reconciler.ask, clock)
        self._cuts = cuts.Cuts(host, self.reconciler.ask, lambda: self._reflector.tables, clock)
        self._answerer = answers.Answerer(
            host,
            controller,
            {"connections": self._giver.answer, "cuts": self._cuts.answer, "list": self._list},
            clock,
        )
        self.prober = Prober(paths, clock, self._lead) if paths else None
        self.exchange: Exchange | None = None
        if self.prober is not None and interest is not None:
            self.exchange = Exchange(interest, self.prober, self.reconciler.ask, clock)

    async def loaded(self) -> None:
        """Returns when what was on the disk is known."""
        await self._loaded.wait()

    async def settled(self) -> None:
        """Returns when what was on the disk is programmed, or cannot be."""
        await self._loaded.wait()
        await self.reconciler.settled()

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            await self._load()
            self._loaded.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.reconciler.run(), name="reconcile")
                tasks.create_task(self._reporter.run(), name="report")
                tasks.create_task(self._repeat_reports(), name="repeat")
                tasks.create_task(self._count_drops(), name="drops")
                tasks.create_task(self._follow_links(), name="links")
                tasks.create_task(self._follow_feed(), name="feed")
                tasks.create_task(self._upcalls.run(), name="upcalls")
                tasks.create_task(self.announcer.run(), name="announce")
                tasks.create_task(self.responder.run(), name="dhcp")
                tasks.create_task(self.exporter.run(), name="export")
                tasks.create_task(self.snooper.run(), name="snooping")
                tasks.create_task(self.conntrack.run(), name="conntrack")
                tasks.create_task(self._queues.run(), name="queues")
                if self.prober is not None:
                    tasks.create_task(self.prober.run(), name="probe")
                    tasks.create_task(self._repeat_ways(self.prober), name="repeat ways")
                if self.exchange is not None:
                    tasks.create_task(self.exchange.run(), name="exchange")
        finally:
            gc.enable()
            await self._answerer.stop()
            await self._taker.stop()
            self._giver.stop()
            await self.reconciler.stop()
            self._cache.close()

    # -- what others ask --

    @property
    def uplinks(self) -> frozenset[str]:
        return self._uplinks

    @property
    def ports(self) -> Mapping[str, Port]:
        return self._ports

    @property
    def known(self) -> frozenset[str]:
        """Names of the ports that this host has, and of those that it was told the interface of."""
        return frozenset((*self._ports, *self.attachments.interfaces, *self.plan.found))

    @property
    def rules(self) -> Mapping[int, str]:
        """Names of the rules of security groups that this host knows, by their numbers."""
        return {rule.number: rule.name for group in self._security_groups.values() for rule in group.rules}

    def status(self) -> StatusReport | None:
        """The whole of it; None while no policy has been applied."""
        progress = self.reconciler.progress
        if progress.revision is None:
            return None
        return StatusReport(
            revision=progress.revision,
            ports={name: self.state_of(port) for name, port in self._ports.items()},
            failures=self.failures(),
            drops=self._drops,
            complete=True,
        )

    def failures(self) -> list[FailureReport]:
        return report.failures(self.reconciler.progress, self.host, self._pas_missing)

    @property
    def pas_missing(self) -> Mapping[str, str]:
        """The PAs that this host should have and has not, and why each matters."""
        return self._pas_missing

    def state_of(self, port: Port) -> PortReport:
        """One port, as it is here."""
        found = report.state_of(
            port, self.reconciler.progress, self.plan, self.attachments.interfaces, self.links.by_name()
        )
        if found.state != "active":
            return found
        if waits := self._taker.why_waiting(port.port):
            return PortReport("down", waits)
        return PortReport("active", self._taker.note(port.port))

    async def _list(self, body: bytes) -> bytes:
        """The controller asks for the connections of one port. Raises Rejected."""
        found, total = await self.conntrack.count(conntrack.asked(body), MOST_LISTED)
        return msgspec.json.encode(
            {"connections": [conntrack.shown(each, self.rules) for each in found], "total": total}
        )

    def _to_report(self) -> StatusReport | None:
        # With no feed there is nobody to tell; whoever comes back is told everything.
        return self.status() if self.connection.connected else None

    @property
    def cache_fault(self) -> str:
        return self._cache.fault

    async def attach(self, port: str, interface: str) -> None:
        """From now on the port is behind the interface. Returns when the data plane was told."""
        current = {name: of for name, of in self.plan.bindings.items() if name in self._ports}
        self.attachments.attach(port, interface, current, self.links.by_name(), self._uplinks)
        await self._attachments_changed()

    async def detach(self, port: str) -> None:
        self.attachments.detach(port)
        await self._attachments_changed()

    async def _attachments_changed(self) -> None:
        self._bind()
        await self.reconciler.settled()
        self._reporter.changed()

    async def _repeat_reports(self) -> None:
        """A port that goes and comes back between two bookmarks is no news here, and forgotten by the controller."""
        while True:
            await self._clock.sleep(REPEAT_S)
            self._reporter.forgotten()

    async def _count_drops(self) -> None:
        while True:
            self._drops = report.drops(await self.reconciler.ask(lambda plane: dict(plane.counters())))
            self._reporter.changed()
            await self._clock.sleep(DROPS_S)

    def _lead(self, ways: Mapping[str, Sequence[Way]]) -> None:
        self.reconciler.submit(Lead(ways))
        if self.prober is not None:
            self.responder.path_mtu(self.prober.paths.smallest_bytes())

    async def _repeat_ways(self, prober: Prober) -> None:
        while True:
            await self._clock.sleep(WAYS_AGAIN_S)
            if self.reconciler.progress.ways_due:
                self.reconciler.progress.ways_due = False
                prober.repeat()

    # -- policy --

    def _desired(self, key: Key) -> Row | None:
        return self._reflector.tables.get(key)

    async def _load(self) -> None:
        with _bulk_load():
            loaded: Loaded = await self.reconciler.on_worker(self._cache.load)
        if loaded.torn_bytes:
            _log.warning("the cache's end was torn and is cut off", bytes=loaded.torn_bytes)
        if loaded.revision is None:
            _log.info("no policy on disk yet")
            self._bind()
            return
        _log.info("policy read from disk", revision=loaded.revision, rows=len(loaded.tables))
        self._reflector = Reflector(loaded.tables, loaded.revision, self.host, loaded.history)
        self._known = True
        rows = tuple(loaded.tables.rows())
        self._learn_all(loaded.tables)
        self.reconciler.submit(Start(loaded.revision, rows))
        self._probe()
        self._bind()
        self._hand_over(anew=False)
        self._compact(loaded.revision)

    async def _follow_feed(self) -> None:
        async for event in follow(self._reflector, self._connect, self._clock, self._random):
            match event:
                case Connected():
                    self.connection = Connection(True)
                    _log.info("connected", controller=self.controller.url, resumes_from=self._reflector.revision)
                    self.reconciler.submit(event)
                    self._reporter.forgotten()
                    self.announcer.connected()
                case Lost(reason):
                    gc.enable()
                    if self.connection != Connection(False, reason):
                        _log.warning("no feed", controller=self.controller.url, reason=reason)
                    self.connection = Connection(False, reason)
                case Piece(puts):
                    gc.disable()  # as in _bulk_load; until the next bookmark, or the connection's end
                    self._learn(puts, ())
                    self.reconciler.submit(event)
                case Batch():
                    self._take(event)
                case Asked():
                    self._answerer.asked(event)
            await self.reconciler.room()

    def _take(self, batch: Batch) -> None:
        tables = self._reflector.tables
        self.reconciler.submit(batch)
        self._learn(batch.delta.puts, batch.delta.deletes)
        if batch.synced:
            self._known = True
            self._learn_all(tables)
        self._probe()
        progress = self.reconciler.progress
        if batch.synced or progress.prune_due:
            progress.prune_due = False
            self.reconciler.submit(Prune(frozenset(tables.keys())))
        if batch.full:
            gc.enable()
            if len(tables) > _BULK_ROWS:
                gc.freeze()
        self._bind()
        self._hand_over(anew=True)
        self._compact(batch.revision)

    def _hand_over(self, *, anew: bool) -> None:
        self._giver.follow(self._ports.values())
        self._taker.follow(self._ports, anew=anew)
        self._queues.follow(self._ports)

    def _compact(self, revision: int) -> None:
        # At a bookmark, and only there, the tables are of one revision.
        if self._cache.wants_compaction:
            self.reconciler.submit(Compaction.of(self._reflector.tables, revision, self._reflector.history))

    async def _connect(self, revision: int | None) -> AsyncGenerator[bytes, None]:
        stream = self.controller.feed(self.host, revision, self._reflector.history)
        try:
            async for chunk in stream:
                yield chunk
        except ApiError as fault:
            if fault.status == 410:
                raise Gone(str(fault)) from fault
            raise Retry(f"the controller refuses the feed of {self.host}: {fault}") from fault
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    # -- what guests ask --

    def _take_handed(self, handed: Iterable[Handed]) -> None:
        handed = list(handed)
        self.responder.heard(handed)
        self.snooper.heard(handed)

    def _tell_groups(self, groups: Mapping[int, frozenset[str] | None]) -> None:
        if self.exchange is not None:
            self.exchange.interest.listening(groups, self._clock.now_s())
            self.exchange.changed()

    # -- ports and interfaces --

    def _learn(self, puts: Iterable[Row], deletes: Collection[Key]) -> None:
        told: list[Row] = []  # what guests are told follows from these
        others: list[Row] = []  # and from these, whom else their multicast is for
        for row in puts:
            if isinstance(row, Port | Subnet | Host):
                told.append(row)
            elif isinstance(row, Member | Peer) or (type(row) is MacRecord and self.snooper.moves(row)):
                others.append(row)
            if type(row) is Port:
                self._ports[row.port] = row
            elif type(row) is Host:
                self._uplinks = frozenset(uplink.interface for uplink in row.uplinks)
                self._host_row, self._elsewhere = row, True
                self._look_at_addresses()
                self.exporter.follow(row)
            elif type(row) is Peer:
                self._peers[row.key] = row
                self._elsewhere = True
            elif type(row) is SecurityGroup:
                self._security_groups[row.key] = row
        for key in deletes:
            if key[0] == "ports":
                self._ports.pop(str(key[1]), None)
            elif key[0] == "peers":
                self._peers.pop(key, None)
                self._elsewhere = True
            elif key[0] == "security_groups":
                self._security_groups.pop(key, None)
        self.responder.learn(told, deletes)
        self.snooper.learn((*told, *others), deletes)
        if self.exchange is not None:
            self.exchange.interest.learn((*told, *others), deletes)
            self.exchange.changed()

    def _learn_all(self, tables: Tables) -> None:
        self._ports = {}
        self.responder.forget()
        self.snooper.forget()
        if self.exchange is not None:
            self.exchange.interest.forget()
        self._peers, self._security_groups = {}, {}
        self._elsewhere = True
        self._learn(tables.rows(), ())

    def _bind(self) -> None:
        """Work out who is bound to what, and tell the data plane when it is something else than before."""
        links = self.links.by_name()
        former = self.plan
        subports = {name: port.parent for name, port in self._ports.items() if port.parent is not None}
        said = {name: of for name, of in self.attachments.interfaces.items() if name not in subports}
        own = self._ports.keys() - subports.keys()
        self.plan = plan(own, said, links, self._uplinks, self._found.interfaces)
        for interface, ports in self.plan.ambiguous.items():
            if interface not in former.ambiguous:
                _log.warning("an interface may be of several ports; attach one", interface=interface, ports=ports)
        if not self._known and not self.attachments.interfaces:
            # Nothing is known of this host: to bind nothing would let go of what a former agent has bound.
            return
        # An interface that is made anew under its old name has another index, and is bound anew.
        indexes = {interface: links[interface].index for interface in self.plan.bindings.values()}
        if self._bound != (self.plan.bindings, indexes):
            self._bound = (self.plan.bindings, indexes)
            try:
                self._found.keep(self.plan.found)
            except OSError as fault:
                _log.warning("what was found by name is not on disk", reason=str(fault))
            self.reconciler.submit(Bind(self.plan.bindings))
        # Sub-ports come and go without a new binding.
        reached = {port: indexes[interface] for port, interface in self.plan.bindings.items()}
        reached |= {name: reached[of] for name, of in subports.items() if of in reached}
        if self._reached != reached:
            self._reached = reached
            self.responder.bound(reached)
            self.snooper.bound(reached)

    def _probe(self) -> None:
        """Behind the rows that it follows from: the data plane is told of ways to those that it knows."""
        if self._elsewhere and self.prober is not None:
            self._elsewhere = False
            self.prober.follow(self._host_row, self._peers.values())
            self._look_at_uplinks()

    def _look_at_addresses(self) -> None:
        former, self._pas_missing = self._pas_missing, report.pas_missing(self._host_row, self.links.addresses())
        for pa in self._pas_missing.keys() - former.keys():
            _log.warning("a PA is no address of this host", pa=pa, reason=self._pas_missing[pa])
        for pa in former.keys() - self._pas_missing.keys():
            _log.info("a PA is missing no more", pa=pa)

    def _look_at_uplinks(self) -> None:
        if self.prober is not None:
            links = self.links.by_name()
            self.prober.links({name for name in self._uplinks if name not in links or not links[name].up})

    async def _follow_links(self) -> None:
        while True:
            await self.links.changed()
            self._look_at_uplinks()
            self._look_at_addresses()
            self._bind()
            self._reporter.changed()


def _now_ms() -> int:
    """The time of day, for what leaves the host with a date on it."""
    return time.time_ns() // 1_000_000


@contextlib.contextmanager
def _bulk_load() -> Iterator[None]:
    """No garbage collection while a table is read, and none of it ever after.

    Rows and keys hold no cycles, and there may be millions: to look through them for garbage, again and again as they
    grow, costs as much as reading them (a million rows: 2.6 s with, 1.4 s without).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

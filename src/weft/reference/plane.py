"""A data plane in plain Python: the oracle for every other, and what a trace runs through. Does no input or output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from weft.contracts.connections import Carried, Connection, ConnectionEvent, Logged, Mark
from weft.contracts.dataplane import (
    NO_RULE,
    Announcement,
    Failure,
    Feature,
    Handed,
    Heard,
    Learned,
    Routing,
    Samples,
    Traffic,
    Upcall,
    Wanted,
    Way,
)
from weft.kit.errors import Missing, Rejected
from weft.policy.connections import Expected, State
from weft.policy.drop import DropReason
from weft.policy.rows import ORDER, TABLES, Key, Port, Row
from weft.policy.upcall import UpcallKind
from weft.reference import bridge, carrying, conntrack, packet, pipeline, trunk
from weft.reference.lookups import Lookups, Wire
from weft.reference.verdict import (
    Announced,
    Announcing,
    Answer,
    Copies,
    Delivery,
    Drop,
    Result,
    ToAgent,
    ToPort,
    ToStack,
    ToUnderlay,
    ToWire,
    Verdict,
)

__all__ = ["UNBOUND", "Answer", "Drop", "ReferenceDataPlane", "Result", "ToPort", "ToStack", "ToUnderlay", "Verdict"]

#: Whose counters a frame is under that came in by an interface without a binding.
UNBOUND = "unbound"
UNLIMITED = 2**63 - 1


def _upcall(port: str, verdict: Verdict) -> Iterator[Upcall]:
    match verdict:
        case Announcing(announced=Announced(mac, address, UpcallKind.PIM)):
            yield Routing(port, packet.mac_text(mac), packet.address_text(address))
        case Drop(announced=Announced(mac, address)) | Announcing(announced=Announced(mac, address)):
            yield Announcement(port, packet.mac_text(mac), packet.address_text(address))
        case ToAgent(kind, frame):
            yield Handed(port, kind, frame)
        case _:
            pass


def _shown(key: conntrack.Key, of: conntrack.Connection, now_ns: int) -> Connection:
    return Connection(
        repr(key).encode(), key.port, key.protocol, packet.address_text(key.local), packet.address_text(key.remote),
        key.local_port, key.remote_port, of.state, of.opener == 0, of.rule, of.refused, (of.packets[0], of.packets[1]),
        (of.bytes[0], of.bytes[1]), (now_ns - of.began_ns) / 1e9, (of.expires_ns - now_ns) / 1e9,
    )  # fmt: skip


def _awaited(key: conntrack.Key, of: conntrack.Expectation, now_ns: int) -> Connection:
    return Connection(
        repr(key).encode(), key.port, key.protocol, packet.address_text(key.local), packet.address_text(key.remote),
        key.local_port, key.remote_port, State.EXPECTED, of.opener == 0, of.rule, False, (0, 0), (0, 0),
        (now_ns - of.began_ns) / 1e9, (of.expires_ns - now_ns) / 1e9,
    )  # fmt: skip


def uplink_counters(interface: str) -> str:
    return f"uplink:{interface}"


def _always(_pa: str) -> bool:
    return True


@dataclass(slots=True)
class _Count:
    """The counters of one interface."""

    received_packets: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    sent_bytes: int = 0
    drops: dict[DropReason, int] = field(default_factory=dict)

    def received(self, frame: bytes) -> None:
        self.received_packets += 1
        self.received_bytes += len(frame)

    def sent(self, frame_bytes: int) -> None:
        self.sent_packets += 1
        self.sent_bytes += frame_bytes

    def dropped(self, reason: DropReason) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def traffic(self) -> Traffic:
        return Traffic(self.received_packets, self.received_bytes, self.sent_packets, self.sent_bytes, dict(self.drops))


class ReferenceDataPlane:
    """The DataPlane contract in memory; interfaces are names.

    Never asks a kernel: ``reachable`` says whether there is a route to a PA, and what is encapsulated counts as sent by
    the host's first uplink. ``sizes``: capacity by table, unlimited when absent.
    """

    def __init__(
        self, host: str, reachable: Callable[[str], bool] = _always, sizes: Mapping[str, int] | None = None
    ) -> None:
        self.host = host
        self._reachable = reachable
        self._sizes = dict(sizes or {})
        self._lookups = Lookups(host)
        self._by_interface: dict[str, str] = {}  # interface -> port name
        self._counts: dict[str, _Count] = {UNBOUND: _Count()}
        self._subports: dict[str, tuple[str | None, int]] = {}  # those that have counters, and where they are
        self._upcalls: list[Upcall] = []
        self.sent: list[tuple[str, bytes]] = []  #: what the agent has sent to guests: (port, frame)

    # The contract

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset(Feature)

    def update(self, rows: Iterable[Row]) -> list[Failure]:
        self._lookups.tracker.epoch += 1
        failures = []
        for row in rows:
            try:
                self._put(row)
            except Rejected as rejected:
                failures.append(Failure(row.key, rejected.message, permanent=True))
        self._renew_uplinks()
        return failures

    def _put(self, row: Row) -> None:
        table = row.key[0]
        if row.key not in self._lookups.rows and self._used(table) >= self._capacity(table):
            raise Rejected(f"table {table} is full: {self._capacity(table)} entries")
        if isinstance(row, Port):
            former = self._lookups.rows.get(row.key)
            same = isinstance(former, Port) and (former.vsid, former.mac) == (row.vsid, row.mac)
            if not same and not row.arriving:
                self._lookups.tracker.forget(row.port)  # what a former port of its name had is none of its own
        self._lookups.put(row)

    def delete(self, keys: Iterable[Key]) -> list[Failure]:
        self._lookups.tracker.epoch += 1
        failures = []
        for key in keys:
            if key[0] in TABLES:
                self._lookups.remove(key)
            else:
                failures.append(Failure(key, f"there is no table {key[0]!r}", permanent=True))
        self._renew_uplinks()
        return failures

    def prune(self, desired: Collection[Key]) -> list[Failure]:
        keep = frozenset(desired)
        excess = [key for key in self._lookups.rows if key not in keep]
        return self.delete(sorted(excess, key=lambda key: ORDER[key[0]], reverse=True))

    def read(self) -> Iterator[Row]:
        return iter(tuple(self._lookups.bound_rows()))

    def bind(self, bindings: Mapping[str, str]) -> list[Failure]:
        failures: list[Failure] = []
        by_interface: dict[str, str] = {}
        for port, interface in bindings.items():
            if interface in self._lookups.host.uplinks:
                failures.append(Failure(("ports", port), f"{interface} is an uplink", permanent=True))
            elif interface in by_interface:
                reason = f"{interface} is that of {by_interface[interface]}"
                failures.append(Failure(("ports", port), reason, permanent=True))
            else:
                by_interface[interface] = port
        for port in list(self._counts):
            interface_before = self._lookups.interface_of(port)
            holder = self._by_interface.get(interface_before) if interface_before is not None else None
            if interface_before is not None and by_interface.get(interface_before) != holder:
                del self._counts[port]
        for port in by_interface.values():
            self._counts.setdefault(port, _Count())
        self._by_interface = by_interface
        self._lookups.bind({port: interface for interface, port in by_interface.items()})
        self._renew_subports()
        return failures

    def paths(self, ways: Mapping[str, Sequence[Way]]) -> list[Failure]:
        failures = []
        for pa, some in ways.items():
            try:
                self._lookups.lead(pa, [(way.source, way.destination, way.mtu_bytes) for way in some])
            except Rejected as rejected:
                failures.append(Failure(("peers", "", pa), rejected.message, permanent=True))
        return failures

    def listen(self, listeners: Mapping[str, Collection[str]]) -> list[Failure]:
        self._lookups.listeners = {
            port: frozenset(map(packet.address_bytes, groups))
            for port, groups in listeners.items()
            if self._lookups.interface_of(port) is not None
        }
        return []

    def listening(self) -> Mapping[str, Collection[str]]:
        return {
            port: frozenset(map(packet.address_text, groups))
            for port, groups in self._lookups.listeners.items()
            if groups
        }

    def heed(self, wanted: Mapping[tuple[int, str], Wanted | None]) -> list[Failure]:
        for (vsid, pa), said in wanted.items():
            at = vsid, packet.address_bytes(pa)
            self._lookups.wanted.pop(at, None)
            if said is not None:
                until_ns = self._lookups.now_ns + int(said.for_s * 1e9)
                self._lookups.wanted[at] = frozenset(map(packet.address_bytes, said.groups)), until_ns
        return []

    def repair(self) -> int:
        return 0  # what was told is what is programmed

    def counters(self) -> Mapping[str, Traffic]:
        return {name: count.traffic() for name, count in self._counts.items()}

    def usage(self) -> Mapping[str, tuple[int, int]]:
        return {table: (self._used(table), self._capacity(table)) for table in TABLES}

    @property
    def upcall_fd(self) -> int | None:
        return None

    def upcalls(self) -> list[Upcall]:
        found, self._upcalls = self._upcalls, []
        return found

    @property
    def sample_fd(self) -> int | None:
        return None

    def samples(self) -> Samples:
        """None: what is sampled is left to chance, and nothing is in here."""
        return Samples()

    def heard(self) -> Heard:
        learned = self._lookups.learned
        found = (
            Learned(vsid, packet.mac_text(mac), interface, age_ns / 1e9)
            for vsid, mac, interface, age_ns in learned.entries(self._lookups.now_ns)
        )
        return Heard(tuple(sorted(found, key=lambda each: (each.vsid, each.mac))), learned.refused)

    def hits(self) -> Mapping[str, int]:
        counted = self._lookups.hits
        rules = (rule.row for group in self._lookups.security_groups.values() for rule in group.rules)
        return {rule.name: counted[rule.number] for rule in rules}

    def denials(self) -> Mapping[str, Mapping[str, int]]:
        rules = {rule.row.number: rule.row.name for of in self._lookups.security_groups.values() for rule in of.rules}
        rules[0] = NO_RULE
        found: dict[str, dict[str, int]] = {}
        for (port, rule), count in self._lookups.denials.items():
            if rule in rules and self._lookups.interface_of(port):
                found.setdefault(port, {})[rules[rule]] = count
        return found

    def unidentified(self) -> int:
        """None: there is always room."""
        return 0

    def send(self, port: str, frame: bytes) -> None:
        if self._lookups.interface_of(port) is None:
            raise Missing(f"{port} is not bound to an interface here")
        self._counts[port].sent(len(frame))
        self.sent.append((port, frame))

    def freshen(self, arriving: Collection[str]) -> None:
        """Guests that are there take what comes; there is no queue."""

    def connections(self) -> Iterator[Connection]:
        now_ns = self._lookups.now_ns
        tracker = self._lookups.tracker
        yield from (_shown(key, of, now_ns) for key, of in list(tracker.connections().items()))
        yield from (_awaited(key, of, now_ns) for key, of in list(tracker.expectations.items()))

    def expected(self) -> Mapping[Expected, int]:
        return {what: self._lookups.tracker.expected[what] for what in Expected}

    def carried(self, port: str, connections: Collection[bytes] | None = None) -> Iterator[tuple[bytes, Carried]]:
        now_ns = self._lookups.now_ns
        for key, of in list(self._lookups.tracker.connections().items()):
            name = repr(key).encode()
            if key.port == port and now_ns < of.expires_ns and (connections is None or name in connections):
                yield name, carrying.carried(key, of, now_ns, self._lookups.tracker.awaited_by(key))

    def marks(self, ports: Collection[str]) -> Iterator[tuple[str, bytes, Mark]]:
        for port in ports:
            yield from ((port, key, of.mark) for key, of in self.carried(port))

    def take(self, port: str, connections: Iterable[Carried]) -> int:
        tracker = self._lookups.tracker
        now_ns, limits = self._lookups.now_ns, tracker.limits
        taken = [carrying.taken(port, of, now_ns, limits.timeouts_s, limits.ftp_port) for of in connections]
        awaited = [spoken_of for *_, spoken_of in taken if spoken_of is not None]
        return tracker.take({key: found for key, found, _ in taken}, awaited)

    def forget(self, connections: Collection[bytes]) -> int:
        tracker = self._lookups.tracker
        every = (*tracker.connections(), *tracker.expectations)
        found = [key for key in every if repr(key).encode() in connections]
        tracker.flush(found)
        return len(found)

    def sweep(self, keep: Collection[str] = ()) -> int:  # noqa: ARG002 -- those of ports that are gone stay here
        tracker = self._lookups.tracker
        before = len(tracker.connections()) + len(tracker.expectations)
        tracker.sweep(self._lookups.now_ns)
        return before - len(tracker.connections()) - len(tracker.expectations)

    def watch(self, *, on: bool) -> None:
        """It always listens: there is no cost to that."""

    @property
    def connection_fd(self) -> int | None:
        return None

    def connection_events(self) -> list[ConnectionEvent | Logged]:
        tracker = self._lookups.tracker
        events, tracker.events[:] = list(tracker.events), []
        return [ConnectionEvent(what, _shown(key, of, self._lookups.now_ns)) for what, key, of in events]

    def close(self) -> None:
        """There is nothing to let go of."""

    def remove(self) -> None:
        self._lookups = Lookups(self.host)
        self._by_interface = {}
        self._counts = {UNBOUND: _Count()}

    # Packets

    def from_port(self, interface: str, frame: bytes, now_ns: int = 0) -> Result:
        """What becomes of a frame that a guest sends by the interface. now_ns: at 0 every bucket is full."""
        self._lookups.now_ns = now_ns
        name = self._by_interface.get(interface)
        steps: list[str] = []
        if name is not None and (sub := self._lookups.subport(name, trunk.vlan_of(frame))) is not None:
            steps.append(f"{interface}: VLAN {sub.vlan} is {sub.name}'s: the tag is taken off")
            name, frame = sub.name, trunk.untagged(frame)
        port = None if name is None else self._lookups.port(name)
        if port is None:
            steps.append(f"{interface}: " + ("no port is bound to it" if name is None else f"{name} is not known here"))
            verdict: Verdict = Drop(DropReason.PORT_UNBOUND)
        else:
            verdict = pipeline.from_guest(self._lookups, self._reachable, port, frame, steps)
        if name is not None:
            self._upcalls.extend(_upcall(name, verdict))
        return self._counted(self._counts[UNBOUND if name is None else name], frame, verdict, steps)

    def from_uplink(self, interface: str, frame: bytes, now_ns: int = 0) -> Result:
        """What becomes of a frame that the interface takes from the underlay."""
        self._lookups.now_ns = now_ns
        count = self._counts.get(uplink_counters(interface))
        steps: list[str] = []
        if count is None:
            return Result(ToStack(), (f"{interface} is no uplink of this host: to the host's own stack",))
        tag = trunk.vlan_of(frame)
        subnet = self._lookups.segment(Wire(interface, tag)) if tag else None
        if subnet is not None:
            frame = trunk.untagged(frame)
            steps.append(f"from {interface}, in VLAN {tag}: VSID {subnet.vsid}, {len(frame)} bytes")
            verdict = bridge.from_wire(self._lookups, subnet, interface, frame, steps)
            return self._counted(count, frame, verdict, steps)
        vlan = self._lookups.host.vlans.get(interface)
        if vlan is not None:
            untagged = packet.without_tag(frame, vlan)
            if untagged is None:
                return Result(ToStack(), (f"{interface}: not of VLAN {vlan}: to the host's own stack",))
            frame = untagged
        return self._counted(count, frame, pipeline.from_underlay(self._lookups, frame, steps), steps)

    def _counted(self, source: _Count, frame: bytes, verdict: Verdict, steps: list[str]) -> Result:
        """Count one packet that came in by ``source``."""
        match verdict.verdict if isinstance(verdict, Announcing) else verdict:
            case ToStack():
                return Result(verdict, tuple(steps))
            case (ToPort() | ToUnderlay() | ToWire()) as one:
                self._count_delivery(one)
            case Copies(copies):
                for delivery in copies:
                    self._count_delivery(delivery)
            case Answer(answer, reason):
                source.sent(len(answer))
                if reason is not None:
                    source.dropped(reason)
                    steps.append(f"dropped: {reason.label}")
            case Drop(reason):
                source.dropped(reason)
                steps.append(f"dropped: {reason.label}")
            case ToAgent(besides=ToWire() as copy):
                self._count_delivery(copy)
            case ToAgent():
                pass
            case _ as never:
                assert_never(never)
        source.received(frame)
        return Result(verdict, tuple(steps))

    def _count_delivery(self, delivery: Delivery) -> None:
        match delivery:
            case ToWire(interface, tagged):
                self._counts[uplink_counters(interface)].sent(len(tagged) - trunk.TAG_BYTES)
            case ToPort(port, frame):
                self._counts[port].sent(len(frame))
            case ToUnderlay(_, outer):
                for interface in self._lookups.host.uplinks[:1]:
                    self._counts[uplink_counters(interface)].sent(len(outer) + packet.ETHERNET_BYTES)
            case _:
                assert_never(delivery)

    # What a trace needs to know

    @property
    def uplinks(self) -> tuple[str, ...]:
        return self._lookups.host.uplinks

    @property
    def lookups(self) -> Lookups:
        """For reading."""
        return self._lookups

    def interface_of(self, port: str) -> str | None:
        return self._lookups.interface_of(port)

    def as_sent(self, port: str, frame: bytes) -> bytes:
        """The frame as the port's guest has it on the interface: a sub-port's has a tag."""
        found = self._lookups.port(port)
        return frame if found is None else trunk.tagged(frame, found.vlan)

    def on_wire(self, outer: bytes) -> tuple[str, bytes]:
        """An uplink of this host, and the frame that an outer packet is there: in the VLAN of its PAs."""
        interface = self.uplinks[0]
        ethertype = packet.ETH_IPV4 if outer[0] >> 4 == 4 else packet.ETH_IPV6
        frame = packet.ethernet(bytes(6), bytes(6), ethertype, outer)
        vlan = self._lookups.host.vlans.get(interface)
        return interface, frame if vlan is None else packet.with_tag(frame, vlan)

    def has_pa(self, pa: str) -> bool:
        return packet.address_bytes(pa) in self._lookups.host.pas

    # Bookkeeping

    def _renew_uplinks(self) -> None:
        wanted = {uplink_counters(interface) for interface in self._lookups.host.uplinks}
        for name in [name for name in self._counts if name.startswith("uplink:") and name not in wanted]:
            del self._counts[name]
        for name in wanted:
            self._counts.setdefault(name, _Count())
        self._renew_subports()

    def _renew_subports(self) -> None:
        """Counters of a sub-port are there while it is and its parent is bound."""
        found: dict[str, tuple[str | None, int]] = {
            port.name: (port.parent, port.vlan)
            for port in self._lookups.subports
            if port.parent in self._lookups.bindings
        }
        for name, place in self._subports.items():
            if found.get(name) != place:
                self._counts.pop(name, None)
        for name in found:
            self._counts.setdefault(name, _Count())
        self._subports = found

    def _used(self, table: str) -> int:
        return self._lookups.used[table]

    def _capacity(self, table: str) -> int:
        return self._sizes.get(table, UNLIMITED)

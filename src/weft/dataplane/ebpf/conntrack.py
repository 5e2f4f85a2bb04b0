"""Connections as the programs keep them: settings out, entries and events in. Judges no packet.

The programs count what a port has as they make and forget connections, so a connection is forgotten, or made, by a
program of theirs too, which is run on a packet that names it: what the kernel calls a test run.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from weft.contracts.connections import Awaited, Carried, Connection, ConnectionEvent, Half, Logged, Mark
from weft.dataplane.ebpf import layout, libbpf
from weft.kit.errors import Rejected
from weft.policy.connections import CARRIED_FLAGS, EXPECTED_OF_PORT, OWN_OF_PORT, TIMEOUTS_S, Expected, State
from weft.policy.rows import Direction

SECOND_NS = 10**9
_WORDS = struct.Struct("=14xIII")
_EXPIRED, _FORGET, _INSERT, _TAKE, _EXPECT = 0, 1, 2, 3, 4  # ASKED_*
_PENDING, _MOVED = 32, 16384
_TAKEN = 0  # EPOCH_TAKEN
#: Where in a value the port is of the control connection that a data connection is related to.
_CONTROL, _CONTROL_AT = struct.Struct("=2s"), layout.CONNECTION_TAG_AT - 4
_EXPECTED_AT = layout.CONNECTION_TAG_AT - 6  # and that of the port that a control connection has spoken of
_NOTHING = bytes(2)
_MAPPED = bytes(10) + b"\xff\xff"
_MOST = 20  # ASKED_MOST
_BATCH = 4096
#: Where in a value the time is that it expires at.
_EXPIRES = struct.Struct("=8xQ")
#: How a value begins: state, opener, flags, expiry.
_HEAD = struct.Struct("=4xBBHQ")
_LATE = struct.Struct("=Q")  # and of an expectation
_DATAGRAM_EXPIRES = struct.Struct("=40xQ")
_LINE_EXPIRES = struct.Struct("=48xQ")
_PORT = struct.Struct("=Q")
_EVENTS = 1  # TRACKING_EVENTS
_REFUSED, _EXPECTED_SIDE = 128, 8192
_WHAT = {1: "new", 2: "established", 3: "destroyed", 5: "expects"}  # EVENT_*
_LOG = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """most: connections in all beyond ports' own; most_of_port: that one port's guest has begun, others twice as many;
    timeouts_s: by state, those that are not as by default; ftp_port: of FTP servers, whose control connections are
    listened to, 0: none; most_expected: FTP data connections that a port may expect, EXPECTED_OF_PORT or fewer;
    own_of_port: that each port is sure of: the map has room for them.
    """

    most: int = 1 << 18
    most_of_port: int = 1 << 16
    timeouts_s: Mapping[State, int] = field(default_factory=dict)
    ftp_port: int = 21
    most_expected: int = EXPECTED_OF_PORT
    own_of_port: int = OWN_OF_PORT


def tracking(settings: Settings, epoch: int, *, events: bool = False, clock_ns: int = 0) -> bytes:
    """Value of the map tracking. clock_ns: a test's time; 0: the kernel's."""
    timeouts_s = {**TIMEOUTS_S, **settings.timeouts_s}
    by_number = [timeouts_s.get(State(n), 0) if n in _STATES else 0 for n in range(layout.STATES)]
    return layout.TRACKING.pack(
        *(timeout_s * SECOND_NS for timeout_s in by_number),
        clock_ns,
        epoch & 0xFFFFFFFF,
        settings.most,
        settings.most_of_port,
        _EVENTS if events else 0,
        settings.most_expected,
        settings.ftp_port.to_bytes(2, "big"),
        settings.own_of_port,
    )


_STATES = frozenset(map(int, State))


def shown(key: bytes, value: bytes, ports: Mapping[int, str], now_ns: int) -> Connection:
    """An entry, for whoever asks. ports: names by number."""
    state, opener, flags, expires_ns, began_ns, p0, p1, b0, b1, *rest = layout.CONNECTION.unpack(value)
    return _shown(
        key, ports, state, opener, rest[9], (p0, p1), (b0, b1), refused=bool(flags & _REFUSED),
        age_s=(now_ns - began_ns) / SECOND_NS, expires_s=(expires_ns - now_ns) / SECOND_NS,
    )  # fmt: skip


def awaited(key: bytes, value: bytes, ports: Mapping[int, str], now_ns: int) -> Connection:
    """A data connection that FTP expects, as one that is not there yet: port 0 is any."""
    expires_ns, began_ns, _, rule, opener = layout.EXPECTATION.unpack(value)
    return _shown(
        key, ports, State.EXPECTED, opener, rule, (0, 0), (0, 0),
        age_s=(now_ns - began_ns) / SECOND_NS, expires_s=(expires_ns - now_ns) / SECOND_NS,
    )  # fmt: skip


def event(data: bytes, ports: Mapping[int, str], rules: Mapping[int, str]) -> ConnectionEvent | Logged:
    """One of the ring's. rules: names by number."""
    key, rule, what, state, opener, _, p0, p1, b0, b1 = layout.CONNECTION_EVENT.unpack(data)
    if what == _LOG:
        port, local, remote, local_port, remote_port, protocol, _, _ = layout.CONNECTION_KEY.unpack(key)
        return Logged(
            ports.get(port, ""), rules.get(rule, ""), Direction.INGRESS if opener else Direction.EGRESS, bool(state),
            protocol, layout.address_text(local), layout.address_text(remote), int.from_bytes(local_port, "big"),
            int.from_bytes(remote_port, "big"), b0,
        )  # fmt: skip
    return ConnectionEvent(_WHAT[what], _shown(key, ports, state, opener, rule, (p0, p1), (b0, b1)))


def carried(key: bytes, value: bytes, now_ns: int, expectation: bytes | None = None) -> Carried:
    """An entry, for another host. expectation: of what it has spoken of, if that is still to come."""
    _, local, remote, local_port, remote_port, protocol, asked, _ = layout.CONNECTION_KEY.unpack(key)
    state, opener, flags, expires_ns, began_ns, p0, p1, b0, b1, *rest = layout.CONNECTION.unpack(value)
    halves, (_, rule, pending_end, pending_window, pending_scale, code, *scale) = rest[:8], rest[8:]
    pending = (pending_end, pending_window, pending_scale) if flags & _PENDING else (0, 0, 0)
    awaited = None
    if expectation is not None:
        _, spoken_ns, _, _, by = layout.EXPECTATION.unpack(expectation)
        number = int.from_bytes(value[_EXPECTED_AT : _EXPECTED_AT + 2], "big")
        awaited = Awaited(number, by, (now_ns - spoken_ns) // 10**6)
    return Carried(
        protocol, _short(local), _short(remote), int.from_bytes(local_port, "big"), int.from_bytes(remote_port, "big"),
        bool(asked), state, opener, flags & CARRIED_FLAGS, (expires_ns - now_ns) // 10**6, (now_ns - began_ns) // 10**6,
        (p0, p1), (b0, b1), (Half(*halves[:4]), Half(*halves[4:])), rule, pending,
        code, (scale[0], scale[1]), int.from_bytes(_CONTROL.unpack_from(value, _CONTROL_AT)[0], "big"),
        awaited,
    )  # fmt: skip


def mark(value: bytes, now_ns: int, expectation: Callable[[bytes], bytes | None]) -> tuple[Mark, int]:
    """Of an entry, as ``carried`` would have it, and how long it is there; without reading the rest of it."""
    state, _, flags, expires_ns = _HEAD.unpack_from(value)
    awaited = None
    if value[_EXPECTED_AT : _EXPECTED_AT + 2] != _NOTHING and (found := expectation(value)) is not None:
        awaited = int.from_bytes(value[_EXPECTED_AT : _EXPECTED_AT + 2], "big"), layout.EXPECTATION.unpack(found)[4]
    return (state, flags & CARRIED_FLAGS, awaited), expires_ns - now_ns


def _awaited_key(control: bytes, number: bytes, opener: int) -> bytes:
    """Of a data connection to a port; the opener's may be any."""
    port, local, remote, _, _, protocol, asked, _ = layout.CONNECTION_KEY.unpack(control)
    ends = (number, _NOTHING) if opener else (_NOTHING, number)
    return layout.CONNECTION_KEY.pack(port, local, remote, *ends, protocol, asked, 0)


def taken(port: int, of: Carried, now_ns: int, settings: Settings) -> tuple[bytes, bytes, tuple[bytes, bytes] | None]:
    """The entry of one that another host had, of no epoch: rules are asked of it, whatever it has; and that of what it
    has spoken of. Raises Rejected.
    """
    try:
        of = of.held(settings.ftp_port)
        timeouts_s = {**TIMEOUTS_S, **settings.timeouts_s}
        most_ms = timeouts_s[State(of.state)] * 1000
        ports = of.local_port.to_bytes(2, "big"), of.remote_port.to_bytes(2, "big")
        key = layout.CONNECTION_KEY.pack(port, _long(of.local), _long(of.remote), *ports, of.protocol, of.asked, 0)
        value = bytearray(layout.CONNECTION.pack(
            of.state, int(bool(of.opener)), of.flags & CARRIED_FLAGS | _MOVED,
            now_ns + max(min(of.left_ms, most_ms), 0) * 10**6, max(now_ns - max(of.age_ms, 0) * 10**6, 0),
            *of.packets, *of.octets, *of.halves[0], *of.halves[1], _TAKEN, of.rule, *of.pending, of.code, *of.scale,
        ))  # fmt: skip
        _CONTROL.pack_into(value, _CONTROL_AT, of.control.to_bytes(2, "big"))
        awaited = None
        if of.awaited is not None and of.awaited.age_ms < timeouts_s[State.EXPECTED] * 1000:
            began_ns = max(now_ns - of.awaited.age_ms * 10**6, 0)
            expires_ns = began_ns + timeouts_s[State.EXPECTED] * SECOND_NS
            awaited = (
                _awaited_key(key, of.awaited.port.to_bytes(2, "big"), of.awaited.opener),
                layout.EXPECTATION.pack(expires_ns, began_ns, key, 0, of.awaited.opener),
            )
    except (ValueError, KeyError, OverflowError, struct.error) as fault:
        raise Rejected(f"no connection is {of}: {fault}", "connections") from fault
    return key, bytes(value), awaited


def _short(address: bytes) -> bytes:
    return address[12:] if address.startswith(_MAPPED) else address


def _long(address: bytes) -> bytes:
    if len(address) not in (4, 16):
        raise ValueError(f"{address.hex()} is not an address")
    return _MAPPED + address if len(address) == 4 else address


def _shown(
    key: bytes,
    ports: Mapping[int, str],
    state: int,
    opener: int,
    rule: int,
    packets: tuple[int, int],
    counted: tuple[int, int],
    *,
    refused: bool = False,
    age_s: float = 0.0,
    expires_s: float = 0.0,
) -> Connection:
    port, local, remote, local_port, remote_port, protocol, _, _ = layout.CONNECTION_KEY.unpack(key)
    return Connection(
        key, ports.get(port, ""), protocol, layout.address_text(local), layout.address_text(remote),
        int.from_bytes(local_port, "big"), int.from_bytes(remote_port, "big"), State(state), opener == 0, rule, refused,
        packets, counted, age_s, expires_s,
    )  # fmt: skip


class Tracking:
    """The map tracking: settings, and the epoch of the rules. clock_ns: a test's time; 0: the kernel's."""

    def __init__(self, of: libbpf.Map, settings: Settings) -> None:
        self._map = of
        self.settings = settings
        self.events = False
        self.clock_ns = 0
        former = of.lookup(_ONLY)
        # Never 0: that is of connections that have been held against no rules of here.
        self.epoch = (0 if former is None else layout.TRACKING.unpack(former)[layout.STATES + 1]) or 1
        self.write()

    def now_ns(self) -> int:
        """As the programs have it."""
        return self.clock_ns or time.monotonic_ns()

    def renew(self) -> None:
        """Rules have changed: every connection is held against them with its next packet."""
        self.epoch = self.epoch % 0xFFFFFFFF + 1
        self.write()

    def write(self) -> None:
        self._map.update(_ONLY, tracking(self.settings, self.epoch, events=self.events, clock_ns=self.clock_ns))


_ONLY = layout.NUMBER.pack(0)


def entries(table: libbpf.Map) -> Iterator[tuple[bytes, bytes]]:
    """Of any map whose keys are connections'."""
    key_bytes, value_bytes = layout.CONNECTION_KEY.size, table.value_bytes
    for keys, values, count in table.chunks(_BATCH):
        for at in range(count):
            yield (
                keys[at * key_bytes : (at + 1) * key_bytes],
                values[at * value_bytes : (at + 1) * value_bytes],
            )


class Connections:
    """The table, by way of the program that is asked of it; and what FTP expects to be in it."""

    def __init__(self, table: libbpf.Map, expectations: libbpf.Map, tracked: libbpf.Map, asked: libbpf.Program) -> None:
        self.table, self.expectations = table, expectations
        self._tracked = tracked
        self._run = libbpf.TestRun(asked)

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value, also of what has expired; while others come and go."""
        return entries(self.table)

    def expected(self) -> dict[Expected, int]:
        """What became of what FTP's control connections said."""
        _, _, _, *counted = layout.TRACKED.unpack(self._tracked.lookup(_ONLY) or bytes(layout.TRACKED.size))
        return {what: counted[what] for what in Expected}

    def some(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Of these, what there is."""
        for key in keys:
            if (value := self.table.lookup(key)) is not None:
                yield key, value

    def expectation_of(self, key: bytes, value: bytes) -> bytes | None:
        """Of what a control connection has spoken of, if that is still to come and nobody else has since."""
        number = value[_EXPECTED_AT : _EXPECTED_AT + 2]
        if number == _NOTHING:
            return None
        flags: int = layout.CONNECTION.unpack(value)[2]
        found = self.expectations.lookup(_awaited_key(key, number, flags & _EXPECTED_SIDE))
        return None if found is None or layout.EXPECTATION.unpack(found)[2] != key else found

    def sweep(self, now_ns: int, ports: Container[int] | None = None) -> int:
        """Forget what has expired, and what is of no port of these (None: whatever port); how many."""
        late = [key for key, value in entries(self.expectations) if _LATE.unpack_from(value)[0] <= now_ns]
        swept = self._sweep(now_ns, ports) + self._ask(_EXPIRED, late)
        self._run(_WORDS.pack(_EXPIRED, 0, 0), 1)  # what is full need not look through the table itself
        return swept

    def _sweep(self, now_ns: int, ports: Container[int] | None) -> int:
        over: list[bytes] = []
        gone: list[bytes] = []
        for key, value in self.entries():
            if _EXPIRES.unpack_from(value)[0] <= now_ns:
                over.append(key)
            elif ports is not None and _PORT.unpack_from(key)[0] not in ports:
                gone.append(key)
        return self._ask(_EXPIRED, over) + self._ask(_FORGET, gone)

    def forget(self, keys: Iterable[bytes]) -> int:
        return self._ask(_FORGET, list(keys))

    def take(
        self, entries: Mapping[bytes, bytes], awaited: Iterable[tuple[bytes, bytes]] = (), *, tenant: int = 0
    ) -> int:
        """Also in place of those of a port that is on its way here, and whose guest has not spoken in them here.
        awaited: what they have spoken of: in place of what is older, as long as they are moved.
        """
        done = self._ask(_TAKE, [_untagged(key, value) for key, value in entries.items()], tenant)
        self._ask(_EXPECT, [key + value for key, value in awaited])
        return done

    def insert(self, entries: Mapping[bytes, bytes], tenants: Mapping[int, int] | None = None) -> int:
        """Where there is none yet; how many there was room for. Each is held against the rules with its next packet.
        tenants: whose a port is, by numbers.
        """
        by_tenant: dict[int, list[bytes]] = {}
        for key, value in entries.items():
            (port,) = _PORT.unpack_from(key)
            by_tenant.setdefault((tenants or {}).get(port, 0), []).append(_untagged(key, value))
        return sum(self._ask(_INSERT, items, tenant) for tenant, items in by_tenant.items())

    def forget_ports(self, ports: Container[int]) -> None:
        """All that is of these ports: connections, and what those have spoken of."""
        keys = (key for table in (self.table, self.expectations) for key, _ in entries(table))
        self._ask(_FORGET, [key for key in keys if _PORT.unpack_from(key)[0] in ports])

    def _ask(self, what: int, items: list[bytes], tenant: int = 0) -> int:
        done = 0
        for at in range(0, len(items), _MOST):
            some = items[at : at + _MOST]
            done += self._run(_WORDS.pack(what, len(some), tenant) + b"".join(some), 1).retval
        return done


def _number(count: bytes) -> int:
    """How many, as each map of counts begins with it."""
    number: int = layout.COUNT.unpack_from(count)[0]
    return number


def _untagged(key: bytes, value: bytes) -> bytes:
    return key + value[: layout.CONNECTION_TAG_AT]


class Leftovers:
    """What programs keep of ports beside connections, and never drop. counts: of how much a port has, by its number;
    tenants: and how much of what is shared all ports of a tenant have.
    """

    def __init__(
        self, counts: Iterable[libbpf.Map], tenants: libbpf.Map, datagrams: libbpf.Map, lines: libbpf.Map
    ) -> None:
        self._counts, self._tenants = tuple(counts), tenants
        self._idle: dict[libbpf.Map, frozenset[bytes]] = dict.fromkeys((*self._counts, tenants), frozenset())
        self._places = ((datagrams, layout.DATAGRAM_PLACES // 2), (lines, layout.LINE_PLACES // 2))
        self._expiring = ((datagrams, _DATAGRAM_EXPIRES), (lines, _LINE_EXPIRES))

    def counts(self, port: int) -> bool:
        """Whether a port has, or others have with it, any of what is counted."""
        keys = (layout.COUNT.pack(number) for number in (port & ~1, port | 1))
        return any(_number(counts.lookup(key) or bytes(8)) for key in keys for counts in self._counts)

    def forget(self, port: int) -> None:
        """What is under way of a port."""
        for table, places in self._places:
            for side in (0, 1):
                for place in range(places):
                    _let_go(table, layout.DATAGRAM_KEY.pack(port, side, place))

    def sweep(self, now_ns: int, ports: Mapping[int, int] | None = None) -> None:
        """Drop datagrams and lines that have expired, and what is of no port of these (None: whatever port), and of
        none of their tenants, which it says by number.

        A count that went while a program counts in it would be wrong ever after. So one goes only when it is 0, and was
        at the last sweep: no packet that found its port is under way any more.
        """
        known = None if ports is None else {number | 1 for number in ports}
        tenants = None if ports is None else {layout.NUMBER.pack(tenant) for tenant in (0, *ports.values())}

        def gone(key: bytes) -> bool:
            # The lowest bit of a quota's number says something else.
            return known is not None and _PORT.unpack_from(key)[0] | 1 not in known

        def over(key: bytes, value: bytes, expires: struct.Struct) -> bool:
            return expires.unpack_from(value)[0] <= now_ns or gone(key)

        def of_nobody(counts: libbpf.Map, key: bytes) -> bool:
            return tenants is not None and key not in tenants if counts is self._tenants else gone(key)

        def is_none(counts: libbpf.Map, value: bytes) -> bool:
            return not (any(layout.TENANT.unpack(value)[:2]) if counts is self._tenants else _number(value))

        for counts, before in self._idle.items():
            idle = {key for key, value in counts.items() if is_none(counts, value) and of_nobody(counts, key)}
            for key in idle & before:
                counts.delete(key)
            self._idle[counts] = frozenset(idle - before)
        for table, expires in self._expiring:
            for key in [key for key, value in table.items() if over(key, value, expires)]:
                now = table.lookup(key)  # its place may be another's since
                if now is not None and over(key, now, expires):
                    _let_go(table, key)


def _let_go(table: libbpf.Map, key: bytes) -> None:
    """It is nobody's before its element can be another's: what has found it sees that behind its lock."""
    if table.name == "datagrams":
        with suppress(FileNotFoundError):
            table.update(key, bytes(table.value_bytes), libbpf.EXIST_LOCKED)
    table.delete(key)

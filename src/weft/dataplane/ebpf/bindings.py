"""Which port is at which interface, and which of them are open. Knows of maps only what a seat has (seats.py).

An interface is closed from its binding on until its port's row is there: programs that find no entry drop. A sub-port
is only entries, at a seat of its parent's interface, and comes and goes with that. What a former agent has bound stays
as it is until bindings are told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import attach, layout
from weft.dataplane.ebpf.attachments import Attachment, Attachments
from weft.dataplane.ebpf.interfaces import Interface
from weft.dataplane.ebpf.layout import Seat
from weft.dataplane.ebpf.seats import Seats
from weft.kit.errors import Rejected, Retry
from weft.policy.rows import Key, Port, Sampling


@dataclass(slots=True)
class Bound:
    """A port on its interface. inherited: a former agent's entries may be there besides what Seats holds.

    holder: whose interface it is: its own, or its parent's.
    """

    interface: Interface
    inherited: bool
    holder: str
    vlan: int = 0

    @property
    def seat(self) -> Seat:
        return Seat(self.interface.ifindex, self.vlan)


class Bindings:
    """One host's ports. bound: those that are at an interface; rows: those that are known, bound or not."""

    def __init__(self, seats: Seats, attachments: Attachments, *, subports: int) -> None:
        """subports: how many there is room for."""
        self._seats, self._attachments = seats, attachments
        self.rows: dict[str, Port] = {}
        self.bound: dict[str, Bound] = {}
        self.told: dict[str, str] | None = None  # None: not told yet, and a former agent's are left alone
        self.all_ports = False  # ports have no entries but those that were told
        self._sampled: Sampling | None = None
        self._most_subports = subports
        self._subports: dict[Seat, str] = {}
        #: Of sub-ports that a former agent has left and that are not told of yet: nobody else has their room.
        self._left = set(seats.left)

    # Who is where.

    def by_seat(self) -> dict[Seat, str]:
        """Bound ports by where they are."""
        return {bound.seat: port for port, bound in self.bound.items()}

    def numbered(self) -> dict[int, str]:
        """Ports by the numbers that guards have of them: also those whose interface is yet to come."""
        return {layout.port_number(port): port for port in (*self.rows, *self.bound)}

    def port_of(self, attachment: Attachment) -> str | None:
        """Whose programs these are; None: no bound port's."""
        for port, bound in self.bound.items():
            if Attachment.of_port(bound.interface.ifindex, port) == attachment:
                return port
        return None

    def tap_of(self, port: str) -> str | None:
        """The tap that the port is bound to; None where that is no tap."""
        bound = self.bound.get(port)
        return bound.interface.name if bound is not None and bound.interface.kind == "tun" else None

    # Rows.

    def put(self, row: Port) -> list[Failure]:
        """The port is so from here on, and open if it is bound."""
        try:
            layout.port(row, 0, peer=False)
        except Rejected as error:
            return [Failure(row.key, error.message, permanent=True)]
        self.rows[row.port] = row
        try:
            self._take_seat(row.port)
        except Retry as error:
            return [Failure(row.key, str(error))]
        return self._open(row.port)

    def forget(self, port: str) -> None:
        """It has no row any more: it is closed, and bound as it was. Absent is success."""
        self.rows.pop(port, None)
        self._close(port)
        self._take_seat(port)

    def sample(self, sampled: Sampling | None) -> list[Failure]:
        """As their host is, but for ports that say otherwise."""
        if sampled == self._sampled:
            return []
        self._sampled = sampled
        return [failure for port in self.bound for failure in self._open(port)]

    def mirror(self) -> list[str]:
        """Where copies go, as ports are bound now: to one that is not bound here go none. Why some were refused."""
        wanted: dict[bytes, bytes] = {}
        for row in self.rows.values():
            if row.mirror is None or row.parent is not None or (bound := self.bound.get(row.port)) is None:
                continue
            to = None if row.mirror.port is None else self.bound.get(row.mirror.port)
            if to is not None and to.holder != row.mirror.port:
                continue  # a sub-port's copies would lack their tag
            if to is not None or row.mirror.port is None:
                ifindex = 0 if to is None else to.interface.ifindex
                wanted[layout.NUMBER.pack(bound.interface.ifindex)] = layout.mirror(row.mirror, ifindex)
        return self._seats.mirror(wanted)

    def prune(self, wanted: Collection[Key]) -> None:
        """Entries of ports that are not bound here; bindings that were not told yet are a former agent's, and stay."""
        for port in [name for name in self.rows if ("ports", name) not in wanted]:
            self.forget(port)
        if self.told is None:
            return
        # Bound and desired, but its row has not come: a former agent's entries still speak for it.
        spared = {
            bound.seat
            for name, bound in self.bound.items()
            if ("ports", name) in wanted and not self._seats.is_open(bound.seat)
        }
        attached = (Seat(attachment.ifindex) for attachment in self._attachments.all())
        self._seats.prune(self.by_seat(), spared, attached)
        for bound in self.bound.values():
            bound.inherited = bound.seat in spared
        self.all_ports = True
        self._left = set()

    def read(self) -> Iterator[Port]:
        """Bound ports as the kernel has them; which of a port's sources are its CAs only what was told says."""
        there = self._seats.read()
        for name, bound in self.bound.items():
            if bound.seat.key not in there.ports:
                continue
            row = self.rows.get(name)
            if row is not None and there.has(bound.seat, self._entries(row, bound.interface)):
                yield row
                continue
            read = there.row(name, bound.seat)
            yield read if bound.holder == name else replace(read, parent=bound.holder, vlan=bound.vlan)

    # Bindings.

    def reconcile(
        self, present: Mapping[str, Interface], uplinks: Collection[str], *, mend: bool
    ) -> tuple[list[Failure], int]:
        """Attachments as they should be; what could not be, and how many had to be mended. mend: also those that were
        made before are looked at, 100 us each; one port more is not to wait for thousands.
        """
        if self.told is None:
            return [], 0
        wanted, failures = self._wanted(self.told, present, uplinks)
        self._let_go(wanted)
        self._forget_lost(wanted)
        mended = 0
        # Those that come first: a look at each of the others takes some 50 us.
        for port, interface in sorted(wanted.items(), key=lambda each: each[0] in self.bound):
            bound = self.bound.get(port)
            if not mend and bound is not None and bound.interface == interface:
                failures += self._open(port)
                continue
            try:
                self._open_ahead(port, interface)
                mended += self._bind(port, interface)
            except (Retry, OSError) as error:
                if bound is None and port in self.bound:
                    self._close(port)
                    del self.bound[port]
                failures.append(Failure(("ports", port), str(error)))
            else:
                seat = self.bound[port].seat
                former = self._seats.held(seat)
                failures += self._open(port)
                mended += former is not None and former != self._seats.held(seat)
        for port, row in list(self.rows.items()):
            if row.parent is not None:
                try:
                    self._take_seat(port)
                except Retry as error:
                    failures.append(Failure(("ports", port), str(error)))
                else:
                    failures += self._open(port)
        return failures, mended

    def _wanted(
        self, bindings: Mapping[str, str], present: Mapping[str, Interface], uplinks: Collection[str]
    ) -> tuple[dict[str, Interface], list[Failure]]:
        """The interfaces that ports are to have, and what stands against the rest."""
        failures: list[Failure] = []
        taken: dict[str, str] = {}
        wanted: dict[str, Interface] = {}
        for port, name in bindings.items():
            interface = present.get(name)
            row = self.rows.get(port)
            if row is not None and row.parent is not None:
                failures.append(Failure(("ports", port), f"it is at the interface of {row.parent}", permanent=True))
            elif interface is None:
                failures.append(Failure(("ports", port), f"interface {name} does not exist"))
            elif name in uplinks:
                failures.append(Failure(("ports", port), f"interface {name} is an uplink", permanent=True))
            elif name in taken:
                failures.append(Failure(("ports", port), f"interface {name} is bound to {taken[name]} already"))
            else:
                taken[name] = port
                wanted[port] = interface
        return wanted, failures

    def _open_ahead(self, port: str, interface: Interface) -> None:
        """The entries of a port whose interface has no program of ours yet, but those by which copies come to it: these
        are judged on the way out. A program runs as soon as it is attached, but the kernel says so some 10 ms later.
        """
        if port in self.bound or Attachment.of_port(interface.ifindex, port) in self._attachments:
            return
        self._seats.make(Seat(interface.ifindex))
        self.bound[port] = Bound(interface, inherited=False, holder=port)
        self._open(port, copies=False)  # what is refused is said when it is opened for good

    def _bind(self, port: str, interface: Interface) -> int:
        """Counters, then programs: the interface is closed from here on. How many attachments were amiss."""
        self._seats.make(Seat(interface.ifindex))
        attachment = Attachment.of_port(interface.ifindex, port)
        inherited = attachment in self._attachments
        mended = self._attachments.attach(attachment)
        attach.let_look_up_routes()
        bound = self.bound.get(port)
        if bound is None:
            self.bound[port] = Bound(interface, inherited, port)
        else:
            bound.interface = interface
        return mended

    def _let_go(self, wanted: Mapping[str, Interface]) -> None:
        """Programs come off interfaces that no port is bound to; where another port takes over, they stay, closed."""
        closed: set[int] = set()
        for port, bound in list(self.bound.items()):
            interface = wanted.get(bound.holder)
            if interface is not None and interface.ifindex == bound.interface.ifindex:
                continue
            if bound.holder != port:
                self._leave_seat(port)
                continue
            self._close(port)
            del self.bound[port]
            closed.add(bound.interface.ifindex)
        if closed:
            self._seats.silence(lambda seat: seat.ifindex in closed)
        successors = {i.ifindex: Attachment.of_port(i.ifindex, port) for port, i in wanted.items()}
        leaving = [a for a in self._attachments.all() if not a.on_uplink and successors.get(a.ifindex) != a]
        self._forget({attachment.ifindex for attachment in leaving} - closed)
        for attachment in leaving:
            seat, successor = Seat(attachment.ifindex), successors.get(attachment.ifindex)
            if successor is None:
                self._attachments.detach(attachment)
                self._seats.vacate(seat)
            else:
                self._attachments.hand_over(attachment, successor)
                self._seats.pass_on(seat)
                with suppress(Retry):  # the binding that follows tries again, and says so
                    self._attachments.attach(successor, swap=True)

    def _forget_lost(self, wanted: Mapping[str, Interface]) -> None:
        """Entries of interfaces whose attachment is not there (any more): of a former port, or of a former interface
        that had the number; not of the port that is bound now.
        """
        if self.all_ports:
            return
        fresh = ((port, i) for port, i in wanted.items() if port not in self.bound)
        self._forget({i.ifindex for port, i in fresh if Attachment.of_port(i.ifindex, port) not in self._attachments})

    def _forget(self, ifindexes: Collection[int]) -> None:
        """Whatever entries interfaces have, also those that this process does not know of."""
        if ifindexes:
            self._seats.forget(lambda seat: seat.ifindex in ifindexes)

    # Sub-ports.

    def _take_seat(self, port: str) -> None:
        """A sub-port is bound where its parent is, and nowhere while that is not. Raises Retry."""
        row, bound = self.rows.get(port), self.bound.get(port)
        holder = None if row is None else row.parent
        parent = None if holder is None else self.bound.get(holder)
        seat = None
        if row is not None and parent is not None and parent.holder == holder:
            seat = Seat(parent.interface.ifindex, row.vlan)
        if bound is not None and bound.holder != port and (bound.holder, bound.seat) != (holder, seat):
            self._leave_seat(port)
            bound = None
        if seat is None or parent is None:
            return
        if bound is None:
            if (former := self._subports.get(seat)) is not None:
                self._leave_seat(former)  # its row goes, or says another place, next
            others = self._left - {seat}
            if len(self._subports) + len(others) >= self._most_subports:
                raise Retry(f"ports: full at {self._most_subports} sub-ports: raise the data plane's size of it")
            self._seats.make(seat)
            self._left = others
            self._subports[seat] = port
            self.bound[port] = Bound(parent.interface, parent.inherited, parent.holder, seat.vlan)
        elif bound.holder != port:
            bound.interface = parent.interface

    def _leave_seat(self, port: str) -> None:
        seat = self.bound[port].seat
        self._close(port)
        del self.bound[port]
        del self._subports[seat]
        self._seats.silence(lambda other: other == seat)
        self._seats.vacate(seat)

    # Open and closed.

    def _open(self, port: str, *, copies: bool = True) -> list[Failure]:
        """The entries of a port that is bound and whose row is known."""
        bound, row = self.bound.get(port), self.rows.get(port)
        if bound is None or row is None:
            return []
        if row.parent is not None and bound.holder == port:
            self._close(port)  # an interface is not a sub-port's; the next bind() lets go of it
            return []
        refused = self._seats.open(row, bound.seat, self._entries(row, bound.interface), copies=copies)
        return [Failure(row.key, "; ".join(dict.fromkeys(refused)))] if refused else []

    def _entries(self, row: Port, interface: Interface) -> layout.PortEntries:
        peer = interface.takes_peer_redirect
        return self._seats.entries(row, interface.ifindex, peer=peer, sampled=self._sampled)

    def _close(self, port: str) -> None:
        """Its entries go; its programs stay and drop everything."""
        bound = self.bound.get(port)
        if bound is None:
            return
        if bound.inherited:
            self._seats.forget(lambda seat: seat == bound.seat)
            bound.inherited = False
        self._seats.close(port, bound.seat)

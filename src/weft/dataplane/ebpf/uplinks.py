"""What this host is: its row's entry, and our programs on its uplinks. Never touches an uplink that its row has not.

A former agent's uplinks stay as they are until a Host row, or its absence, is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from weft.contracts.dataplane import Failure
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.attachments import Attachment, Attachments
from weft.dataplane.ebpf.interfaces import Interface, interfaces
from weft.dataplane.ebpf.libbpf import Map
from weft.dataplane.ebpf.seats import Seats
from weft.dataplane.ebpf.tables import Table
from weft.kit.errors import Retry
from weft.policy.rows import Host, Uplink


class Uplinks:
    """The maps host and vlans. row: None while none is told; interfaces: the uplinks that are attached, by name."""

    def __init__(
        self,
        entry: Map,
        vlans: Table,
        attachments: Attachments,
        seats: Seats,
        *,
        changed: Callable[[], None],
        unnamed: str,
    ) -> None:
        """changed: called after each change of the host's entry; unnamed: the host's name while no row says it."""
        self.row: Host | None = None
        self.interfaces: dict[str, Interface] = {}
        self.vlans = vlans
        self._entry = entry
        self._attachments, self._seats = attachments, seats
        self._changed, self._unnamed = changed, unnamed
        self._value: bytes | None = None  # what was told of the entry
        self._mtus_bytes: Mapping[str, int] = {}  # of the uplinks that exist

    @property
    def host(self) -> str:
        """Its name."""
        return self._unnamed if self.row is None else self.row.host

    @property
    def names(self) -> frozenset[str]:
        """The interfaces that the row says are uplinks, there or not."""
        return frozenset() if self.row is None else frozenset(uplink.interface for uplink in self.row.uplinks)

    @property
    def is_told(self) -> bool:
        """Whether the entry is there, as this process has it."""
        return self._value is not None

    def write(
        self,
        accepts: int,
        *,
        everything: bool,
        paths: bool,
        bridges: bool,
        groups: bool,
        present: Mapping[str, Interface] | None = None,
    ) -> int:
        """The host's entry; how many were not as they should be.

        accepts: rules of subnets that are known (layout.accepts_mask), everything: and there are no others; paths,
        bridges, groups: whether packets have to ask of these; present: the interfaces, if they were looked at again.
        """
        row = self.row
        if row is None:
            return 0
        if present is not None:
            self._mtus_bytes = {
                up.interface: present[up.interface].mtu_bytes for up in row.uplinks if up.interface in present
            }
        there = self._entry.lookup(layout.THE_HOST)
        if there is not None and not everything:
            # What a former agent was told, and this one may yet be.
            accepts |= layout.read_host(there).accepts
        self._value = layout.host(row, self._mtus_bytes, accepts, paths=paths, bridges=bridges, groups=groups)
        if there == self._value:
            return 0
        self._entry.update(layout.THE_HOST, self._value)
        self._changed()
        return 1

    def attach(self, present: Mapping[str, Interface]) -> list[Failure]:
        """Our programs on the uplinks that there are."""
        row = self.row
        if row is None:
            return []
        failures: list[Failure] = []
        self.interfaces = {}
        for uplink in row.uplinks:
            interface = present.get(uplink.interface)
            if interface is None:
                failures.append(Failure(row.key, f"uplink {uplink.interface} does not exist"))
                continue
            try:
                self._seats.make(layout.Seat(interface.ifindex))
                if uplink.vlan:
                    self.vlans.put({layout.NUMBER.pack(interface.ifindex): layout.NUMBER.pack(uplink.vlan)})
                    self._attachments.attach(Attachment.of_vlan(interface.ifindex))
                self._attachments.attach(Attachment.of_uplink(interface.ifindex))
                self.interfaces[uplink.interface] = interface
            except (Retry, OSError) as error:
                failures.append(Failure(row.key, f"uplink {uplink.interface}: {error}"))
        return failures + [Failure(row.key, why) for why in self._sample()]

    def let_go(self) -> None:
        """Of interfaces that are uplinks no more."""
        if self.row is None:
            return
        wanted = {interface.ifindex for interface in self.interfaces.values()}
        in_vlan = {uplink.interface for uplink in self.row.uplinks if uplink.vlan}
        tagged = {interface.ifindex for name, interface in self.interfaces.items() if name in in_vlan}
        for attachment in self._attachments.all():
            if attachment.on_uplink and attachment.ifindex not in (tagged if attachment.in_vlan else wanted):
                self._detach(attachment)
        self.vlans.drop([key for key, _ in self.vlans.entries() if layout.NUMBER.unpack(key)[0] not in tagged])

    def remove(self) -> None:
        """There is no such host: nothing comes in by an uplink any more."""
        self.row = None
        self._value = None
        self._entry.update(layout.THE_HOST, bytes(layout.HOST.size))
        self._changed()
        self.interfaces = {}
        self._sample()
        self.vlans.drop([key for key, _ in self.vlans.entries()])
        for attachment in self._attachments.all():
            if attachment.on_uplink:
                self._detach(attachment)

    def repair(self, present: Mapping[str, Interface]) -> int:
        """How many programs were missing."""
        if self.row is None:
            return 0
        missing = sum(
            self._attachments.missing(attachment)
            for uplink in self.row.uplinks
            if uplink.interface in present
            for attachment in _attachments_of(uplink, present[uplink.interface].ifindex)
        )
        self.attach(present)
        self.let_go()
        return missing

    def read(self) -> Host | None:
        """The row as the kernel has it; of one that was not told to this process, the uplinks that are attached."""
        value = self._entry.lookup(layout.THE_HOST)
        if value is None or not any(value):
            return None
        if self.row is not None and value == self._value:
            return self.row
        seen = layout.read_host(value)
        names = {interface.ifindex: name for name, interface in interfaces().items()}
        uplinks = tuple(
            Uplink(names[attachment.ifindex], seen.uplink_mtu_bytes)
            for attachment in self._attachments.all()
            if attachment.on_uplink and not attachment.in_vlan and attachment.ifindex in names
        )
        return Host(self.host, seen.pas, uplinks)

    def _sample(self) -> list[str]:
        """Why the kernel refused some."""
        sampled = None if self.row is None else self.row.sampling
        return self._seats.sample_uplinks((each.ifindex for each in self.interfaces.values()), sampled)

    def _detach(self, attachment: Attachment) -> None:
        self._attachments.detach(attachment)
        # Without its VLAN the uplink is still there, and its counters go on.
        self._seats.vacate(layout.Seat(attachment.ifindex), counters=not attachment.in_vlan)


def _attachments_of(uplink: Uplink, ifindex: int) -> list[Attachment]:
    return [Attachment.of_uplink(ifindex), *([Attachment.of_vlan(ifindex)] if uplink.vlan else [])]

"""Our programs on a host's interfaces, as they are pinned: ``links/<ifindex>-<who>``. Knows neither rows nor entries.

What is pinned there is ours (attach.py); what else is in that directory is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weft.dataplane.ebpf import bpffs
from weft.dataplane.ebpf.attach import Attacher
from weft.dataplane.ebpf.libbpf import Direction, Program
from weft.kit.errors import Retry

LINKS = "links"  #: the directory, below a host's pins
_UPLINK, _VLAN = "uplink", "vlan"

#: What runs on a port's interface, and on an uplink. What the guest sends is policy's first: the host's own stack is
#: behind it.
_ON_PORT = {Direction.INGRESS: "weft_from_port", Direction.EGRESS: "weft_to_port"}
_ON_UPLINK = {Direction.INGRESS: "weft_from_uplink"}
_IN_VLAN = {Direction.EGRESS: "weft_to_uplink"}


@dataclass(frozen=True, slots=True)
class Attachment:
    """Our programs on one interface, for one of its uses."""

    ifindex: int
    who: str  # "uplink", "vlan" (an uplink's, besides), or a digest of the port's name

    @classmethod
    def of_port(cls, ifindex: int, port: str) -> Attachment:
        return cls(ifindex, hashlib.sha256(port.encode()).hexdigest()[:16])

    @classmethod
    def of_uplink(cls, ifindex: int) -> Attachment:
        return cls(ifindex, _UPLINK)

    @classmethod
    def of_vlan(cls, ifindex: int) -> Attachment:
        return cls(ifindex, _VLAN)

    @property
    def on_uplink(self) -> bool:
        return self.who in (_UPLINK, _VLAN)

    @property
    def in_vlan(self) -> bool:
        """It is what an uplink in a VLAN has besides."""
        return self.who == _VLAN

    @property
    def programs(self) -> Mapping[Direction, str]:
        """Which program is attached each way, by name."""
        match self.who:
            case "uplink":
                return _ON_UPLINK
            case "vlan":
                return _IN_VLAN
            case _:
                return _ON_PORT


class Attachments:
    """One host's. Its state is in the kernel: what is attached is asked anew each time."""

    def __init__(self, pins: Path, attacher: Attacher, programs: Mapping[str, Program], *, filling: bool) -> None:
        """pins: the host's directory; programs: this generation's, by name; filling: another generation's are attached,
        and its maps carry the traffic until change_over().
        """
        self._links = pins / LINKS
        self._attacher = attacher
        self._programs = programs
        self.filling = filling

    def all(self) -> list[Attachment]:
        """What is there, whoever of our processes has made it."""
        found = []
        for path in bpffs.entries(self._links):
            digits, _, who = path.name.partition("-")
            if digits.isdecimal() and who:  # else it is not ours
                found.append(Attachment(int(digits), who))
        return found

    def __contains__(self, attachment: Attachment) -> bool:
        return self._at(attachment).exists()

    def missing(self, attachment: Attachment) -> int:
        """How many of its programs do not run."""
        at = self._at(attachment)
        running = (self._attacher.program_id(at, attachment.ifindex, direction) for direction in attachment.programs)
        return sum(program is None for program in running)

    def attach(self, attachment: Attachment, *, swap: bool = False) -> int:
        """Our programs on the interface; how many were not there. While a generation is being filled, the programs
        of the former one stay where they are, unless ``swap``.

        Raises Retry or OSError when the interface does not let it, or is gone.
        """
        at = self._at(attachment)
        at.mkdir(parents=True, exist_ok=True)
        missing = 0
        for direction, name in attachment.programs.items():
            program = self._programs[name]
            running = self._attacher.program_id(at, attachment.ifindex, direction)
            if running is None or (running != program.id and (swap or not self.filling)):
                self._attacher.attach(at, attachment.ifindex, direction, program)
                missing += running is None
        return missing

    def detach(self, attachment: Attachment) -> None:
        """Our programs off the interface; absent is success."""
        at = self._at(attachment)
        for direction in attachment.programs:
            self._attacher.detach(at, attachment.ifindex, direction)
        bpffs.remove(at)

    def hand_over(self, former: Attachment, successor: Attachment) -> None:
        """What runs on the interface is the successor's from here on; it never comes off in between."""
        bpffs.remove(self._at(successor))
        self._at(former).rename(self._at(successor))

    def change_over(self) -> dict[Attachment, str]:
        """This generation's programs everywhere; those that were refused, and why. ``filling`` as long as some are."""
        refused: dict[Attachment, str] = {}
        for attachment in self.all():
            try:
                self.attach(attachment, swap=True)
            except (Retry, OSError) as error:
                refused[attachment] = str(error)
        self.filling = bool(refused)
        return refused

    def _at(self, attachment: Attachment) -> Path:
        return self._links / f"{attachment.ifindex}-{attachment.who}"

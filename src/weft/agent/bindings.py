"""Which port is behind which interface: what was said, and what an interface's name says. Never a guess."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weft.agent.links import Link
from weft.kit.errors import Conflict, Missing, Rejected
from weft.model.names import Kind, parse_name_of

#: OpenStack's name of a port's interface: "tap" and the first 11 characters of the port's id, 14 in all.
TAP = "tap"
TAP_CHARACTERS = 11


@dataclass(frozen=True, slots=True)
class Plan:
    """bindings: port -> interface. ambiguous: interface -> the ports that it may be of; the one that has it already
    keeps it, else none gets it. found: those of the bindings that were not said, also of ports that are gone.
    """

    bindings: Mapping[str, str] = field(default_factory=dict)
    ambiguous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    found: Mapping[str, str] = field(default_factory=dict, compare=False)


def tap_of(port: str) -> str:
    """The interface name by which a port is found."""
    return TAP + port.rpartition("/")[2][:TAP_CHARACTERS]


def plan(
    ports: Iterable[str],
    explicit: Mapping[str, str],
    links: Mapping[str, Link],
    uplinks: frozenset[str],
    former: Mapping[str, str] | None = None,
) -> Plan:
    """What is to be bound now. What was said goes first; an interface that does not exist is bound by nobody.

    former: what was found last. A port that comes later takes nobody's interface away, and an interface whose port goes
    stays bound, and so closed: its guest may well be running, and would be let loose on the host's own stack.
    """
    bindings = {port: interface for port, interface in explicit.items() if interface in links}
    taken = frozenset(explicit.values()) | uplinks
    holders = {interface: port for port, interface in (former or {}).items()}
    candidates: dict[str, list[str]] = {}
    for port in ports:
        if port not in explicit:
            candidates.setdefault(tap_of(port), []).append(port)
    found: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    for interface, of in candidates.items():
        if interface not in links or interface in taken:
            continue
        if len(of) > 1:
            ambiguous[interface] = tuple(sorted(of))
        if len(of) == 1:
            found[of[0]] = interface
        elif holders.get(interface) in of:
            found[holders[interface]] = interface
    left = links.keys() - taken - candidates.keys()
    kept = {port: interface for interface, port in holders.items() if interface in left and port not in explicit}
    return Plan({**bindings, **found, **kept}, ambiguous, {**found, **kept})


class Found:
    """What was found by name last, on disk, for the next start. Only a memory: losing it refuses nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.interfaces: Mapping[str, str] = {}

    def load(self) -> None:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return
        if isinstance(found, dict) and all(isinstance(interface, str) for interface in found.values()):
            self.interfaces = found

    def keep(self, interfaces: Mapping[str, str]) -> None:
        """Raises OSError when the disk does not take it; it is remembered all the same."""
        if interfaces != self.interfaces:
            self.interfaces = interfaces
            beside = self._path.with_name(self._path.name + ".new")
            beside.write_text(json.dumps(interfaces, indent=1, sort_keys=True), encoding="utf-8")
            beside.replace(self._path)


class Attachments:
    """What was said, on disk. Written whole and at once, before it is acted upon."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._interfaces: dict[str, str] = {}

    def load(self) -> None:
        """Raises Rejected for a file that was not written by us: to go on would let go of ports that carry traffic."""
        try:
            found = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return
        except ValueError as fault:
            raise Rejected(f"{self._path} is not JSON ({fault}); mend it, or remove it to detach everything") from fault
        if not isinstance(found, dict) or not all(isinstance(interface, str) for interface in found.values()):
            raise Rejected(f"{self._path} is not a JSON object of port names and their interfaces")
        self._interfaces = found

    @property
    def interfaces(self) -> Mapping[str, str]:
        """Port -> interface."""
        return self._interfaces

    def attach(
        self,
        port: str,
        interface: str,
        current: Mapping[str, str],
        links: Mapping[str, Link],
        uplinks: frozenset[str],
    ) -> None:
        """Raises Missing for an interface that is not there, Conflict for one that is another's.

        current: what the ports that there are have now.
        """
        parse_name_of(Kind.PORT, port)
        link = links.get(interface)
        if link is None:
            raise Missing(f"this host has no interface {interface!r}", "interface")
        if interface in uplinks:
            raise Conflict(f"{interface} is this host's uplink; a port's interface is the guest's own", "interface")
        if link.loopback:
            raise Conflict(f"{interface} is this host's loopback; a port's interface is the guest's own", "interface")
        for other, taken in (*self._interfaces.items(), *current.items()):
            if taken == interface and other != port:
                raise Conflict(f"{interface} is the interface of {other}; detach that first", "interface")
        self._write({**self._interfaces, port: interface})

    def detach(self, port: str) -> None:
        """Raises Missing for a port that was not attached."""
        parse_name_of(Kind.PORT, port)
        if port not in self._interfaces:
            raise Missing(f"{port} is not attached to an interface on this host", "port")
        self._write({other: interface for other, interface in self._interfaces.items() if other != port})

    def _write(self, interfaces: dict[str, str]) -> None:
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("w", encoding="utf-8") as file:
            json.dump(interfaces, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self._interfaces = interfaces

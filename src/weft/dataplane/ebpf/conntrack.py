"""Connections as the programs keep them: settings out, entries and events in. Judges no packet.

The programs count what a port has as they make and forget connections, so a connection is forgotten, or made, by a
program of theirs too, which is run on a packet that names it: what the kernel calls a test run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from weft.dataplane.ebpf import layout, libbpf
from weft.policy.connections import TIMEOUTS_S, State

SECOND_NS = 10**9
_WORDS = struct.Struct("=14xII")
_EXPIRED, _FORGET, _INSERT = 0, 1, 2  # ASKED_*
_MOST = 20  # ASKED_MOST
_BATCH = 4096
#: Where in a value the time is that it expires at.
_EXPIRES = struct.Struct("=8xQ")
_EVENTS = 1  # TRACKING_EVENTS


@dataclass(frozen=True, slots=True)
class Settings:
    """most: connections in all; most_of_port: of one port; timeouts_s: by state, those that are not as by default."""

    most: int = 1 << 18
    most_of_port: int = 1 << 16
    timeouts_s: Mapping[State, int] = field(default_factory=dict)


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
    )


_STATES = frozenset(map(int, State))


class Tracking:
    """The map tracking: settings, and the epoch of the rules. clock_ns: a test's time; 0: the kernel's."""

    def __init__(self, of: libbpf.Map, settings: Settings) -> None:
        self._map = of
        self.settings = settings
        self.events = False
        self.clock_ns = 0
        former = of.lookup(_ONLY)
        self._epoch = 0 if former is None else layout.TRACKING.unpack(former)[layout.STATES + 1]
        self.write()

    def renew(self) -> None:
        """Rules have changed: every connection is held against them with its next packet."""
        self._epoch += 1
        self.write()

    def write(self) -> None:
        self._map.update(_ONLY, tracking(self.settings, self._epoch, events=self.events, clock_ns=self.clock_ns))


_ONLY = layout.NUMBER.pack(0)


class Connections:
    """The table, by way of the program that is asked of it."""

    def __init__(self, table: libbpf.Map, asked: libbpf.Program) -> None:
        self._table = table
        self._run = libbpf.TestRun(asked)

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and value, also of what has expired; while others come and go."""
        for keys, values, count in self._table.chunks(_BATCH):
            for at in range(count):
                yield (
                    keys[at * layout.CONNECTION_KEY.size : (at + 1) * layout.CONNECTION_KEY.size],
                    values[at * layout.CONNECTION.size : (at + 1) * layout.CONNECTION.size],
                )

    def sweep(self, now_ns: int) -> int:
        """Forget what has expired; how many."""
        over = [key for key, value in self.entries() if _EXPIRES.unpack_from(value)[0] <= now_ns]
        return self._ask(_EXPIRED, over)

    def forget(self, keys: Iterable[bytes]) -> int:
        return self._ask(_FORGET, list(keys))

    def insert(self, entries: Mapping[bytes, bytes]) -> int:
        """Where there is none yet; how many there was room for."""
        return self._ask(_INSERT, [key + value for key, value in entries.items()])

    def _ask(self, what: int, items: list[bytes]) -> int:
        done = 0
        for at in range(0, len(items), _MOST):
            some = items[at : at + _MOST]
            done += self._run(_WORDS.pack(what, len(some)) + b"".join(some), 1).retval
        return done

"""Where the counters of each port and uplink are: a slot of an array, which its entries name. Counts nothing.

The array is per CPU and as large as it will ever be; which seat has which slot is pinned beside it, so an agent that
starts finds all as it was.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

from weft.dataplane.ebpf import layout, maps
from weft.dataplane.ebpf.libbpf import Map
from weft.kit.errors import Retry

NOBODYS = 0  #: the slot of what comes in by an interface that has none of its own


class Counters:
    """The maps counter_slots and counters, as one thing."""

    def __init__(self, slots: Map, values: Map) -> None:
        self._slots, self._values = slots, values
        self._of: dict[layout.Seat, int] = {
            layout.seat_of_key(key): layout.NUMBER.unpack(slot)[0] for key, slot in slots.items()
        }
        taken = {NOBODYS, *self._of.values()}
        self._free = [slot for slot in range(values.max_entries) if slot not in taken]  # sorted: a heap

    def seats(self) -> tuple[layout.Seat, ...]:
        """Who has counters, nobody excepted."""
        return tuple(self._of)

    def slot(self, seat: layout.Seat) -> int:
        """Nobody's, when the seat has none."""
        return self._of.get(seat, NOBODYS)

    def make(self, seat: layout.Seat) -> None:
        """New ones at zero, where there are none; where the kernel has lost whose they are, it is told. Raises Retry
        when all slots are taken.
        """
        if seat in self._of:
            number = layout.NUMBER.pack(self._of[seat])
            if self._slots.lookup(seat.key) != number:
                self._slots.update(seat.key, number)
            return
        if not self._free:
            full = f"counters: full at {self._values.max_entries} entries: raise the data plane's size of ports"
            raise Retry(full)
        slot = self._free[0]
        self.set(slot, bytes(self._values.value_bytes))
        self._slots.update(seat.key, layout.NUMBER.pack(slot))
        self._of[seat] = heapq.heappop(self._free)

    def set(self, slot: int, value: bytes) -> None:
        """value: of all CPUs."""
        self._values.update(layout.NUMBER.pack(slot), value)

    def reset(self, seat: layout.Seat) -> None:
        """They are another's from here on."""
        self.set(self.slot(seat), bytes(self._values.value_bytes))

    def delete(self, seat: layout.Seat) -> None:
        slot = self._of.pop(seat, None)
        if slot is not None:
            self._slots.delete(seat.key)
            heapq.heappush(self._free, slot)

    def items(self) -> Iterator[tuple[layout.Seat, bytes]]:
        """What was counted, with nobody's as that of seat 0; values are of all CPUs."""
        for seat, slot in ((layout.Seat(0), NOBODYS), *self._of.items()):
            value = self._values.lookup(layout.NUMBER.pack(slot))
            if value is not None:
                yield seat, value

    def take_over(self, generation: Path) -> None:
        """Another generation's, of the seats that both have: numbers go on from where they were. What is counted
        between this and the switch is missing from them.
        """
        slots = maps.former(generation / "counter_slots", self._slots)
        values = maps.former(generation / "counters", self._values)
        try:
            if slots is not None and values is not None:
                for seat, value in Counters(slots, values).items():
                    if seat in self._of or seat == layout.Seat(0):
                        self.set(self.slot(seat), value)
        finally:
            for former in (slots, values):
                if former is not None:
                    former.close()

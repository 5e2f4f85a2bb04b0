"""Lists that a program can walk: members of a group by number, from 0 on without a gap. Knows no row and no interface.

A number that nobody has any more is an entry of zeros until somebody else gets it, so that who stays keeps its number,
and a walk that is under way misses nobody. A fresh agent finds the numbers in the map itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.tables import Table

Place = tuple[int, bytes]  # a group (VSID), and who is in it


class Places:
    """One table of them. who: of an entry's value, what tells it from the others of its group."""

    def __init__(self, table: Table, who: Callable[[bytes], bytes]) -> None:
        self.table = table
        self._who = who
        self._empty = bytes(table.map.value_bytes)
        self._numbers: dict[Place, int] = {}
        self._free: dict[int, set[int]] = {}  # below the end, of each group
        self._ends: dict[int, int] = {}
        self._adopt()

    def _adopt(self) -> None:
        """What a former agent has left. Its entries of zeros are ours from here on."""
        there: dict[int, dict[int, bytes]] = {}
        for key, value in self.table.entries():
            group, number = layout.PLACE.unpack(key)
            there.setdefault(group, {})[number] = value
        for group, values in there.items():
            self._ends[group] = max(values) + 1
            for number in range(self._ends[group]):
                value = values.get(number, self._empty)
                place = group, self._who(value)
                if value == self._empty or place in self._numbers:
                    self._free.setdefault(group, set()).add(number)
                    self._clear(group, number)
                else:
                    self._numbers[place] = number

    def __contains__(self, place: Place) -> bool:
        return place in self._numbers

    def __iter__(self) -> Iterator[Place]:
        return iter(tuple(self._numbers))

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """(group, value) of what the kernel has, empty ones left out."""
        for key, value in self.table.entries():
            if value != self._empty:
                yield layout.PLACE.unpack(key)[0], value

    def put(self, values: Mapping[Place, bytes]) -> dict[Place, str]:
        """Make each so; why the kernel refused some."""
        refused: dict[Place, str] = {}
        for place, value in values.items():
            number = self._numbers.get(place)
            fresh = number is None
            if number is None:
                number = self._take(place)
            for why in self.table.put({layout.PLACE.pack(place[0], number): value}):
                refused[place] = why
                if fresh:
                    self._give_back(place)
        return refused

    def drop(self, places: Iterable[Place]) -> None:
        """Make each absent; absent already is success."""
        for place in places:
            if place in self._numbers:
                number = self._give_back(place)
                if number < self._ends.get(place[0], 0):
                    self._clear(place[0], number)

    def _clear(self, group: int, number: int) -> None:
        """Room or no room: a walk ends where one is absent."""
        self.table.put_anyway(layout.PLACE.pack(group, number), self._empty)

    def _take(self, place: Place) -> int:
        group = place[0]
        free = self._free.get(group)
        if free:
            number = min(free)
            free.remove(number)
        else:
            number = self._ends.get(group, 0)
            self._ends[group] = number + 1
        self._numbers[place] = number
        return number

    def _give_back(self, place: Place) -> int:
        """The number that it had. The group's end moves down over all that is free there."""
        group, number = place[0], self._numbers.pop(place)
        free = self._free.setdefault(group, set())
        free.add(number)
        end = self._ends[group]
        while end - 1 in free:
            end -= 1
            free.remove(end)
            # From the end down: none may follow one that is absent.
            self.table.drop([layout.PLACE.pack(group, end)])
        self._ends[group] = end
        if not end:
            del self._ends[group], self._free[group]
        return number

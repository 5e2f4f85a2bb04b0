"""Names of one kind in order, for lists that are read page by page. Holds no objects."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from weft.model.names import Name


class Names:
    """A sorted list that is put in order when it is read, not when it is written."""

    def __init__(self) -> None:
        self._names: list[Name] = []
        self._added: set[Name] = set()
        self._removed: set[Name] = set()

    def __len__(self) -> int:
        return len(self._names) + len(self._added) - len(self._removed)

    def add(self, name: Name) -> None:
        if name in self._removed:
            self._removed.discard(name)
        else:
            self._added.add(name)

    def remove(self, name: Name) -> None:
        if name in self._added:
            self._added.discard(name)
        else:
            self._removed.add(name)

    def below(self, prefix: str, after: str = "") -> list[Name]:
        """Every name that begins with ``prefix`` and is greater than ``after``, in order."""
        names = self._ordered()
        first = bisect_left(names, max(prefix, after))
        if first < len(names) and names[first] == after:
            first += 1
        # U+10FFFF: greater than anything that a name may hold
        return names[first : bisect_left(names, prefix + "\U0010ffff", lo=first)]

    def _ordered(self) -> list[Name]:
        if self._removed:
            self._names = [name for name in self._names if name not in self._removed]
        if self._added:
            self._names += self._added
            self._names.sort()  # two runs, one long and in order: timsort merges them
        self._added, self._removed = set(), set()
        return self._names


def first_of(names: Iterable[Name], count: int) -> tuple[list[Name], bool]:
    """The first so many, and whether there are more."""
    taken: list[Name] = []
    for name in names:
        if len(taken) == count:
            return taken, True
        taken.append(name)
    return taken, False

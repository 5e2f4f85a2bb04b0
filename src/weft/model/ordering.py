"""Names of one kind in order, for lists that are read page by page. Costs nothing until somebody reads one."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from weft.model.names import Name

_FEW = 64  # single insertions move the list's tail once each: beyond this, one merge is cheaper


class SortedNames:
    """A sorted list that is brought up to date when it is read, not when names come and go."""

    __slots__ = ("_added", "_names", "_removed")

    def __init__(self) -> None:
        self._names: list[Name] | None = None
        self._added: set[Name] = set()
        self._removed: set[Name] = set()

    def add(self, name: Name) -> None:
        if self._names is not None:
            if name in self._removed:
                self._removed.discard(name)
            else:
                self._added.add(name)

    def remove(self, name: Name) -> None:
        if self._names is not None:
            if name in self._added:
                self._added.discard(name)
            else:
                self._removed.add(name)

    def read(self, everything: Iterable[Name]) -> Sequence[Name]:
        """The names in order. ``everything``: all of them, for the first time that anybody asks."""
        if self._names is None:
            self._names = sorted(everything)
        if len(self._removed) > _FEW:
            self._names = [name for name in self._names if name not in self._removed]
        else:
            for name in self._removed:
                del self._names[bisect_left(self._names, name)]
        if len(self._added) > _FEW:
            # Two sorted runs: the sort notices, and merges them.
            self._names.extend(sorted(self._added))
            self._names.sort()
        else:
            for name in self._added:
                insort(self._names, name)
        self._added.clear()
        self._removed.clear()
        return self._names

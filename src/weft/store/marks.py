"""Who has written what lately: tells a commit that what it was judged against is no longer so. Keeps no values."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from weft.contracts.store import Guard, Overtaken

# Commits that are remembered: whoever was judged before them is judged again.
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class _Written:
    revision: int
    marks: Collection[str]
    puts: Mapping[str, object]
    deletes: Collection[str]

    def hits(self, reads: Collection[str]) -> str | None:
        """What of ``reads`` it has written."""
        if len(self.marks) + len(self.puts) + len(self.deletes) < len(reads):
            wanted = reads if isinstance(reads, set | frozenset) else frozenset(reads)
            for written in (self.marks, self.puts, self.deletes):
                for mark in written:
                    if mark in wanted:
                        return mark
            return None
        return next((mark for mark in reads if mark in self.marks or mark in self.puts or mark in self.deletes), None)


class Marks:
    """Of the commits after ``revision``, the latest of them."""

    def __init__(self, revision: int) -> None:
        self._floor = revision
        self._written: deque[_Written] = deque()

    def note(self, revision: int, guard: Guard | None, puts: Mapping[str, object], deletes: Collection[str]) -> None:
        self.wrote(revision, guard.writes if guard else (), puts, deletes)

    def wrote(
        self, revision: int, marks: Collection[str], puts: Mapping[str, object], deletes: Collection[str]
    ) -> None:
        self._written.append(_Written(revision, frozenset(marks), dict.fromkeys(puts), frozenset(deletes)))
        if len(self._written) > _KEPT:
            self._floor = self._written.popleft().revision

    def check(self, guard: Guard | None) -> None:
        """Raises Overtaken."""
        if guard is None:
            return
        if guard.since < self._floor:
            raise Overtaken(
                f"it was judged at revision {guard.since}; what was written after it is known from {self._floor}"
            )
        for written in reversed(self._written):
            if written.revision <= guard.since:
                return
            _refuse(guard, written)

    def check_one(
        self,
        guard: Guard | None,
        revision: int,
        other: Guard | None,
        puts: Mapping[str, object],
        deletes: Collection[str],
    ) -> None:
        """The same against one commit that is not noted yet."""
        if guard is not None and revision > guard.since:
            _refuse(guard, _Written(revision, frozenset(other.writes if other else ()), puts, frozenset(deletes)))


def _refuse(guard: Guard, written: _Written) -> None:
    if (mark := written.hits(guard.reads)) is not None:
        raise Overtaken(f"{mark} was written by revision {written.revision}, after {guard.since}")

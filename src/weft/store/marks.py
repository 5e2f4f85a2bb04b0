"""Who has written what lately: tells a commit that what it was judged against is no longer so. Keeps no values."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from weft.contracts.store import Guard, Overtaken

# Commits, and words of them, that are remembered: whoever was judged before them is judged again.
_KEPT = 10_000
_WORDS = 500_000
#: The mark of a commit that has written everything, whatever its names say.
EVERYTHING = "*"
# A commit of more words than this is taken to have written everything.
_MANY = 5_000


@dataclass(frozen=True, slots=True)
class _Written:
    """words: its marks and names; None: too many to tell."""

    revision: int
    words: frozenset[str] | None

    @property
    def size(self) -> int:
        return 0 if self.words is None else len(self.words)

    def refuse(self, guard: Guard) -> None:
        if self.words is None:
            if guard.reads:
                raise Overtaken(f"revision {self.revision} has written too much to tell what")
            return
        reads = guard.reads
        if len(self.words) < len(reads):
            wanted = reads if isinstance(reads, set | frozenset) else frozenset(reads)
            hit = next((word for word in self.words if word in wanted), None)
        else:
            hit = next((word for word in reads if word in self.words), None)
        if hit is not None:
            raise Overtaken(f"{hit} was written by revision {self.revision}, after {guard.since}")


class Marks:
    """Of the commits after ``revision``, the latest of them."""

    def __init__(self, revision: int) -> None:
        self._floor = revision
        self._written: deque[_Written] = deque()
        self._words = 0

    def note(self, revision: int, guard: Guard | None, puts: Collection[str], deletes: Collection[str]) -> None:
        """A commit of a store in which few ask, or nobody: nothing is kept before the first who does."""
        if guard is None and not self._written:
            self._floor = revision
        else:
            self.wrote(revision, guard.writes if guard else (), puts, deletes)

    def wrote(self, revision: int, marks: Collection[str], puts: Collection[str], deletes: Collection[str]) -> None:
        written = _Written(revision, _words(marks, puts, deletes))
        self._written.append(written)
        self._words += written.size
        while len(self._written) > 1 and (len(self._written) > _KEPT or self._words > _WORDS):
            oldest = self._written.popleft()
            self._floor = oldest.revision
            self._words -= oldest.size

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
            written.refuse(guard)

    def check_one(
        self,
        guard: Guard | None,
        revision: int,
        other: Guard | None,
        puts: Collection[str],
        deletes: Collection[str],
    ) -> None:
        """The same against one commit that is not noted yet."""
        if guard is not None and revision > guard.since:
            _Written(revision, _words(other.writes if other else (), puts, deletes)).refuse(guard)


def _words(marks: Collection[str], puts: Collection[str], deletes: Collection[str]) -> frozenset[str] | None:
    if len(marks) + len(puts) + len(deletes) > _MANY or EVERYTHING in marks:
        return None
    parts: tuple[Iterable[str], ...] = (marks, puts, deletes)
    return frozenset(word for part in parts for word in part)

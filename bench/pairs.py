"""Two sides measured in turn, and what their ratio is. Pure but for the two calls that it is given.

Whatever else the machine does meanwhile hits both sides alike; a ratio of neighbours in time does not see it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """Measured one right after the other."""

    ours: T
    theirs: T


def alternate(
    ours: Callable[[], T], theirs: Callable[[], T], pairs: int, progress: Progress, show: Callable[[T], str] = str
) -> list[Pair[T]]:
    """ABBA ABBA: neither side is always the one that comes first."""
    done: list[Pair[T]] = []
    for number in range(pairs):
        if number % 2 == 0:
            first = ours()
            pair = Pair(first, theirs())
        else:
            second = theirs()
            pair = Pair(ours(), second)
        done.append(pair)
        progress(f"{number + 1}/{pairs}: {show(pair.ours)} against {show(pair.theirs)}")
    return done


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the pairs' ratios, and how far the pairs lie apart."""

    value: float
    low: float  # first and third quartile
    high: float
    ours: float  # medians of the sides
    theirs: float
    pairs: int

    def spread(self) -> str:
        return f"quartiles {self.low:.3f}..{self.high:.3f} of {self.pairs} pairs"


def ratio(pairs: Sequence[Pair[T]], of: Callable[[T], float]) -> Ratio:
    """of: the number that counts of each measurement."""
    ours = [of(pair.ours) for pair in pairs]
    theirs = [of(pair.theirs) for pair in pairs]
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(statistics.median(ratios), low, high, statistics.median(ours), statistics.median(theirs), len(ratios))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank, of values in ascending order."""
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 1).__int__() - 1))]

"""Sides measured in turn, and what their ratio is. Pure but for the calls that it is given.

Whatever else the machine does meanwhile hits all sides alike; a ratio of neighbours in time does not see it. But it
does see luck that lasts: of two topologies of the very same programs one is some per cent faster for as long as both
stand, by where their memory came to lie. So what is to be told closer than that is set up anew, some times, and the
median of the medians counts: none is left out, and none is chosen.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """Measured one right after the other."""

    ours: T
    theirs: T


def in_turn(measures: Sequence[Callable[[], T]], rounds: int) -> Iterator[list[T]]:
    """Of each round what each measured. The order turns round, and begins with another one each time."""
    count = len(measures)
    for number in range(rounds):
        back = number // count % 2
        order = [(number + (count - 1 - place if back else place)) % count for place in range(count)]
        found = {each: measures[each]() for each in order}
        yield [found[each] for each in range(count)]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Where all is set up once: the median of the pairs' ratios. Where anew, the median of each set-up's median."""

    value: float  # infinite where theirs is nothing
    low: float  # first and third quartile of all pairs
    high: float
    ours: float  # medians of the sides
    theirs: float
    pairs: int
    medians: tuple[float, ...]  # of each set-up, in their order

    def spread(self) -> str:
        quartiles = f"quartiles {self.low:.3f}..{self.high:.3f} of {self.pairs} pairs"
        if len(self.medians) == 1:
            return quartiles
        apart = f"{min(self.medians):.3f}..{max(self.medians):.3f}"
        return f"the median of {len(self.medians)} set up one after the other, which are {apart}; {quartiles}"


def ratio(set_ups: Sequence[Sequence[Pair[T]]], of: Callable[[T], float]) -> Ratio:
    """set_ups: the pairs that were measured in each. of: the number that counts of each measurement."""
    by_set_up = [[_quotient(of(pair.ours), of(pair.theirs)) for pair in pairs] for pairs in set_ups]
    medians = tuple(statistics.median(each) for each in by_set_up)
    ratios = sorted(itertools.chain.from_iterable(by_set_up))
    pairs = list(itertools.chain.from_iterable(set_ups))
    return Ratio(
        statistics.median(medians),
        _quantile(ratios, 0.25),
        _quantile(ratios, 0.75),
        statistics.median(of(pair.ours) for pair in pairs),
        statistics.median(of(pair.theirs) for pair in pairs),
        len(pairs),
        medians,
    )


def _quotient(ours: float, theirs: float) -> float:
    """Whoever does nothing is not better than another who does nothing."""
    if ours == 0:
        return 0.0
    return ours / theirs if theirs else math.inf


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between two values in proportion, but for an infinite one, which has no proportion."""
    below, beyond = divmod((len(ordered) - 1) * share, 1)
    low = ordered[int(below)]
    return low + (ordered[int(below) + 1] - low) * beyond if beyond and low < math.inf else low


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank, of values in ascending order."""
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 1).__int__() - 1))]

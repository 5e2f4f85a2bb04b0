"""Finds the lowest free address of a range. Does not own what is taken: it is asked with that at hand."""

from __future__ import annotations

from collections.abc import Callable, Container
from heapq import heappop, heappush

from weft.model.values import Ip


class LowestFree:
    """The lowest free address, found in amortised O(log n).

    Invariant: every free address of the range is at or above ``_next``, or in the heap of those given back. What is
    in the heap may have been taken again by somebody who asked for it by name; it is thrown away when met.
    """

    __slots__ = ("_last", "_next", "_returned", "_text", "_waiting", "first")

    def __init__(self, first: int, last: int, text: Callable[[int], Ip]) -> None:
        self.first = first
        self._next = first
        self._last = last
        self._text = text
        self._returned: list[int] = []
        self._waiting: set[int] = set()  # what is in the heap, so that it is there but once

    def lowest(self, taken: Container[Ip]) -> Ip | None:
        """The lowest address of the range that is not taken. It is still free until its taker says so in ``taken``."""
        while self._returned:
            address = self._text(self._returned[0])
            if address not in taken:
                return address
            self._waiting.discard(heappop(self._returned))
        while self._next <= self._last:
            address = self._text(self._next)
            if address not in taken:
                return address
            self._next += 1
        return None

    def give_back(self, number: int) -> None:
        """Tell that an address may be free again. Others' addresses, and some not free after all, do no harm."""
        if self.first <= number < self._next and number not in self._waiting:
            self._waiting.add(number)
            heappush(self._returned, number)

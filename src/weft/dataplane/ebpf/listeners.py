"""How a host's ports share the room for multicast groups. Never loses a group: who asks for too much hears all."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping

#: All of IPv4's and all of IPv6's: what a multicast router's port listens to.
EVERY4, EVERY6 = "0.0.0.0", "::"  # noqa: S104 -- no address to bind to
EVERY_GROUP = frozenset({EVERY4, EVERY6})


def generalised(asked: Mapping[str, Collection[str]], room: int) -> dict[str, frozenset[str]]:
    """Each port's groups, in so many places: ports that ask for the most hear every group, until the others have room.

    A port that asks for no more than two groups is left as it is: all of them would take as many places.
    """
    given = {port: frozenset(groups) for port, groups in asked.items()}
    total = sum(map(len, given.values()))
    most = [(-len(groups), port) for port, groups in given.items()]
    heapq.heapify(most)
    while total > room and most:
        _, port = heapq.heappop(most)
        every = frozenset(EVERY6 if ":" in group else EVERY4 for group in given[port])
        if len(every) < len(given[port]):
            total += len(every) - len(given[port])
            given[port] = every
    return given

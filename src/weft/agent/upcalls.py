"""Fetches what the data plane hands up, and gives each thing to whoever deals with it. Deals with none itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from weft.contracts.dataplane import Announcement, Handed, Routing, Upcall
from weft.kit.waiting import readable


class Upcalls:
    """Reads as soon as there is something, and only then."""

    def __init__(
        self,
        fd: int | None,
        read: Callable[[], Awaitable[Sequence[Upcall]]],
        announced: Callable[[list[Announcement]], None],
        handed: Callable[[list[Handed]], None],
        routing: Callable[[list[Routing]], None],
    ) -> None:
        """fd: readable when ``read`` has something to give; None: it never has."""
        self._fd = fd
        self._read = read
        self._announced = announced
        self._handed = handed
        self._routing = routing

    async def run(self) -> None:
        if self._fd is None:
            return
        while True:
            await readable(self._fd)
            found = await self._read()
            if announced := [each for each in found if isinstance(each, Announcement)]:
                self._announced(announced)
            if handed := [each for each in found if isinstance(each, Handed)]:
                self._handed(handed)
            if routing := [each for each in found if isinstance(each, Routing)]:
                self._routing(routing)

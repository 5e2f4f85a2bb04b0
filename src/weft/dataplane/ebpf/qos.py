"""Token buckets of ports whose bandwidth is limited: made full, and taken away. Never reads or fills one.

They are the programs' state, not policy: repair() and a new generation do not look at them.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress

from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.libbpf import NOEXIST, Map


class Buckets:
    """The map buckets."""

    def __init__(self, of: Map) -> None:
        self._map = of

    def make(self, seat: layout.Seat) -> None:
        """Full ones, where there are none; those that are there go on as they are."""
        for key in layout.bucket_keys(seat):
            with suppress(FileExistsError):
                self._map.update(key, bytes(self._map.value_bytes), NOEXIST)

    def delete(self, seat: layout.Seat) -> None:
        """Absent is success."""
        for key in layout.bucket_keys(seat):
            self._map.delete(key)

    def keep(self, seats: Container[layout.Seat]) -> None:
        """All others go."""
        for key, _ in list(self._map.items()):
            if layout.seat_of_key(key[:8]) not in seats:
                self._map.delete(key)

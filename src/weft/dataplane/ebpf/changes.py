"""Counts the changes to the maps, for the programs: what they remember of former packets is good until the next one."""

from __future__ import annotations

from weft.dataplane.ebpf import layout, libbpf


class Changes:
    """Goes on from where a former process was."""

    def __init__(self, of: libbpf.Map) -> None:
        self._map = of
        there = of.lookup(layout.NUMBER.pack(0))
        (self._count,) = layout.NUMBER.unpack(there) if there else (0,)

    def made(self) -> None:
        """To be called after each change, before anybody is told that it is made."""
        self._count = (self._count + 1) % 2**32
        self._map.update(layout.NUMBER.pack(0), layout.NUMBER.pack(self._count))

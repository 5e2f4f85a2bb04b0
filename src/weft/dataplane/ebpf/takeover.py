"""How a generation of maps takes the place of those before it. Knows what is to be taken over, not what is in it.

A new generation is filled while a former one carries the traffic (docs/design/ebpf.md, Starting). Safe at any time: a
process that ends half-way leaves two generations, and the next one begins here again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from weft.dataplane.ebpf import maps
from weft.dataplane.ebpf.attachments import Attachment, Attachments
from weft.dataplane.ebpf.tables import Table

#: Takes what it can of a former generation, whose directory it is given; what it has by then stays.
Heir: TypeAlias = Callable[[Path], None]


class Takeover:
    """One process's. heirs: in this order, each of every former generation, just before the programs change."""

    def __init__(self, pins: Path, loaded: maps.Loaded, attachments: Attachments, heirs: Sequence[Heir]) -> None:
        self._pins, self._loaded = pins, loaded
        self._attachments = attachments
        self._heirs = tuple(heirs)

    @property
    def is_due(self) -> bool:
        """Programs of a former generation still carry the traffic, until this one has been filled."""
        return self._attachments.filling

    def covers(self, tables: Iterable[Table]) -> bool:
        """Whether this generation holds every key that the former ones do. So, without a controller to say that all
        is told, an agent that starts from its disk changes over, too; and one that knows nothing yet does not.
        """
        asked = tuple(tables)
        return all(
            maps.holds_only(generation / table.map.name, table.map, table.told)
            for generation in self._former()
            for table in asked
        )

    def finish(self) -> dict[Attachment, str]:
        """This generation takes over, and what else is pinned goes; which interfaces did not let it, and why: then it
        is due again.
        """
        if self.is_due:
            for generation in self._former():
                for heir in self._heirs:
                    heir(generation)
            if refused := self._attachments.change_over():
                return refused
        maps.forget_others(self._pins, self._loaded)
        return {}

    def _former(self) -> Iterator[Path]:
        return former_generations(self._pins, self._loaded)


def former_generations(pins: Path, loaded: maps.Loaded) -> Iterator[Path]:
    """Every one that is pinned there, but that which is loaded."""
    return (generation for generation in maps.generations(pins) if generation != loaded.generation)

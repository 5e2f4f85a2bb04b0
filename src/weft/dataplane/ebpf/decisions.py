"""How often rules have decided, and what they have denied, as the programs count it. Knows rules by numbers only.

Names come from whoever asks; a count whose port or rule has none is forgotten, once all names are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from weft.contracts.dataplane import NO_RULE
from weft.dataplane.ebpf import layout, maps
from weft.dataplane.ebpf.libbpf import Map


class Decisions:
    """The maps hits and denials."""

    def __init__(self, hits: Map, denials: Map) -> None:
        self._hits, self._denials = hits, denials

    def hits(self, rules: Mapping[int, str], *, forget: bool) -> dict[str, int]:
        """Packets that each of these rules has decided. forget: there are no others."""
        counted = {layout.NUMBER.unpack(key)[0]: layout.HIT.unpack(value)[0] for key, value in self._hits.items()}
        if forget:
            for number in counted.keys() - rules.keys():
                self._hits.delete(layout.NUMBER.pack(number))
        return {name: counted.get(number, 0) for number, name in rules.items()}

    def denials(self, ports: Mapping[int, str], rules: Mapping[int, str], *, forget: bool) -> dict[str, dict[str, int]]:
        """Packets denied, by port and rule (``NO_RULE``: by none). forget: there are no other ports and rules."""
        names = {**rules, 0: NO_RULE}
        found: dict[str, dict[str, int]] = {}
        for key, value in self._denials.items():
            port, rule, _ = layout.DENIAL.unpack(key)
            if port in ports and rule in names:
                found.setdefault(ports[port], {})[names[rule]] = layout.COUNT.unpack(value)[0]
            elif forget:
                self._denials.delete(key)
        return found

    def take_over(self, generation: Path) -> None:
        """What another generation has counted."""
        for of in (self._hits, self._denials):
            for key, value in maps.former_entries(generation / of.name, of):
                of.update(key, value)

"""The whole packet table, of all its parts."""

from __future__ import annotations

from packets import bridge, rewriting, stt, table, trunk, tunnels
from packets.table import Case

CASES: tuple[Case, ...] = (
    *table.CASES, *tunnels.CASES, *stt.CASES, *rewriting.CASES, *trunk.CASES, *bridge.CASES,
)  # fmt: skip

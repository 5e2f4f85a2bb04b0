"""The whole packet table, of all its parts."""

from __future__ import annotations

from packets import bridge, provider_group, rewriting, stt, table, trunk, tunnels
from packets.table import Case

CASES: tuple[Case, ...] = (
    *table.CASES, *tunnels.CASES, *stt.CASES, *rewriting.CASES, *trunk.CASES, *bridge.CASES, *provider_group.CASES,
)  # fmt: skip

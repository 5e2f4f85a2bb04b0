"""What every bench is handed. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.report import Figure
from bench.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """progress: one line that a person watches. build: where what is compiled or written on the way goes."""

    settings: Settings
    build: Path
    progress: Callable[[str], None]

    def fewer(self, runs: int, turns: int | None = None) -> Context:
        """At most so many: for what is far from its bar, or held to none, or for a part of all."""
        settings = self.settings
        turns = settings.turns if turns is None else min(turns, settings.turns)
        return replace(self, settings=replace(settings, runs=min(runs, settings.runs), turns=turns))


@dataclass(frozen=True, slots=True)
class Bench:
    """One word of --only. how: how it is measured, for docs/benchmarks.md. plot: a file that it leaves in ``build``."""

    name: str
    title: str
    how: str
    run: Callable[[Context], list[Figure]]
    plot: str | None = None

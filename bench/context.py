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

    def fewer(self, runs: int) -> Context:
        """At most so many runs: for what is far from its bar, or held to none."""
        return replace(self, settings=replace(self.settings, runs=min(runs, self.settings.runs)))

    def oftener(self, times: int) -> Context:
        """As long in all, in so many times as many pairs: the machine is another one from second to second."""
        settings = self.settings
        return replace(self, settings=replace(settings, pairs=settings.pairs * times, seconds=settings.seconds / times))


@dataclass(frozen=True, slots=True)
class Bench:
    """One word of --only. how: how it is measured, for docs/benchmarks.md. plot: a file that it leaves in ``build``."""

    name: str
    title: str
    how: str
    run: Callable[[Context], list[Figure]]
    plot: str | None = None

"""docs/benchmarks.md, from a full run. Never from a quick one or from a part."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.context import Bench
from bench.report import Figure, bar_text, met_text, value_text


def page(
    results: Mapping[str, Sequence[Figure]],
    benches: Mapping[str, Bench],
    missed: Mapping[str, str],
    machine: Mapping[str, Any],
    broken: Sequence[str] = (),
) -> str:
    """results: figures by bench. broken: the benches that gave none."""
    return "\n".join(_lines(results, benches, missed, machine, broken)) + "\n"


def write(text: str, path: Path, plots: Iterable[Path] = ()) -> None:
    """plots: what the page shows, which goes beside it."""
    path.write_text(text, encoding="utf-8")
    for each in plots:
        shutil.copyfile(each, path.with_name(plot_name(each.name)))


def plot_name(file: str) -> str:
    """What a plot is called beside the page."""
    return f"benchmarks-{file}"


def _lines(
    results: Mapping[str, Sequence[Figure]],
    benches: Mapping[str, Bench],
    missed: Mapping[str, str],
    machine: Mapping[str, Any],
    broken: Sequence[str],
) -> Iterable[str]:
    yield "# Benchmarks"
    yield ""
    yield "The last full run of `make bench`, as it came out; `make bench ONLY=tcp,pps` runs some. This page is written"
    yield "by `python -m bench --write-docs`, and by nothing else. A figure that is missed stands here as missed."
    yield ""
    yield (
        f"{machine['date']}, commit {machine['commit']}. {machine['cpus']} CPUs ({machine['cpu']}"
        f"{', a virtual machine' if machine['hypervisor'] else ''}), {machine['memory_gib']} GiB, Linux "
        f"{machine['kernel']}, Python {machine['python']}. Everything ran on this one machine, both ends of every wire "
        "included."
    )
    yield ""
    if broken:
        yield f"Broken in this run, and so without figures: {', '.join(broken)}."
        yield ""
    yield "| figure | value | unit | bar | |"
    yield "|---|---:|---|---|---|"
    for figures in results.values():
        for each in figures:
            if each.detail:
                met = met_text(each.met)
                yield (
                    f"| {each.name} | {value_text(each)} | {each.unit} | {_cell(bar_text(each.bar))} | "
                    f"{f'**{met}**' if each.met is False else met} |"
                )
    yield ""
    yield from _missed([each for figures in results.values() for each in figures if each.met is False], missed)
    yield "## How each is measured"
    for name, figures in results.items():
        yield ""
        yield f"### {name}: {benches[name].title}"
        yield ""
        yield benches[name].how
        yield ""
        if plot := benches[name].plot:
            yield f"![{benches[name].title}]({plot_name(plot)})"
            yield ""
        for each in figures:
            if each.detail:
                yield f"- {each.name}: {each.detail}."


def _missed(figures: Sequence[Figure], missed: Mapping[str, str]) -> Iterable[str]:
    if not figures:
        return
    yield "## Missed, and what it would take"
    yield ""
    for each in figures:
        text = missed.get(each.name, "not known yet.")
        yield f"- {each.name} ({value_text(each)}, bar {bar_text(each.bar)}): {text}"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

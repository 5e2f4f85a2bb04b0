"""`make bench`: runs the benches, prints a table, writes build/bench.json. A missed bar is a result, not a failure."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console
from rich.table import Table

from bench import docs, machine, report
from bench.context import Context
from bench.processes import ROOT
from bench.registry import BENCHES, MISSED
from bench.report import Figure
from bench.settings import Settings

#: For one bench. The longest, growth, takes some five minutes.
LONGEST_S = 900

_DOCS = ROOT / "docs" / "benchmarks.md"


def chosen(only: str | None) -> list[str]:
    """Names of --only, in the order in which they run."""
    if only is None:
        return list(BENCHES)
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    unknown = sorted(wanted - BENCHES.keys())
    if unknown or not wanted:
        raise click.UsageError(f"{', '.join(unknown) or 'nothing'} is no bench; there are {', '.join(BENCHES)}")
    return [name for name in BENCHES if name in wanted]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="NAME,NAME", help="Some of the benches, by name.")
@click.option("--list", "list_them", is_flag=True, help="Name them and end.")
@click.option("--quick", is_flag=True, help="Fewer and shorter runs: shows that all works, and no figure.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    help="Of each measurement of traffic; where sides take turns, ten turns.  [default: 0.5]",
)
@click.option("--output", type=click.Path(path_type=Path), help="Where the JSON goes.  [default: build/bench.json]")
@click.option("--write-docs", is_flag=True, help="Write docs/benchmarks.md from this run; it must be a full one.")
def main(
    only: str | None, list_them: bool, quick: bool, seconds: float | None, output: Path | None, write_docs: bool
) -> None:
    """Measure Weft. Exit code 0: everything was measured, whatever came out; 1: something broke."""
    names = chosen(only)
    if list_them:
        for name in names:
            click.echo(f"{name:12} {BENCHES[name].title}")
        return
    if write_docs and (quick or len(names) < len(BENCHES)):
        raise click.UsageError("--write-docs wants a full run: neither --quick nor --only")
    if os.geteuid():
        raise click.UsageError("this needs root: it makes network namespaces and loads eBPF programs")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    signal.signal(signal.SIGTERM, _terminated)
    console = Console(stderr=True)
    build = ROOT / "build"
    facts = {**machine.facts(), "quick": quick}
    context = Context(Settings.of(quick=quick, seconds=seconds), build / "bench", _progress(console))
    results, broken = run(context, names, console)
    figures = [each for some in results.values() for each in some]
    path = output or build / ("bench-quick.json" if quick else "bench.json")
    report.write_json(figures, path)
    path.with_name(f"{path.stem}-machine.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    _print(results, broken, facts, quick=quick)
    click.echo(f"written to {path}")
    if write_docs:
        plots = [context.build / plot for name in results if (plot := BENCHES[name].plot)]
        docs.write(docs.page(results, BENCHES, MISSED, facts, broken), _DOCS, plots)
        click.echo(f"written to {_DOCS}")
    if broken:
        click.echo(f"broken: {', '.join(broken)}", err=True)
        sys.exit(1)


def run(context: Context, names: Sequence[str], console: Console) -> tuple[dict[str, list[Figure]], list[str]]:
    """Figures by bench, and the benches that broke: one that does is no reason not to run the others."""
    results: dict[str, list[Figure]] = {}
    broken: list[str] = []
    for name in names:
        began = time.monotonic()
        try:
            with _working(console, name), _bounded():
                results[name] = BENCHES[name].run(context)
        except Exception:  # noqa: BLE001 - shown whole, remembered, and the exit code says so
            broken.append(name)
            console.print(f"[red]{name} broke[/red]")
            console.print(traceback.format_exc(), markup=False, highlight=False)
        else:
            for each in results[name]:
                if each.met is not None:
                    value = f"{each.name} {report.value_text(each)} {each.unit}"
                    context.progress(f"{value}: {report.met_text(each.met)} ({report.bar_text(each.bar)})")
        context.progress(f"{name}: {time.monotonic() - began:.0f} s")
    return results, broken


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """A bench that hangs breaks as one that fails does, and the others run."""

    def over(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"it took more than {LONGEST_S} s")

    former = signal.signal(signal.SIGALRM, over)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


@contextlib.contextmanager
def _working(console: Console, name: str) -> Iterator[None]:
    if console.is_terminal:
        with console.status(f"{name}: {BENCHES[name].title}"):
            yield
    else:
        yield


def _progress(console: Console) -> _Lines:
    return _Lines(console, time.monotonic())


class _Lines:
    """One line each, with the time since the beginning."""

    def __init__(self, console: Console, began: float) -> None:
        self._console, self._began = console, began

    def __call__(self, text: str) -> None:
        passed = time.monotonic() - self._began
        self._console.print(f"{passed:6.0f} s  {text}", highlight=False, markup=False, soft_wrap=True)


def _print(
    results: Mapping[str, Sequence[Figure]], broken: Sequence[str], facts: Mapping[str, object], *, quick: bool
) -> None:
    title = f"{facts['date']}, {facts['cpus']} CPUs, Linux {facts['kernel']}"
    table = Table(title=f"{title}  (quick: no figures)" if quick else title)
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("bar")
    table.add_column("", no_wrap=True)
    for figures in results.values():
        for each in figures:
            style = {True: "green", False: "bold red", None: ""}[each.met]
            table.add_row(
                each.name, report.value_text(each), each.unit, report.bar_text(each.bar), report.met_text(each.met),
                style=style,
            )  # fmt: skip
        table.add_section()
    for name in broken:
        table.add_row(name, "", "", BENCHES[name].title, "failed", style="bold red")
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a pipe has no width to keep to
    console.print(table)


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt  # namespaces, pins and processes go by the same way as at Ctrl-C


if __name__ == "__main__":
    main()

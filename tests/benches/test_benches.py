"""Every bench runs, and measures as little as it can: nobody runs `make bench` daily, and what it rests on changes.

What is measured against others' programs, which only `make bench` installs, runs here without them. migration has a
test of its own (tests/lab/test_migration.py).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench import __main__ as bench_main
from bench import guarded, ovn, processes, topology
from bench.context import Bench, Context
from bench.fleet import PORTS_OF_HOST, Fleet
from bench.openvswitch import KINDS
from bench.registry import BENCHES
from bench.report import Figure
from bench.settings import Settings
from bench.topology import Side
from bench.trackers import Tracker
from bench.traffic import Traffic, program
from rich.console import Console

from weft.lab import shell

pytestmark = pytest.mark.root

#: A bench that hangs breaks after this long, on a machine that is loaded otherwise, too. They take 1 to 20 s.
LONGEST_S = 120


@contextmanager
def _no_others(_members: int) -> Iterator[tuple[Tracker, ...]]:
    yield ()


def _guarded(context: Context) -> list[Figure]:
    return guarded.run(context, _no_others)


def _openvswitch(context: Context) -> list[Figure]:
    """Our side of it: a subnet by each rule that Open vSwitch has, too."""
    traffic, settings = Traffic(program(context.build)), context.settings
    with topology.topology(rules=tuple(KINDS)) as up:
        got = traffic.tcp_bits_s([up.ruled(rule) for rule in KINDS], settings.turn_s, settings.turns)
        return [Figure(f"{rule}", each[0], "bits/s") for rule, each in zip(KINDS, got, strict=True)]


def _ovn(context: Context) -> list[Figure]:
    """Our side of it: a controller with listeners, and real agents."""
    hosts = context.settings.domain_hosts
    with processes.directory() as at:
        ours = ovn._weft(context, at, Fleet(hosts, hosts * PORTS_OF_HOST), 1, 1)
    return [Figure("whole", ours.whole[0], "ms"), Figure("programmed", ours.programmed[0], "ms")]


WITHOUT_OTHERS: dict[str, Callable[[Context], list[Figure]]] = {
    "guarded": _guarded,
    "openvswitch": _openvswitch,
    "ovn": _ovn,
}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.mark.parametrize("name", [name for name in BENCHES if name != "migration"])
def test_a_bench_sets_up_what_it_measures_and_measures_it(
    name: str, build: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = BENCHES[name]
    monkeypatch.setitem(BENCHES, name, Bench(name, bench.title, bench.how, WITHOUT_OTHERS.get(name, bench.run)))
    monkeypatch.setattr(bench_main, "LONGEST_S", LONGEST_S)
    monkeypatch.setenv("PYTHONPATH", str(processes.ROOT / "src"))
    context = Context(Settings.least(), build, print)
    results, broken = bench_main.run(context, [name], Console())
    assert not broken, capsys.readouterr().out
    figures = results[name]
    assert len({each.name for each in figures}) == len(figures) > 0
    assert all(each.value is not None and math.isfinite(each.value) and each.value >= 0 for each in figures)
    mine = f"{processes.PREFIX}{os.getpid()}-"
    assert not shell.namespaces(mine)
    assert not list(shell.BPF_FILESYSTEM.glob(f"{mine}*"))


def test_a_path_that_lets_no_connection_through_is_measured_as_none_and_ends_nothing(build: Path) -> None:
    name = f"{processes.PREFIX}{os.getpid()}-silent"
    shell.ip_batch([f"netns add {name}"])
    try:
        shell.ip_batch(
            [
                "link add silent0 type veth peer name deaf0",
                "address add 10.9.0.1/24 dev silent0",
                "link set lo up",
                "link set silent0 up",
                "link set deaf0 up",
                "neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev silent0 nud permanent",
            ],
            name,
        )
        traffic = Traffic(program(build))
        assert traffic.connections(Side("silent", name, name, "10.9.0.2"), 0.1) == 0.0
        assert traffic.connections(Side("heard", name, name, "10.9.0.1"), 0.1) > 0.0
    finally:
        shell.delete_namespaces([name])

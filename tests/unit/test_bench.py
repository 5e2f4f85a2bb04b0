"""The benches' own logic: what is a ratio, what is met, what is written. Measures nothing."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from bench import docs, report
from bench.__main__ import chosen
from bench.domain import Counting
from bench.pairs import Pair, alternate, percentile, ratio
from bench.registry import BENCHES, MISSED
from bench.report import AtLeast, AtMost, Figure, ReportOnly
from bench.settings import Settings

#: The issue's table, in the words of --only.
FIGURES = {
    "tcp",
    "vxlan",
    "pps",
    "latency",
    "rules",
    "openvswitch",
    "flood",
    "guarded",
    "scale",
    "records",
    "agent",
    "api",
    "controller",
    "domain",
    "growth",
    "fleet",
    "security",
    "migration",
}


def test_every_figure_has_a_bench_of_its_name() -> None:
    assert BENCHES.keys() == FIGURES
    assert all(name == bench.name and bench.title and bench.how for name, bench in BENCHES.items())


def test_only_takes_names_in_any_order_and_runs_them_in_ours() -> None:
    assert chosen("pps, tcp") == ["tcp", "pps"]
    assert chosen(None) == list(BENCHES)


@pytest.mark.parametrize("only", ["speed", "tcp,speed", "", ","])
def test_only_refuses_a_name_that_is_no_bench_and_says_which_there_are(only: str) -> None:
    with pytest.raises(click.UsageError, match="there are tcp, vxlan"):
        chosen(only)


@pytest.mark.parametrize(
    ("value", "bar", "met"),
    [
        (1.0, AtLeast(1.0), True),
        (0.9999, AtLeast(1.0), False),  # shown as 1.000, and missed all the same
        (1.1, AtMost(1.1), True),
        (1.1001, AtMost(1.1), False),
        (0.0, AtMost(20), True),
        (1.9, ReportOnly("published: 1.9 s"), None),
        (1.9, ReportOnly(), None),
    ],
)
def test_a_bar_is_met_or_missed_or_there_is_none(value: float, bar: report.Bar, met: bool | None) -> None:
    assert Figure("some", value, "ratio", bar).met is met


def test_json_is_a_list_of_five_fields_each(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    figures = [Figure("a", 1.23456789, "ratio", AtLeast(1.1), "detail"), Figure("b", 3, "s")]
    report.write_json(figures, path)
    assert json.loads(path.read_text()) == [
        {"name": "a", "value": 1.234568, "unit": "ratio", "bar": ">= 1.1", "met": True},
        {"name": "b", "value": 3, "unit": "s", "bar": None, "met": None},
    ]
    assert [each.name for each in path.parent.iterdir()] == ["bench.json"]


def test_the_two_sides_take_turns_at_being_first() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return 1.0

    pairs = alternate(lambda: side("a"), lambda: side("b"), 4, lambda _: None)
    assert "".join(order) == "abbaabba"
    assert len(pairs) == 4


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_medians() -> None:
    found = ratio([Pair(1.0, 2.0), Pair(9.0, 3.0), Pair(10.0, 100.0)], float)
    assert found.value == 0.5
    assert (found.ours, found.theirs, found.pairs) == (9.0, 3.0, 3)


def test_one_pair_is_a_ratio_too() -> None:
    assert ratio([Pair(1.0, 2.0)], float).value == 0.5


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert percentile(list(range(1, 101)), share) == value


def test_a_quick_run_measures_less_of_everything() -> None:
    quick, full = Settings.of(quick=True, seconds=None), Settings.of(quick=False, seconds=None)
    assert full.pairs >= 5
    assert full.repeats >= 5
    assert (full.records, full.domain_ports, full.domain_hosts) == (1_000_000, 40_000, 500)
    for field in ("seconds", "pairs", "records", "requests", "repeats", "ports", "domain_ports", "domain_hosts"):
        assert getattr(quick, field) < getattr(full, field), field
    assert Settings.of(quick=False, seconds=5).seconds == 5


def test_the_page_says_of_a_missed_figure_that_it_is_missed_and_what_it_would_take() -> None:
    machine = {
        "date": "2026-01-01 00:00 UTC", "commit": "abc", "cpu": "CPU", "cpus": 2, "hypervisor": True,
        "memory_gib": 8, "kernel": "6.1", "python": "3.11",
    }  # fmt: skip
    results = {
        "tcp": [
            Figure("tcp_vs_plain", 0.9, "ratio", AtLeast(1.0), "weft 9, plain 10 Gbit/s"),
            Figure("tcp_vs_plain_weft_side", 9, "Gbit/s"),
        ]
    }
    text = docs.page(results, BENCHES, {"tcp_vs_plain": "A faster path."}, machine)
    assert "| tcp_vs_plain | 0.900 | ratio | >= 1 | **missed** |" in text
    assert "- tcp_vs_plain (0.900, bar >= 1): A faster path." in text
    assert "weft 9, plain 10 Gbit/s." in text
    assert "| tcp_vs_plain_weft_side" not in text  # a part of a ratio


def test_what_a_missed_figure_would_take_is_said_of_figures_by_a_known_bench() -> None:
    assert all(name.split("_")[0] in {*FIGURES, "api"} for name in MISSED)


@pytest.mark.parametrize("step", [1, 3, 7, 8, 9, 64, 10_000])
async def test_rows_are_counted_right_wherever_a_read_ends(step: int) -> None:
    import asyncio

    connected = asyncio.Event()
    host = Counting("hosts/h1", connected)
    row = b'{"vsid":5001,"ca":"10.0.0.1","pa":"100.64.0.1","mac":"02:00:00:00:00:01","rule":"nvgre"}'
    frame = b'{"scope":"rd:x","puts":{"records":[' + b",".join([row] * 25) + b"]}}\n"
    stream = frame + b'{"revision":41,"synced":true}\n' + frame + b'1f\r\n{"revision":42,"synced":true}\n\r\n'
    for start in range(0, len(stream), step):
        piece = stream[start : start + step]
        memoryview(host.get_buffer(-1))[: len(piece)] = piece
        host.buffer_updated(len(piece))
    assert (host.rows, host.revision, host.bytes) == (50, 42, len(stream))
    assert connected.is_set()
    await host.holds(42)

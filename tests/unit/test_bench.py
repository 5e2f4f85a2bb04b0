"""The benches' own logic: what is a ratio, what is met, what is written. Measures nothing."""

from __future__ import annotations

import io
import json
import math
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import pytest
from bench import __main__ as bench_main
from bench import docs, growth, guarded, report
from bench.__main__ import chosen
from bench.context import Bench, Context
from bench.domain import Counting
from bench.ovn import Database
from bench.pairs import Pair, in_turn, percentile, ratio
from bench.registry import BENCHES, MISSED
from bench.report import AtLeast, AtMost, Figure, ReportOnly
from bench.settings import Settings
from rich.console import Console

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
    "ovn",
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


@pytest.mark.parametrize(("names", "order"), [("ab", "abbabaab"), ("abc", "abcbcacabcbaacb"), ("a", "aaa")])
def test_the_sides_take_turns_at_being_first(names: str, order: str) -> None:
    said: list[str] = []

    def measure(name: str) -> str:
        said.append(name)
        return name

    rounds = len(order) // len(names)
    measured = list(in_turn([partial(measure, each) for each in names], rounds))
    assert "".join(said) == order
    assert measured == [list(names)] * rounds


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_medians() -> None:
    found = ratio([[Pair(1.0, 2.0), Pair(9.0, 3.0), Pair(10.0, 100.0)]], float)
    assert found.value == 0.5
    assert (found.ours, found.theirs, found.pairs) == (9.0, 3.0, 3)
    assert found.spread() == "quartiles 0.300..1.750 of 3 pairs"


def test_one_pair_is_a_ratio_too() -> None:
    found = ratio([[Pair(1.0, 2.0)]], float)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_of_several_set_ups_the_ratio_is_the_median_of_their_medians_whatever_each_had_of_pairs() -> None:
    set_ups = [[Pair(0.9, 1.0)] * 5, [Pair(0.97, 1.0)], [Pair(0.95, 1.0), Pair(0.96, 1.0), Pair(3.0, 1.0)]]
    found = ratio(set_ups, float)
    assert found.value == 0.96
    assert found.medians == (0.9, 0.97, 0.96)
    assert found.spread() == (
        "the median of 3 set up one after the other, which are 0.900..0.970; quartiles 0.900..0.960 of 9 pairs"
    )


def test_a_turn_in_which_the_other_does_nothing_is_counted_and_two_that_do_nothing_are_no_victory() -> None:
    some = ratio([[Pair(4.0, 2.0), Pair(4.0, 0.0), Pair(4.0, 4.0)]], float)
    assert (some.value, some.low, some.high) == (2.0, 1.5, math.inf)
    assert ratio([[Pair(4.0, 0.0), Pair(4.0, 0.0)]], float).value == math.inf
    assert ratio([[Pair(0.0, 0.0)]], float).value == 0.0


def test_connections_of_which_another_makes_none_are_said_and_not_compared() -> None:
    figures = guarded._connection_figures(
        {
            "no groups": [[Pair(9.0, 10.0)], [Pair(9.0, 10.0)]],
            "linux": [[Pair(9.0, 8.0)], [Pair(9.0, 0.0)]],
            "ovs": [[Pair(9.0, 0.0)], [Pair(9.0, 0.0)]],
        }
    )
    assert [each.name for each in figures] == [
        "guarded_connections_per_second",
        "guarded_connections_vs_linux",
        "guarded_connections_vs_ovs",
    ]
    *_, linux, ovs = figures
    assert "linux made none in 1 of its 2 turns" in linux.detail
    assert "ovs made none in 2 of its 2 turns" in ovs.detail
    assert (ovs.value, ovs.met, report.value_text(ovs)) == (None, None, "not measured")
    assert report.as_json([ovs])[0]["value"] is None


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
    assert "Broken" not in text
    assert "without figures: ovn, growth." in docs.page(results, BENCHES, {}, machine, ["ovn", "growth"])


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


@pytest.mark.parametrize("step", [1, 5, 64, 10_000])
def test_what_an_ovsdb_server_says_is_read_wherever_a_read_ends(step: int, tmp_path: Path) -> None:
    answer = {"id": 0, "error": None, "result": [{"rows": [{"name": "a}b", "n": each} for each in range(20)]}]}
    asked: list[dict[str, Any]] = []

    def serve(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        with peer:
            asked.append(json.loads(peer.recv(1 << 16)))
            said = json.dumps({"id": "echo", "method": "echo", "params": ["x"]}) + "\n" + json.dumps(answer)
            for start in range(0, len(said), step):
                peer.sendall(said[start : start + step].encode())
            asked.append(json.loads(peer.recv(1 << 16)))

    with socket.socket(socket.AF_UNIX) as listening, ThreadPoolExecutor(1) as threads:
        listening.bind(str(tmp_path / "db.sock"))
        listening.listen()
        serving = threads.submit(serve, listening)
        database = Database(tmp_path / "db.sock", "OVN_Northbound")
        rows = database.rows("Logical_Switch_Port", ["name", "n"])
        serving.result()
        database.close()
    assert rows == answer["result"][0]["rows"]
    assert asked[0]["method"] == "transact"
    assert asked[1] == {"id": "echo", "result": ["x"], "error": None}


def test_what_an_ovsdb_server_refuses_is_said(tmp_path: Path) -> None:
    refused = {"id": 0, "error": None, "result": [{}, {"error": "constraint violation", "details": "no such column"}]}
    with socket.socket(socket.AF_UNIX) as listening, ThreadPoolExecutor(1) as threads:
        listening.bind(str(tmp_path / "db.sock"))
        listening.listen()
        serving = threads.submit(lambda: listening.accept()[0])
        database = Database(tmp_path / "db.sock", "OVN_Northbound")
        with serving.result() as peer:
            peer.sendall(json.dumps(refused).encode())
            with pytest.raises(RuntimeError, match="no such column"):
                database.transact([])
        database.close()


def test_the_plot_of_growth_has_every_point_and_label_inside_it() -> None:
    steps = [
        growth.Step(10**power, 10.0**power / 9_000, 10.0**power / 1e4, power * 2.0, 60 << 20) for power in (3, 4, 6)
    ]
    drawn = ET.fromstring(growth.plot({"sqlite": steps, "etcd": steps[:2]}))  # noqa: S314 - ours
    width, height = float(drawn.attrib["width"]), float(drawn.attrib["height"])
    space = "{http://www.w3.org/2000/svg}"
    circles, texts = drawn.findall(f"{space}circle"), drawn.findall(f"{space}text")
    panels = 4
    assert len(circles) == panels * (3 + 2)
    assert all(0 < float(each.attrib["cx"]) < width and 0 < float(each.attrib["cy"]) < height for each in circles)
    last = [float(each.attrib["x"]) for each in texts if each.text == "1M"]
    assert len(last) == panels
    assert max(last) + 10 < width  # half of the label


def test_the_page_shows_a_plot_that_goes_beside_it(tmp_path: Path) -> None:
    made = tmp_path / "build" / growth.PLOT
    made.parent.mkdir()
    made.write_text("<svg/>", encoding="utf-8")
    machine = dict.fromkeys(("date", "commit", "cpus", "cpu", "memory_gib", "kernel", "python"), "1") | {
        "hypervisor": ""
    }
    results = {"growth": [Figure("growth_sqlite_created", 1.0, "s", detail="x")]}
    page = tmp_path / "benchmarks.md"
    docs.write(docs.page(results, BENCHES, MISSED, machine), page, [made])
    assert f"]({docs.plot_name(growth.PLOT)})" in page.read_text(encoding="utf-8")
    assert (tmp_path / docs.plot_name(growth.PLOT)).read_text(encoding="utf-8") == "<svg/>"


def test_a_bench_that_breaks_or_hangs_is_said_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_context: Context) -> list[Figure]:
        raise ValueError("nothing is measured")

    def hangs(_context: Context) -> list[Figure]:
        threading.Event().wait()
        return []

    def measures(_context: Context) -> list[Figure]:
        return [Figure("done", 1.0, "s")]

    for run in (breaks, hangs, measures):
        monkeypatch.setitem(BENCHES, run.__name__, Bench(run.__name__, "title", "how", run))
    monkeypatch.setattr(bench_main, "LONGEST_S", 1)
    lines: list[str] = []
    context = Context(Settings.of(quick=True, seconds=None), tmp_path, lines.append)
    said = io.StringIO()
    results, broken = bench_main.run(context, ["breaks", "hangs", "measures"], Console(file=said))
    assert broken == ["breaks", "hangs"]
    assert [each.name for each in results["measures"]] == ["done"]
    assert "nothing is measured" in said.getvalue()
    assert "more than 1 s" in said.getvalue()

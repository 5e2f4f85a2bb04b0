"""What clients did and saw while things broke, and whether one history explains all of it. Runs nothing itself.

The store's log says what was committed, in which order. Everything else must follow from it: every answer, every watch,
every feed; and in every state of it no address, PA or VSID is two's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from weft.contracts.store import Batch

#: done: answered with a revision. refused: by the rules. not-done: 503, nothing was written. unknown: nobody said.
Outcome = Literal["done", "refused", "not-done", "unknown"]


@dataclass
class Operation:
    """One write. expected: the revision that it rested on (If-Match)."""

    client: str
    what: str
    name: str
    began_s: float
    ended_s: float = 0.0
    outcome: Outcome = "unknown"
    revision: int = 0
    expected: int | None = None
    detail: str = ""


@dataclass
class Fault:
    what: str
    began_s: float
    ended_s: float


@dataclass
class Move:
    """Somebody went on at another controller. silence_s: since it last heard anything."""

    who: str
    at_s: float
    silence_s: float
    to: str


@dataclass
class History:
    operations: list[Operation] = field(default_factory=list)
    #: By client, the revisions that its reads were of, in order.
    reads: dict[str, list[int]] = field(default_factory=dict)
    #: By watcher, what it was told: (revision, names put, names deleted).
    watched: dict[str, list[tuple[int, frozenset[str], frozenset[str]]]] = field(default_factory=dict)
    #: By host, of each bookmark of its feed: its revision, and a digest of the rows that the host has then.
    fed: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    check: str
    looked_at: int
    wrong: tuple[str, ...]


def judge(history: History, log: Sequence[Batch], owed: Mapping[tuple[str, int], int]) -> list[Finding]:
    """owed: digests of what hosts are to have, by host and revision."""
    return [
        _log_has_no_gap(log),
        _acknowledged_is_there(history, log),
        _not_done_is_not_there(history, log),
        _order_is_real(history),
        _nobody_was_overwritten_unseen(history, log),
        _nothing_is_given_twice(log),
        _reads_never_go_back(history),
        _watches_are_the_log(history, log),
        _feeds_are_the_log(history, owed),
    ]


def _log_has_no_gap(log: Sequence[Batch]) -> Finding:
    wrong = [f"{a.revision} is followed by {b.revision}" for a, b in pairwise(log) if b.revision != a.revision + 1]
    return Finding("the log has no gap", len(log), tuple(wrong))


def _written(log: Sequence[Batch]) -> dict[int, Batch]:
    return {batch.revision: batch for batch in log}


def _acknowledged_is_there(history: History, log: Sequence[Batch]) -> Finding:
    by_revision = _written(log)
    done = [each for each in history.operations if each.outcome == "done"]
    wrong = []
    for each in done:
        batch = by_revision.get(each.revision)
        if batch is None or (each.name not in batch.puts and each.name not in batch.deletes):
            wrong.append(f"{each.client} was told that {each.what} {each.name} is revision {each.revision}; it is not")
    return Finding("no acknowledged write is lost", len(done), tuple(wrong))


def _not_done_is_not_there(history: History, log: Sequence[Batch]) -> Finding:
    touched = Counter(name for batch in log for name in (*batch.puts, *batch.deletes))
    claimed = Counter(each.name for each in history.operations if each.outcome in ("done", "unknown"))
    denied = [each for each in history.operations if each.outcome == "not-done" and each.what == "create"]
    wrong = [f"{each.client} was told that {each.name} was not made; it was" for each in denied
             if touched[each.name] and not claimed[each.name]]  # fmt: skip
    return Finding("what was said not to be done is not done", len(denied), tuple(wrong))


def _order_is_real(history: History) -> Finding:
    """Whoever begins after another was answered comes after it: writes are linearizable in the log's order."""
    done = sorted((each for each in history.operations if each.outcome == "done"), key=lambda each: each.began_s)
    ended = sorted(done, key=lambda each: each.ended_s)
    wrong = []
    newest, at = 0, 0
    for each in done:
        while at < len(ended) and ended[at].ended_s < each.began_s:
            newest = max(newest, ended[at].revision)
            at += 1
        if each.revision <= newest:
            wrong.append(f"{each.name} is revision {each.revision}, but began after {newest} was answered")
    return Finding("writes are in real order", len(done), tuple(wrong))


def _nobody_was_overwritten_unseen(history: History, log: Sequence[Batch]) -> Finding:
    versions: dict[str, list[int]] = {}
    for batch in log:
        for name in batch.puts:
            versions.setdefault(name, []).append(batch.revision)
    conditional = [each for each in history.operations if each.outcome == "done" and each.expected is not None]
    wrong = []
    for each in conditional:
        before = [revision for revision in versions[each.name] if revision < each.revision]
        if not before or before[-1] != each.expected:
            wrong.append(f"{each.name} at {each.revision} rested on {each.expected}, and came after {before[-1:]}")
    return Finding("no update is lost under If-Match", len(conditional), tuple(wrong))


def _nothing_is_given_twice(log: Sequence[Batch]) -> Finding:
    live: dict[str, tuple[tuple[str, str], ...]] = {}
    holder: dict[tuple[str, str], str] = {}
    wrong = []
    for batch in log:
        for name in (*batch.deletes, *batch.puts):
            for thing in live.pop(name, ()):
                if holder.get(thing) == name:
                    del holder[thing]
        for name, raw in batch.puts.items():
            things = tuple(_given(name, json.loads(raw)))
            live[name] = things
            for thing in things:
                other = holder.setdefault(thing, name)
                if other != name:
                    wrong.append(f"revision {batch.revision}: {' '.join(thing)} is of {other} and of {name}")
    return Finding("no address, MAC, VSID or PA is given twice", len(log), tuple(wrong))


def _given(name: str, spec: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if "/ports/" in name:
        yield "MAC", f"{spec['virtual_subnet'].rpartition('/virtual-subnets/')[0]} {spec['mac']}"
        for address in spec["addresses"]:
            yield "CA", f"{spec['virtual_subnet'].rpartition('/virtual-subnets/')[0]} {address}"
    elif "/virtual-subnets/" in name:
        yield "VSID", str(spec["vsid"])
    elif name.startswith("hosts/"):
        for uplink in spec["uplinks"]:
            for pa in uplink["pas"]:
                yield "PA", pa


def _reads_never_go_back(history: History) -> Finding:
    wrong = [f"{client}: {a}, then {b}" for client, seen in history.reads.items() for a, b in pairwise(seen) if b < a]
    return Finding("reads never go back for one client", sum(map(len, history.reads.values())), tuple(wrong))


def _watches_are_the_log(history: History, log: Sequence[Batch]) -> Finding:
    wrong = []
    whole = [(batch.revision, frozenset(batch.puts), frozenset(batch.deletes) - frozenset(batch.puts)) for batch in log]
    looked_at = 0
    for watcher, told in history.watched.items():
        looked_at += len(told)
        if not told:
            wrong.append(f"{watcher} was told nothing")
            continue
        should = [each for each in whole if told[0][0] <= each[0] <= told[-1][0]]
        if told != should:
            at = next(
                (n for n, (a, b) in enumerate(zip(told, should, strict=False)) if a != b), min(len(told), len(should))
            )
            wrong.append(f"{watcher} was told {told[at : at + 1]} where the log has {should[at : at + 1]}")
    return Finding("no watch skips or repeats", looked_at, tuple(wrong))


def _feeds_are_the_log(history: History, owed: Mapping[tuple[str, int], int]) -> Finding:
    """What was skipped is missing at the next bookmark; what was repeated late is there though it is gone."""
    wrong = []
    for host, told in history.fed.items():
        wrong += [f"{host}: bookmark {a[0]}, then {b[0]}" for a, b in pairwise(told) if b[0] < a[0]]
        wrong += [f"{host} does not have at {at} what it is to have" for at, has in told if owed.get((host, at)) != has]
    return Finding("no feed skips or repeats", sum(map(len, history.fed.values())), tuple(wrong))


def report(history: History, log: Sequence[Batch], findings: Sequence[Finding]) -> str:
    """For people, as Markdown."""
    lines = ["# What happened while things broke", "", f"{len(log)} commits.", "", "## Verdict", ""]
    lines += ["| what must hold | looked at | |", "|---|---|---|"]
    lines += [
        f"| {f.check} | {f.looked_at} | {'holds' if not f.wrong else f'**{len(f.wrong)} times not**'} |"
        for f in findings
    ]
    for finding in findings:
        lines += [f"- {finding.check}: {text}" for text in finding.wrong[:20]]
    lines += ["", "## Writes", "", "| what | done | refused | 503 | unknown | median ms | 99 % ms | most ms |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for what in sorted({each.what for each in history.operations}):
        of = [each for each in history.operations if each.what == what]
        counts = Counter(each.outcome for each in of)
        took = sorted((each.ended_s - each.began_s) * 1e3 for each in of if each.outcome == "done")
        lines.append(
            f"| {what} | {counts['done']} | {counts['refused']} | {counts['not-done']} | {counts['unknown']} "
            f"| {_at(took, 0.5):.1f} | {_at(took, 0.99):.1f} | {_at(took, 1.0):.1f} |"
        )
    done = sorted(each.ended_s for each in history.operations if each.outcome == "done")
    lines += [
        "",
        "## Faults",
        "",
        "| from s | to s | what | writes done meanwhile | longest silence ms |",
        "|---|---|---|---|---|",
    ]
    zero = min((each.began_s for each in history.operations), default=0.0)
    for fault in history.faults:
        inside = [fault.began_s, *(t for t in done if fault.began_s <= t <= fault.ended_s), fault.ended_s]
        silence = max((b - a for a, b in pairwise(inside)), default=0.0) * 1e3
        times = f"{fault.began_s - zero:.1f} | {fault.ended_s - zero:.1f}"
        lines.append(f"| {times} | {fault.what} | {len(inside) - 2} | {silence:.0f} |")
    lines += ["", "## Who went on at another controller", "", "| at s | who | to | silence ms |", "|---|---|---|---|"]
    lines += [
        f"| {each.at_s - zero:.1f} | {each.who} | {each.to} | {each.silence_s * 1e3:.0f} |"
        for each in sorted(history.moves, key=lambda each: each.at_s)
    ]
    return "\n".join(lines) + "\n"


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

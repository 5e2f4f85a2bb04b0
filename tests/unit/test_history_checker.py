"""The checker of histories finds what it is there to find: each fault alone is seen by the check that is for it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from etcd.history import History, Operation, judge, report
from weft.contracts.store import Batch

PORT = "tenants/blue/ports/p{}"
SUBNET = "tenants/blue/routing-domains/d/virtual-subnets/s"


def port(number: int, address: str | None = None) -> bytes:
    spec = {
        "virtual_subnet": SUBNET,
        "mac": f"02:00:00:00:00:{number:02x}",
        "addresses": [address or f"10.0.0.{number}"],
    }
    return json.dumps(spec).encode()


def write(number: int, outcome: str = "done", **more: float) -> Operation:
    """Of one port after the other, each answered before the next begins."""
    made = Operation("w", "create", PORT.format(number), 2.0 * number, 2.0 * number + 1, revision=number)
    made.outcome = outcome
    for name, value in more.items():
        setattr(made, name, value)
    return made


def told(batch: Batch) -> tuple[int, frozenset[str], frozenset[str]]:
    return batch.revision, frozenset(batch.puts), frozenset(batch.deletes)


class World:
    """Four ports, made one after the other; a reader, a watcher and a host that saw it all. Nothing is wrong."""

    def __init__(self) -> None:
        self.log = [Batch(n, {PORT.format(n): port(n)}, ()) for n in range(1, 5)]
        self.history = History(
            [write(n) for n in range(1, 5)], {"r": [1, 2, 4]}, {"v": [told(each) for each in self.log]}
        )
        self.history.fed = {"hosts/h": [(1, 10), (3, 30)]}
        self.owed = {("hosts/h", 1): 10, ("hosts/h", 3): 30}

    def wrong(self) -> set[str]:
        findings = judge(self.history, self.log, self.owed)
        assert report(self.history, self.log, findings).count("holds |") == sum(not each.wrong for each in findings)
        return {each.check for each in findings if each.wrong}


def test_where_nothing_is_wrong_nothing_is_found() -> None:
    assert World().wrong() == set()


def _lost(it: World) -> None:
    it.log[2] = Batch(3, {}, ())
    it.history.watched = {}


def _gap(it: World) -> None:
    del it.log[2], it.history.operations[2]
    it.history.watched = {}


def _done_though_it_was_denied(it: World) -> None:
    it.history.operations[1] = write(2, "not-done")


def _out_of_order(it: World) -> None:
    it.history.operations[3] = write(4, began_s=0.1, ended_s=0.2)
    it.history.operations[0] = write(1, began_s=8.0, ended_s=9.0)


def _overwritten(it: World) -> None:
    it.log += [Batch(5, {PORT.format(1): port(1)}, ()), Batch(6, {PORT.format(1): port(1)}, ())]
    it.history.operations.append(
        Operation("w", "put", PORT.format(1), 20.0, 21.0, outcome="done", revision=6, expected=1)
    )


def _twice(it: World) -> None:
    it.log[3] = Batch(4, {PORT.format(4): port(4, "10.0.0.1")}, ())


def _back(it: World) -> None:
    it.history.reads["r"] = [2, 1]


def _skipped(it: World) -> None:
    del it.history.watched["v"][1]


def _repeated(it: World) -> None:
    it.history.watched["v"].insert(1, it.history.watched["v"][0])


def _missing_at_a_bookmark(it: World) -> None:
    it.history.fed["hosts/h"][1] = (3, 29)


def _bookmark_goes_back(it: World) -> None:
    it.history.fed["hosts/h"].append((1, 10))


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (_lost, "no acknowledged write is lost"),
        (_gap, "the log has no gap"),
        (_done_though_it_was_denied, "what was said not to be done is not done"),
        (_out_of_order, "writes are in real order"),
        (_overwritten, "no update is lost under If-Match"),
        (_twice, "no address, MAC, VSID or PA is given twice"),
        (_back, "reads never go back for one client"),
        (_skipped, "no watch skips or repeats"),
        (_repeated, "no watch skips or repeats"),
        (_missing_at_a_bookmark, "no feed skips or repeats"),
        (_bookmark_goes_back, "no feed skips or repeats"),
    ],
)
def test_a_fault_is_found(fault: Callable[[World], None], check: str) -> None:
    world = World()
    fault(world)
    assert check in world.wrong()

"""Ways to peers in the kernel: they outlive the agent that told them, and go with what they lead between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf.harness import SMALL, Netns
from weft.contracts.dataplane import WAYS, Way
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.rows import Host, Peer, Row, Uplink

pytestmark = pytest.mark.root

RDID, OTHER = "0b1e0000-0000-4000-8000-000000000001", "7ed00000-0000-4000-8000-000000000002"
MINE, THEIRS = ("192.0.2.1", "192.0.2.11"), ("192.0.2.2", "192.0.2.12")
HOST = Host("hosts/h1", MINE, (Uplink("up0", 1500),))
PEER = Peer(RDID, THEIRS[0], THEIRS, ("a", "b"))
ROWS: list[Row] = [HOST, PEER]
BOTH = tuple(Way(source, destination) for source, destination in zip(MINE, THEIRS, strict=True)) * (WAYS // 2)
KEY = layout.address(THEIRS[0])


@pytest.fixture
def make(netns: Callable[[], Netns], pins: Path, weft_object: Path) -> Iterator[Callable[..., EbpfDataPlane]]:
    """A data plane as an agent that starts makes it; the one before is closed."""
    there = netns()
    there.veth("up0", "wire0")
    made: list[EbpfDataPlane] = []

    def plane(sizes: object = SMALL) -> EbpfDataPlane:
        if made:
            made[-1].close()
        made.append(EbpfDataPlane(pins, sizes, source=weft_object))
        return made[-1]

    with there.enter():
        yield plane
        last = plane()
        last.bind({})
        last.prune([])
        last.close()


def ways(plane: EbpfDataPlane) -> bytes | None:
    return plane._loaded.maps["paths"].lookup(KEY)


def flag(plane: EbpfDataPlane) -> int:
    value = plane._loaded.maps["host"].lookup(layout.THE_HOST)
    assert value is not None
    return int(layout.HOST.unpack(value)[-1]) & layout.HOST_PATHS


def test_ways_stay_when_the_agent_goes_and_are_in_use_when_the_next_knows_nothing_of_them(
    make: Callable[..., EbpfDataPlane],
) -> None:
    plane = make()
    assert plane.update(ROWS) == []
    assert flag(plane) == 0
    assert plane.paths({THEIRS[0]: BOTH}) == []
    programmed = ways(plane)
    assert (programmed, flag(plane)) == (layout.path(THEIRS[0], BOTH), 1)
    plane = make()
    assert plane.update(ROWS) == []
    assert plane.prune({row.key for row in ROWS}) == []
    assert (ways(plane), flag(plane)) == (programmed, 1)
    assert plane.repair() == 0
    assert plane.paths({THEIRS[0]: ()}) == []
    assert (ways(plane), flag(plane)) == (None, 0)


def test_a_generation_of_other_sizes_takes_the_ways_over(make: Callable[..., EbpfDataPlane]) -> None:
    plane = make()
    assert plane.update(ROWS) == []
    assert plane.paths({THEIRS[0]: BOTH}) == []
    plane = make(replace(SMALL, records=1024))
    assert plane.update(ROWS) == []
    assert plane.bind({}) == []
    assert plane.prune({row.key for row in ROWS}) == []
    assert (ways(plane), flag(plane)) == (layout.path(THEIRS[0], BOTH), 1)


@pytest.mark.parametrize(
    "row",
    [
        replace(HOST, pas=MINE[:1]),
        replace(PEER, pas=THEIRS[:1], networks=("a",)),
    ],
    ids=["of this host", "of the peer"],
)
def test_ways_go_with_an_address_that_they_lead_from_or_to(make: Callable[..., EbpfDataPlane], row: Row) -> None:
    plane = make()
    assert plane.update(ROWS) == []
    assert plane.paths({THEIRS[0]: BOTH}) == []
    assert plane.update([row]) == []
    assert (ways(plane), flag(plane)) == (None, 0)


def test_ways_and_aliases_go_with_the_last_domain_that_is_shared(make: Callable[..., EbpfDataPlane]) -> None:
    plane = make()
    second = replace(PEER, rdid=OTHER)
    assert plane.update([*ROWS, second]) == []
    assert plane.paths({THEIRS[0]: BOTH}) == []
    assert plane.delete([PEER.key]) == []
    assert ways(plane) is not None
    assert plane.delete([second.key]) == []
    assert (ways(plane), flag(plane)) == (None, 0)
    assert list(plane._loaded.maps["aliases"].items()) == []


def test_an_address_that_only_a_domain_that_goes_still_names_goes_with_it(make: Callable[..., EbpfDataPlane]) -> None:
    plane = make()
    second = replace(PEER, rdid=OTHER)
    assert plane.update([HOST, second, replace(PEER, pas=THEIRS[:1], networks=("a",))]) == []
    assert plane.paths({THEIRS[0]: BOTH}) == []
    assert plane.delete([second.key]) == []
    assert ways(plane) is None
    assert list(plane._loaded.maps["aliases"].items()) == []


@pytest.mark.parametrize(
    ("pa", "given", "says"),
    [
        ("192.0.2.99", BOTH, "192.0.2.99 is the first PA of no peer"),
        (THEIRS[0], BOTH[:3], "3 ways to 192.0.2.2; there are 16"),
        (THEIRS[0], (Way("fd00::1", "fd00::2"),) * WAYS, "is not of the family of 192.0.2.2"),
    ],
)
def test_ways_that_cannot_be_are_refused_with_the_reason(
    make: Callable[..., EbpfDataPlane], pa: str, given: tuple[Way, ...], says: str
) -> None:
    plane = make()
    assert plane.update(ROWS) == []
    (failure,) = plane.paths({pa: given})
    assert failure.permanent
    assert says in failure.reason
    assert flag(plane) == 0

"""Programs on interfaces, by both ways of attaching; and nothing of anybody else's is touched."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ebpf.harness import SMALL, Netns, eventually, netns, run, send
from ebpf.rows import ARP_A, HOST, KEYS, POLICY, A, B
from weft.dataplane.ebpf import attach, bpffs, layout, libbpf
from weft.dataplane.ebpf.clsact import Clsact
from weft.dataplane.ebpf.libbpf import Direction
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.kit.errors import Retry
from weft.policy.drop import DropReason

pytestmark = pytest.mark.root

BINDINGS = {A: "port0", B: "port1"}
WAYS: dict[str, Callable[[], attach.Attacher]] = {"tcx": attach.Tcx, "clsact": lambda: Clsact("test")}


@dataclass(frozen=True)
class Site:
    netns: Netns
    pins: Path
    source: Path
    way: str

    @contextmanager
    def plane(self) -> Iterator[EbpfDataPlane]:
        made = EbpfDataPlane(self.pins, SMALL, source=self.source, attacher=WAYS[self.way]())
        try:
            yield made
        finally:
            made.close()

    def tc(self, words: str) -> str:
        return run("tc", "-n", self.netns.name, *words.split())

    def running(self, plane: EbpfDataPlane) -> dict[str, int]:
        """``port0/INGRESS`` -> id of the program of ours that runs there."""
        found = {}
        for at in bpffs.entries(self.pins / "links"):
            ifindex = int(at.name.partition("-")[0])
            for direction in libbpf.Direction:
                program = WAYS[self.way]().program_id(at, ifindex, direction)
                if program is not None:
                    found[f"{ifindex}/{direction.name}"] = program
        return found

    def ours_by_tc(self, interface: str) -> str:
        return self.tc(f"filter show dev {interface} ingress") + self.tc(f"filter show dev {interface} egress")


@pytest.fixture(params=sorted(WAYS))
def site(request: pytest.FixtureRequest, weft_object: Path, pins: Path) -> Iterator[Site]:
    with netns() as there:
        for number in range(3):
            there.veth(f"port{number}", f"peer{number}")
        with there.enter():
            yield Site(there, pins, weft_object, request.param)


def answers(plane: EbpfDataPlane, port: str = A) -> int:
    return plane.counters()[port].sent_packets


def test_a_bound_interface_is_closed_until_its_row_comes_and_again_when_it_goes(site: Site) -> None:
    with site.plane() as plane:
        assert plane.bind(BINDINGS) == []
        send("peer0", ARP_A)
        eventually(lambda: plane.counters()[A].drops == {DropReason.PORT_UNBOUND: 1}, "a drop")
        assert plane.update(POLICY) == []
        send("peer0", ARP_A)
        eventually(lambda: answers(plane) == 1, "an answer")
        assert plane.delete([("ports", A)]) == []
        send("peer0", ARP_A)
        eventually(lambda: plane.counters()[A].drops == {DropReason.PORT_UNBOUND: 2}, "another drop")


def test_what_the_hosts_own_stack_sends_does_not_reach_the_guest(site: Site) -> None:
    with site.plane() as plane:
        assert plane.bind(BINDINGS) == []
        assert plane.update(POLICY) == []
        send("port0", ARP_A)
        eventually(lambda: plane.counters()[A].drops == {DropReason.NOT_POLICY: 1}, "a drop")


class Watched:
    """A way of attaching that does as another, and says first what it finds; refuses: a direction that fails."""

    def __init__(self, way: attach.Attacher, refuses: Direction | None = None) -> None:
        self._way, self.refuses = way, refuses
        self.told: Callable[[Direction], None] = lambda _: None

    def program_id(self, at: Path, ifindex: int, direction: Direction) -> int | None:
        return self._way.program_id(at, ifindex, direction)

    def attach(self, at: Path, ifindex: int, direction: Direction, program: libbpf.Program) -> None:
        self.told(direction)
        if direction is self.refuses:
            raise Retry("it does not let us")
        self._way.attach(at, ifindex, direction, program)

    def detach(self, at: Path, ifindex: int, direction: Direction) -> None:
        self._way.detach(at, ifindex, direction)


def entries_of(plane: EbpfDataPlane, ifindex: int) -> dict[str, int]:
    """How many entries lead to an interface, by map."""
    seat, of = layout.Seat(ifindex), plane._loaded.maps
    seats = {
        "ports": [layout.seat_of_key(key) for key, _ in of["ports"].items()],
        "sources": [layout.seat_of_source(key) for key, _ in of["sources"].items()],
        "local": [layout.seat_in_local(value) for _, value in of["local"].items()],
        "receivers": [layout.seat_of_key(at[1]) for at in plane._seats.tables.receivers],
    }
    return {name: found.count(seat) for name, found in seats.items()}


def test_a_port_has_its_entries_before_the_kernel_is_waited_for_but_no_copies_before_its_programs(site: Site) -> None:
    watched = Watched(WAYS[site.way]())
    plane = EbpfDataPlane(site.pins, SMALL, source=site.source, attacher=watched)
    try:
        seen: list[tuple[Direction, dict[str, int]]] = []
        ifindex = site.netns.ifindex("port0")
        watched.told = lambda direction: seen.append((direction, entries_of(plane, ifindex)))
        assert plane.update(POLICY) == []
        assert plane.bind({A: "port0"}) == []
        after = entries_of(plane, ifindex)
        assert all(after.values())
        ahead = {**after, "receivers": 0}
        assert seen == [(Direction.INGRESS, ahead), (Direction.EGRESS, ahead)]
    finally:
        plane.close()


@pytest.mark.parametrize("refuses", list(Direction), ids=lambda each: each.name)
def test_a_port_whose_interface_takes_no_program_has_no_entries_and_is_tried_again(
    site: Site, refuses: Direction
) -> None:
    watched = Watched(WAYS[site.way](), refuses)
    plane = EbpfDataPlane(site.pins, SMALL, source=site.source, attacher=watched)
    try:
        ifindex = site.netns.ifindex("port0")
        assert plane.update(POLICY) == []
        assert [(failure.key, failure.permanent) for failure in plane.bind({A: "port0"})] == [(("ports", A), False)]
        assert not any(entries_of(plane, ifindex).values())
        watched.refuses = None
        assert plane.bind({A: "port0"}) == []
        assert all(entries_of(plane, ifindex).values())
        assert set(site.running(plane)) == {f"{ifindex}/INGRESS", f"{ifindex}/EGRESS"}
    finally:
        plane.close()


class Failing(libbpf.Map):
    """The kernel has no memory."""

    def update_batch(self, keys: bytes | bytearray, values: bytes | bytearray, count: int) -> libbpf.BatchResult:
        raise OSError(errno.ENOMEM, "no memory")


def test_what_a_port_was_given_before_the_rest_failed_is_taken_back(site: Site) -> None:
    with site.plane() as plane:
        ifindex, whole = site.netns.ifindex("port0"), plane._seats.tables.ports.map
        assert plane.update(POLICY) == []
        plane._seats.tables.ports.map = Failing.of("ports", whole.fd)
        assert [failure.key for failure in plane.bind({A: "port0"})] == [("ports", A)]
        assert not any(entries_of(plane, ifindex).values())
        assert not plane._seats.tables.sources.told
        plane._seats.tables.ports.map = whole
        assert plane.bind({A: "port0"}) == []
        assert all(entries_of(plane, ifindex).values())


def test_an_interface_that_leaves_the_bindings_is_let_go(site: Site) -> None:
    with site.plane() as plane:
        assert plane.bind(BINDINGS) == []
        assert plane.update(POLICY) == []
        port0, port1 = site.netns.ifindex("port0"), site.netns.ifindex("port1")
        assert len(site.running(plane)) == 4
        assert plane.bind({A: "port0"}) == []
        assert set(site.running(plane)) == {f"{port0}/INGRESS", f"{port0}/EGRESS"}
        assert port1 not in {seat.ifindex for seat in plane._counters.seats()}
        assert {row.port for row in plane.read() if hasattr(row, "port")} == {A}
        assert plane.bind({}) == []
        assert site.running(plane) == {}
        assert "qdisc clsact" not in site.tc("qdisc show")


def test_another_port_takes_an_interface_over_without_the_program_coming_off(site: Site) -> None:
    with site.plane() as plane:
        assert plane.bind({A: "port0"}) == []
        assert plane.update(POLICY) == []
        before = site.running(plane)
    with site.plane() as plane:
        assert plane.bind({B: "port0"}) == []
        assert site.running(plane) == before
        # A's entries speak for it no more, though a former agent wrote them.
        send("peer0", ARP_A)
        eventually(lambda: plane.counters()[B].drops == {DropReason.PORT_UNBOUND: 1}, "a drop")


def test_an_interface_that_does_not_exist_or_is_taken_is_a_failure_of_its_port(site: Site) -> None:
    with site.plane() as plane:
        failures = plane.bind({A: "port0", B: "port0", "tenants/t/ports/c": "nothing"})
        assert {failure.key[1]: failure.reason for failure in failures} == {
            B: f"interface port0 is bound to {A} already",
            "tenants/t/ports/c": "interface nothing does not exist",
        }
        assert not any(failure.permanent for failure in failures)


@pytest.mark.parametrize("healer", ["bind", "repair"])
def test_an_interface_that_vanished_and_came_back_is_bound_again(site: Site, healer: str) -> None:
    with site.plane() as plane:
        assert plane.bind(BINDINGS) == []
        assert plane.update(POLICY) == []
        assert plane.prune(KEYS) == []
        site.netns.ip("link del port0")
        (failure,) = plane.bind(BINDINGS)
        assert failure.key == ("ports", A)
        assert len(bpffs_names(site.pins / "links")) == 1
        site.netns.veth("port0", "peer0")
        if healer == "bind":
            assert plane.bind(BINDINGS) == []
        else:
            assert plane.repair() > 0
        send("peer0", ARP_A)
        eventually(lambda: answers(plane) == 1, "an answer")
        assert plane.repair() == 0


def bpffs_names(directory: Path) -> list[str]:
    return [path.name for path in bpffs.entries(directory)]


def test_a_program_detached_by_hand_is_attached_again_by_repair(site: Site) -> None:
    with site.plane() as plane:
        assert plane.bind(BINDINGS) == []
        assert plane.update(POLICY) == []
        before = site.running(plane)
        port0 = site.netns.ifindex("port0")
        if site.way == "tcx":
            (at,) = (site.pins / "links").glob(f"{port0}-*")
            link = libbpf.Link.of(libbpf.pinned(at / "ingress"))
            link.detach()
            link.close()
            (at / "egress").unlink()
        else:
            site.tc("qdisc del dev port0 clsact")
        assert len(site.running(plane)) == 2
        assert plane.repair() == 2
        assert site.running(plane) == before
        send("peer0", ARP_A)
        eventually(lambda: answers(plane) == 1, "an answer")
        assert plane.repair() == 0


def test_filters_qdiscs_and_maps_of_others_are_left_alone(site: Site) -> None:
    site.tc("qdisc add dev port0 clsact")
    site.tc("filter add dev port0 ingress prio 10 protocol ip u32 match u32 0 0 flowid 1:1")
    site.tc("filter add dev port0 egress prio 10 protocol ip u32 match u32 0 0 flowid 1:1")
    site.tc("qdisc add dev port1 clsact")
    theirs = site.tc("qdisc show") + site.ours_by_tc("port0") + site.ours_by_tc("port1")
    strange = site.pins.with_name(f"{site.pins.name}-other")
    strange.mkdir(parents=True)
    try:
        with site.plane() as plane:
            libbpf.pin(plane._loaded.maps["records"].fd, strange / "records")
            assert plane.bind(BINDINGS) == []
            assert plane.update(POLICY) == []
            send("peer0", ARP_A)
            eventually(lambda: answers(plane) == 1, "an answer")
            assert plane.bind({}) == []
            assert site.tc("qdisc show") + site.ours_by_tc("port0") + site.ours_by_tc("port1") == theirs
            assert plane.bind(BINDINGS) == []
            plane.remove()
        assert site.tc("qdisc show") + site.ours_by_tc("port0") + site.ours_by_tc("port1") == theirs
        assert bpffs_names(strange) == ["records"]
    finally:
        bpffs.remove(strange)


def test_a_qdisc_that_weft_made_stays_when_somebody_else_uses_it_by_now(site: Site) -> None:
    with site.plane() as plane:
        assert plane.bind(BINDINGS) == []
        if site.way == "tcx":
            site.tc("qdisc add dev port0 clsact")
        site.tc("filter add dev port0 ingress prio 10 protocol ip u32 match u32 0 0 flowid 1:1")
        assert plane.bind({}) == []
        assert "u32" in site.ours_by_tc("port0")
        assert "weft" not in site.ours_by_tc("port0")


README = Path(__file__).parents[2] / "README.md"


def test_what_the_readme_says_takes_weft_off_a_host_does_and_leaves_filters_of_others(site: Site) -> None:
    (line,) = [line for line in README.read_text(encoding="utf-8").splitlines() if "pref 22342" in line]
    site.tc("qdisc add dev port0 clsact")
    site.tc("filter add dev port0 ingress prio 10 protocol ip u32 match u32 0 0 flowid 1:1")
    with site.plane() as plane:
        assert plane.bind(BINDINGS) == []
    bpffs.remove(site.pins)
    # `ip netns exec` has a /sys of the namespace's own. What has none of ours is an error of tc's, which is nobody's.
    run("ip", "netns", "exec", site.netns.name, "sh", "-c", f"{line}; true")
    for interface in BINDINGS.values():
        assert "weft" not in site.ours_by_tc(interface)
    assert "u32" in site.ours_by_tc("port0")


def test_uplinks_are_attached_and_let_go_with_the_host_row(site: Site) -> None:
    with site.plane() as plane:
        (failure,) = plane.update([HOST])
        assert (failure.key, failure.reason) == (HOST.key, "uplink up0 does not exist")
        up0 = site.netns.veth("up0", "wire0")
        assert plane.update([HOST]) == []
        assert site.running(plane).keys() == {f"{up0}/INGRESS"}
        assert "uplink:up0" in plane.counters()
    with site.plane() as plane:
        # A former agent's uplink is left alone until the host's row, or its absence, is told.
        assert plane.bind({}) == []
        assert site.running(plane).keys() == {f"{up0}/INGRESS"}
        assert [row.uplinks for row in plane.read() if row.key[0] == "hosts"] == [HOST.uplinks]
        assert plane.prune([]) == []
        assert site.running(plane) == {}
        assert list(plane.read()) == []


HELPER = """
import sys, signal
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from ebpf.test_attach import BINDINGS, KEYS, POLICY, SMALL, WAYS, EbpfDataPlane

plane = EbpfDataPlane(Path(sys.argv[1]), SMALL, source=Path(sys.argv[2]), attacher=WAYS[sys.argv[3]]())
assert plane.bind(BINDINGS) == [] and plane.update(POLICY) == [] and plane.prune(KEYS) == []
print("ready", flush=True)
signal.pause()
"""


def test_an_uplink_is_nobodys_port(site: Site) -> None:
    site.netns.veth("up0", "wire0")
    with site.plane() as plane:
        assert plane.update([HOST]) == []
        (failure,) = plane.bind({A: "up0"})
        assert failure.reason == "interface up0 is an uplink"
        assert failure.permanent


def test_packets_are_answered_and_counted_when_the_agent_was_killed(site: Site) -> None:
    words = [sys.executable, "-c", HELPER, str(site.pins), str(site.source), site.way, *sys.path]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline() == "ready\n"
        finally:
            os.kill(agent.pid, signal.SIGKILL)
    send("peer0", ARP_A, 10)
    with site.plane() as plane:
        # All ten are counted; nothing that starts loses what was.
        assert plane.bind(BINDINGS) == []
        eventually(lambda: answers(plane) == 10, "ten answers")
        send("peer0", ARP_A, 10)
        eventually(lambda: answers(plane) == 20, "twenty answers")


def test_a_veth_whose_other_end_is_elsewhere_takes_peer_redirects(site: Site) -> None:
    with netns() as guest, site.plane() as plane:
        site.netns.veth("port9", "eth0", into=guest)
        assert plane.bind({A: "port9", B: "port1"}) == []
        assert plane.update(POLICY) == []
        assert plane._bindings.bound[A].interface.takes_peer_redirect
        assert not plane._bindings.bound[B].interface.takes_peer_redirect
        # The other end comes home: the flag goes with the next repair, since the kernel would drop everything.
        guest.ip(f"link set eth0 netns {site.netns.name}")
        assert plane.repair() > 0
        assert not plane._bindings.bound[A].interface.takes_peer_redirect
        assert plane.repair() == 0

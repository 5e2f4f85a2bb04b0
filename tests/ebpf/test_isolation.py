"""What a guest reaches and hears when something around the data plane has gone wrong: nothing but what policy says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf.harness import SMALL, Netns, eventually, send
from ebpf.rows import ARP_A, POLICY, A
from weft.dataplane.ebpf import attach, bpffs, libbpf
from weft.dataplane.ebpf.attachments import Attachment
from weft.dataplane.ebpf.clsact import Clsact
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.kit.errors import Conflict
from weft.policy.drop import DropReason

pytestmark = pytest.mark.root

STRANGER = "tenants/u/ports/c"
WAYS: dict[str, Callable[[], attach.Attacher]] = {"tcx": attach.Tcx, "clsact": lambda: Clsact("test")}


@pytest.fixture(params=sorted(WAYS))
def make(request: pytest.FixtureRequest, weft_object: Path, pins: Path) -> Callable[[], EbpfDataPlane]:
    """A data plane as an agent that starts makes it, always in the same place."""
    return lambda: EbpfDataPlane(pins, SMALL, source=weft_object, attacher=WAYS[request.param]())


@pytest.fixture
def host(netns: Callable[[], Netns]) -> Iterator[Netns]:
    """This thread is in it."""
    there = netns()
    for number in range(2):
        there.veth(f"port{number}", f"peer{number}")
    with there.enter():
        yield there


def forwarding(interface: str) -> str:
    return Path("/proc/sys/net/ipv4/conf", interface, "forwarding").read_text(encoding="ascii").strip()


def test_a_ports_interface_is_never_one_that_the_host_forwards_from(
    make: Callable[[], EbpfDataPlane], host: Netns
) -> None:
    plane = make()
    assert plane.bind({A: "port0"}) == []
    assert plane.update(POLICY) == []
    assert forwarding("port0") == "0"
    assert plane.bind({}) == []
    assert forwarding("port0") == "0"
    plane.close()


def test_a_program_of_somebody_else_that_lets_everything_pass_is_behind_ours(
    weft_object: Path, pins: Path, host: Netns
) -> None:
    """By TCX; filters have the places that their makers gave them."""
    theirs = [libbpf.Link.create(lets_pass(), host.ifindex("port0"), direction) for direction in libbpf.Direction]
    plane = EbpfDataPlane(pins, SMALL, source=weft_object, attacher=attach.Tcx())
    try:
        assert plane.bind({A: "port0"}) == []
        send("peer0", ARP_A)
        eventually(lambda: plane.counters()[A].drops == {DropReason.PORT_UNBOUND: 1}, "a drop")
        send("port0", ARP_A)
        eventually(lambda: plane.counters()[A].drops.get(DropReason.NOT_POLICY) == 1, "another drop")
    finally:
        for link in theirs:
            link.detach()
            link.close()
        plane.close()


def lets_pass() -> libbpf.Program:
    """r0 = TCX_PASS; exit."""
    instructions = b"\xb7" + bytes(7) + b"\x95" + bytes(7)
    words = libbpf._ProgramLoad(3, 2, libbpf._address(instructions), libbpf._address(b"GPL\0"))
    return libbpf.Program.of("lets_pass", libbpf._bpf(libbpf.Command.PROG_LOAD, words))


def test_a_directory_of_links_that_was_removed_by_hand_is_made_again(
    make: Callable[[], EbpfDataPlane], host: Netns, pins: Path
) -> None:
    plane = make()
    assert plane.bind({A: "port0"}) == []
    assert plane.update(POLICY) == []
    bpffs.remove(pins / "links")

    def attached() -> bool:
        # The kernel takes a link off a while after its last pin went.
        plane.repair()
        return plane._attachments.missing(Attachment.of_port(host.ifindex("port0"), A)) == 0

    eventually(attached, "programs are there again")
    send("peer0", ARP_A)
    eventually(lambda: plane.counters()[A].sent_packets == 1, "an answer")
    assert plane.repair() == 0
    plane.close()


def test_entries_of_an_interface_whose_attachment_is_lost_are_not_the_next_ports(
    make: Callable[[], EbpfDataPlane], host: Netns, pins: Path
) -> None:
    plane = make()
    assert plane.bind({A: "port0"}) == []
    assert plane.update(POLICY) == []
    plane.close()
    bpffs.remove(pins / "links")
    plane = make()
    assert plane.bind({STRANGER: "port0"}) == []
    send("peer0", ARP_A)
    eventually(lambda: plane.counters()[STRANGER].drops == {DropReason.PORT_UNBOUND: 1}, "a drop")
    assert not list(plane._seats.tables.local.entries())
    plane.close()


def test_two_processes_do_not_share_a_hosts_data_plane(make: Callable[[], EbpfDataPlane], host: Netns) -> None:
    plane = make()
    with pytest.raises(Conflict, match="in use by another process"):
        make()
    plane.close()
    make().close()


def test_what_somebody_else_put_among_the_links_stops_nothing(
    make: Callable[[], EbpfDataPlane], host: Netns, pins: Path
) -> None:
    (pins / "links" / "theirs").mkdir(parents=True)
    plane = make()
    assert plane.bind({A: "port0"}) == []
    assert plane.bind({}) == []
    assert [path.name for path in bpffs.entries(pins / "links")] == ["theirs"]
    bpffs.remove(pins / "links" / "theirs")
    plane.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_an_interface_with_the_number_of_one_that_is_gone_is_another_ports(
    make: Callable[[], EbpfDataPlane], host: Netns, restarted: bool
) -> None:
    plane = make()
    assert plane.bind({A: "port0"}) == []
    assert plane.update(POLICY) == []
    number = host.ifindex("port0")
    if restarted:
        plane.close()
    host.ip("link del port0")
    host.ip(f"link add port9 index {number} type veth peer name peer9")
    for name in ("port9", "peer9"):
        host.ip(f"link set {name} up")
    if restarted:
        plane = make()
    assert plane.bind({STRANGER: "port9"}) == []
    send("peer9", ARP_A)
    eventually(lambda: plane.counters()[STRANGER].drops.get(DropReason.PORT_UNBOUND) == 1, "a drop")
    assert not list(plane._seats.tables.local.entries())
    assert not list(plane._seats.tables.sources.entries())
    plane.close()

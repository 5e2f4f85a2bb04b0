"""What reaches the kernel's maps, what is mended there, and what outlives the one who made it."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ebpf.harness import SMALL, Netns, eventually, netns, pin_directory, send
from ebpf.rows import ARP_A, KEYS, MAC_A, POLICY, PORT_A, RDID, A, B
from weft.contracts.dataplane import Feature
from weft.dataplane.ebpf import attach, bpffs, layout, libbpf, maps
from weft.dataplane.ebpf.counters import Counters
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.drop import DropReason
from weft.policy.rows import MacRecord, Pair, Record, Route, Subnet

pytestmark = pytest.mark.root

BINDINGS = {A: "port0", B: "port1"}


@dataclasses.dataclass(frozen=True)
class Site:
    """One host's namespace with two interfaces, and where its data plane is pinned."""

    netns: Netns
    pins: Path
    source: Path

    @contextmanager
    def plane(self, sizes: maps.Sizes = SMALL, source: Path | None = None) -> Iterator[EbpfDataPlane]:
        """A data plane as a starting agent makes it; it lets go at the end, and everything stays pinned."""
        made = EbpfDataPlane(self.pins, sizes, source=source or self.source)
        try:
            yield made
        finally:
            made.close()

    @contextmanager
    def full_plane(self, sizes: maps.Sizes = SMALL, source: Path | None = None) -> Iterator[EbpfDataPlane]:
        """The same, told all of the policy."""
        with self.plane(sizes, source) as made:
            assert made.bind(BINDINGS) == []
            assert made.update(POLICY) == []
            assert made.prune(KEYS) == []
            yield made

    def links(self) -> dict[str, tuple[int, int]]:
        """Place -> (id of the link, 0 for a filter of clsact; id of the program)."""
        found = {}
        attacher = attach.best(self.pins.name)
        for at in bpffs.entries(self.pins / "links"):
            for direction in libbpf.Direction:
                program = attacher.program_id(at, int(at.name.partition("-")[0]), direction)
                if program is not None:
                    place = f"{at.name}/{direction.name.lower()}"
                    found[place] = (_link_id(self.pins / "links" / place) if libbpf.has_tcx() else 0, program)
        return found


def _link_id(pin: Path) -> int:
    link = libbpf.Link.of(libbpf.pinned(pin))
    link.close()
    return link.id


@contextmanager
def _site(source: Path, pins: Path) -> Iterator[Site]:
    with netns() as there:
        for number in range(3):
            there.veth(f"port{number}", f"peer{number}")
        with there.enter():
            yield Site(there, pins, source)


@pytest.fixture(scope="module")
def told(weft_object: Path) -> Iterator[EbpfDataPlane]:
    """A data plane that was told all of the policy. A test leaves it as it found it."""
    with pin_directory() as pins, _site(weft_object, pins) as site, site.full_plane() as plane:
        yield plane


@pytest.fixture
def site(weft_object: Path, pins: Path) -> Iterator[Site]:
    with _site(weft_object, pins) as made:
        yield made


def records(count: int, vsid: int = 5000) -> list[Record]:
    return [
        Record(vsid, f"10.1.{n >> 8}.{n & 255}", "192.0.2.2", f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}")
        for n in range(count)
    ]


def as_set(plane: EbpfDataPlane) -> set[object]:
    return set(plane.read())


def test_all_that_was_told_is_read_back(told: EbpfDataPlane) -> None:
    assert as_set(told) == set(POLICY)
    assert Feature.NVGRE in told.features


def test_telling_the_same_again_changes_nothing(told: EbpfDataPlane) -> None:
    assert told.update(POLICY) == []
    assert told.bind(BINDINGS) == []
    assert told.repair() == 0
    assert as_set(told) == set(POLICY)


def test_deleting_what_is_absent_is_success(site: Site) -> None:
    with site.plane() as plane:
        assert plane.delete(KEYS) == []
        assert plane.update(POLICY) == []
        assert plane.delete(KEYS) == []
        assert plane.delete(KEYS) == []
        assert as_set(plane) == set()


def test_an_entry_told_back_and_forth_within_one_update_ends_as_told_last(site: Site) -> None:
    here, there = (Record(5000, "10.0.0.9", pa, MAC_A) for pa in ("192.0.2.1", "192.0.2.2"))
    with site.plane() as plane:
        assert plane.update([here]) == []
        assert plane.update([there, here]) == []
        assert as_set(plane) == {here}
        assert plane.repair() == 0


@pytest.mark.parametrize("surplus", [1, 40])
def test_a_full_map_fails_each_row_that_does_not_fit_and_programs_the_rest(site: Site, surplus: int) -> None:
    rows = records(SMALL.records + surplus)
    with site.plane() as plane:
        failures = plane.update(rows)
        refused = {failure.key for failure in failures}
        assert len(failures) == len(refused) == surplus
        assert all("records: full at 512 entries" in failure.reason for failure in failures)
        assert not any(failure.permanent for failure in failures)
        assert {row.key for row in plane.read()} == {row.key for row in rows} - refused
        assert plane.usage()["records"] == (512, 512)
        # What is there may still change, and what found no room finds it once there is some.
        moved = dataclasses.replace(next(r for r in rows if r.key not in refused), pa="192.0.2.3")
        assert plane.update([moved]) == []
        assert moved in as_set(plane)
        assert plane.delete([row.key for row in rows if row.key not in refused][:surplus]) == []
        assert plane.update([row for row in rows if row.key in refused]) == []


def test_a_full_trie_fails_each_route_that_does_not_fit(site: Site) -> None:
    routes = [Route(RDID, f"10.{n}.0.0/16", 5000) for n in range(SMALL.routes + 3)]
    with site.plane() as plane:
        failures = plane.update(routes)
        assert {failure.key for failure in failures} == {route.key for route in routes[-3:]}
        assert all("routes: full at 128 entries" in failure.reason for failure in failures)


def test_a_port_that_finds_no_room_is_a_failure_and_its_neighbour_works(site: Site) -> None:
    with site.plane(dataclasses.replace(SMALL, ports=1)) as plane:
        assert plane.bind(BINDINGS) == []
        (failure,) = plane.update(POLICY)
        assert failure.key == ("ports", B)
        assert "ports: full at 1 entries" in failure.reason
        assert ("ports", A) in {row.key for row in plane.read()}
        assert plane.delete([("ports", A)]) == []
        assert plane.update(POLICY[-1:]) == []
        assert ("ports", B) in {row.key for row in plane.read()}


def test_a_row_with_bad_text_is_a_permanent_failure_and_its_neighbours_are_programmed(site: Site) -> None:
    good = records(2)
    bad = [
        Record(5000, "10.0.0.999", "192.0.2.1", MAC_A),
        MacRecord(5000, "zz", "192.0.2.1"),
        Route(RDID, "10.0.0.0/40", 5000),
        Subnet(5001, "not a uuid", (), (), MAC_A, 0),
        dataclasses.replace(PORT_A, mac="zz"),
    ]
    with site.plane() as plane:
        failures = plane.update([good[0], *bad, good[1]])
        assert [failure.key for failure in failures] == [row.key for row in bad]
        assert all(failure.permanent for failure in failures)
        assert as_set(plane) == set(good)


TABLES = ("subnets", "records", "macs", "routes", "ports", "local", "sources")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("how", ["deleted", "changed", "added"])
def test_what_a_hand_did_to_a_map_is_mended(told: EbpfDataPlane, name: str, how: str) -> None:
    assert told.repair() == 0
    assert told.repair() == 0
    of = told._loaded.maps[name]
    before = dict(of.items())
    key, value = min(before.items())
    match how:
        case "deleted":
            assert of.delete(key)
        case "changed":
            of.update(key, bytes(b ^ 0xFF for b in value))
        case "added":
            # In a trie the key's first 4 bytes are a length.
            other = key[:4] + bytes([key[4] ^ 0xFF]) + key[5:] if len(key) > 4 else bytes(b ^ 0x55 for b in key)
            of.update(other, value)
    assert dict(of.items()) != before
    assert told.repair() == 1
    assert dict(of.items()) == before
    assert told.repair() == 0


@pytest.mark.parametrize("how", ["deleted", "changed"])
def test_whose_counters_are_whose_is_mended(site: Site, how: str) -> None:
    with site.full_plane() as plane:
        of = plane._loaded.maps["counter_slots"]
        before = dict(of.items())
        for key, value in before.items():
            if how == "deleted":
                assert of.delete(key)
            else:
                of.update(key, bytes(b ^ 1 for b in value))
        plane.repair()
        assert dict(of.items()) == before
        send("peer0", ARP_A, 2)
        eventually(lambda: plane.counters()[A].sent_packets == 2, "two answers")


def test_the_host_entry_is_mended(site: Site) -> None:
    from ebpf.rows import HOST

    with site.plane() as plane:
        # up0 does not exist here, which is said, and the host's addresses are known nevertheless.
        (failure,) = plane.update([HOST])
        assert "up0" in failure.reason
        assert not failure.permanent
        plane._loaded.maps["host"].update(layout.THE_HOST, bytes(layout.HOST.size))
        assert plane.repair() == 1
        assert list(plane.read()) == [HOST]


def test_repair_deletes_nothing_that_a_former_agent_wrote_before_all_is_told(site: Site) -> None:
    with site.full_plane():
        pass
    with site.plane() as plane:
        assert plane.repair() == 0
        assert plane.update(POLICY[:1]) == []
        assert plane.repair() == 0
        assert {row for row in plane.read() if isinstance(row, Record)} == {r for r in POLICY if isinstance(r, Record)}


def test_a_new_start_reuses_maps_programs_and_links(site: Site) -> None:
    with site.full_plane() as plane:
        ids = {of.id for of in plane._loaded.maps.values()}
        links = site.links()
    with site.plane() as plane:
        assert {of.id for of in plane._loaded.maps.values()} == ids
        assert plane.bind(BINDINGS) == []
        assert site.links() == links
        # The port is open all the while: the former agent's entries speak for it.
        send("peer0", ARP_A)
        eventually(lambda: plane.counters()[A].sent_packets == 1, "an answer to ARP")
        assert plane.update(POLICY) == []
        assert plane.prune(KEYS) == []
        assert as_set(plane) == set(POLICY)


def test_prune_removes_what_a_former_agent_left_and_keeps_what_is_desired_but_untold(site: Site) -> None:
    stale = records(3, vsid=6000)
    with site.full_plane() as plane:
        assert plane.update(stale) == []
    with site.plane() as plane:
        assert plane.bind({A: "port0"}) == []
        desired = KEYS - {("ports", B)}
        assert plane.prune(desired) == []
        read = set(plane.read())
        # The port's CAs and pairs are read from the maps alone here.
        assert {row.key for row in read} == desired
        assert set(read) == {row for row in POLICY if row.key in desired}


def test_prune_before_the_bindings_are_told_leaves_open_ports_open(site: Site) -> None:
    with site.full_plane():
        pass
    with site.plane() as plane:
        assert plane.update(POLICY) == []
        assert plane.prune(KEYS) == []
        send("peer0", ARP_A)
        assert plane.bind(BINDINGS) == []
        eventually(lambda: plane.counters()[A].sent_packets == 1, "an answer to ARP")


def test_a_port_that_changed_while_no_agent_ran_leaves_no_entry_behind(site: Site) -> None:
    with site.full_plane():
        pass
    moved = dataclasses.replace(PORT_A, mac="02:00:00:00:00:22", cas=("10.0.0.2",), pairs=(Pair(MAC_A, "10.0.7.0/24"),))
    with site.plane() as plane:
        assert plane.bind(BINDINGS) == []
        assert plane.update([*(row for row in POLICY if row.key != PORT_A.key), moved]) == []
        assert plane.prune(KEYS) == []
        assert moved in as_set(plane)
        assert len(dict(plane._loaded.maps["local"].items())) == 2
        assert len(dict(plane._loaded.maps["sources"].items())) == 3
        assert plane.repair() == 0


def test_another_object_file_swaps_the_programs_under_the_links(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other.bpf.o"
    other.write_bytes(site.source.read_bytes() + b"another build")
    with site.full_plane() as plane:
        ids = {of.id for of in plane._loaded.maps.values()}
        links = site.links()
    with site.plane(source=other) as plane:
        assert {of.id for of in plane._loaded.maps.values()} == ids
        assert site.links() == links
        assert plane.bind(BINDINGS) == []
        after = site.links()
        assert after.keys() == links.keys()
        assert {pin: link for pin, (link, _) in after.items()} == {pin: link for pin, (link, _) in links.items()}
        assert not {program for _, program in after.values()} & {program for _, program in links.values()}
        assert len(list((plane._loaded.generation or Path()).glob("programs-*"))) == 1
        send("peer0", ARP_A)
        eventually(lambda: plane.counters()[A].sent_packets == 1, "an answer to ARP")


def test_other_sizes_make_a_new_generation_that_takes_over_when_it_is_whole(site: Site) -> None:
    larger = dataclasses.replace(SMALL, records=1024)
    with site.full_plane() as plane:
        send("peer0", ARP_A, 5)
        eventually(lambda: plane.counters()[A].sent_packets == 5, "five answers to ARP")
        links = site.links()
    with site.plane(larger) as plane:
        assert len(list(maps.generations(site.pins))) == 2
        assert plane.bind(BINDINGS) == []
        assert plane.update(POLICY[:3]) == []
        # Half full: the former generation still answers.
        assert site.links() == links
        former = next(g for g in maps.generations(site.pins) if g != plane._loaded.generation)
        slots, values = (maps.former(former / of, plane._loaded.maps[of]) for of in ("counter_slots", "counters"))
        assert slots is not None
        assert values is not None
        counters = Counters(slots, values)
        send("peer0", ARP_A, 3)
        port0 = layout.Seat(site.netns.ifindex("port0"))
        eventually(lambda: layout.traffic(dict(counters.items())[port0]).sent_packets == 8, "three more answers")
        slots.close()
        values.close()
        assert plane.update(POLICY[3:]) == []
        assert plane.prune(KEYS) == []
        after = site.links()
        assert {pin: link for pin, (link, _) in after.items()} == {pin: link for pin, (link, _) in links.items()}
        assert not {program for _, program in after.values()} & {program for _, program in links.values()}
        assert [g == plane._loaded.generation for g in maps.generations(site.pins)] == [True]
        assert plane.counters()[A].sent_packets == 8
        send("peer0", ARP_A, 2)
        eventually(lambda: plane.counters()[A].sent_packets == 10, "two more answers")
        assert plane.usage()["records"][1] == 1024


@dataclasses.dataclass
class Stream:
    """Asks for an address a thousand times a second, and counts the answers, until told to stop."""

    sent: int = 0
    answered: int = 0
    ending: threading.Event = dataclasses.field(default_factory=threading.Event)

    def run(self) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
            wire.bind(("peer0", 0x0806))
            wire.setblocking(False)
            quiet_since = time.monotonic()
            while not self.ending.is_set() or (self.answered < self.sent and time.monotonic() < quiet_since + 2):
                if not self.ending.wait(0.001):
                    wire.send(ARP_A)
                    self.sent += 1
                    quiet_since = time.monotonic()
                with suppress(BlockingIOError):
                    while True:
                        self.answered += wire.recv(64)[20:22] == b"\0\x02"

    @contextmanager
    def flowing(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)  # in this thread's network namespace
        thread.start()
        try:
            eventually(lambda: self.answered > 20, "a flowing stream")
            yield
            flowed = self.answered
            eventually(lambda: self.answered > flowed + 20, "a stream that still flows")
        finally:
            self.ending.set()
            thread.join()


def test_not_one_packet_is_lost_while_programs_and_generations_are_replaced(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other.bpf.o"
    other.write_bytes(site.source.read_bytes() + b"another build")
    stream = Stream()
    with site.full_plane():
        pass
    with stream.flowing():
        with site.full_plane():
            pass
        with site.full_plane(source=other):
            pass
        with site.full_plane(dataclasses.replace(SMALL, records=1024), source=other):
            pass
        with site.full_plane():
            pass
    assert stream.sent == stream.answered
    with site.full_plane() as last:
        assert last.counters()[A].received_packets <= stream.sent


def test_without_a_controller_a_new_generation_takes_over_once_it_holds_all_that_the_former_did(site: Site) -> None:
    larger = dataclasses.replace(SMALL, records=1024)
    with site.full_plane():
        links = site.links()
    with site.plane(larger) as plane:
        # As an agent starts from its disk: nobody says that this is all.
        assert plane.bind(BINDINGS) == []
        assert plane.update(POLICY[:-1]) == []
        plane.repair()
        assert site.links() == links
        assert plane.update(POLICY[-1:]) == []
        plane.repair()
        assert not set(site.links().values()) & set(links.values())
        assert len(list(maps.generations(site.pins))) == 1


def test_a_crash_while_a_new_generation_is_filled_is_healed_by_the_next_start(site: Site) -> None:
    larger = dataclasses.replace(SMALL, records=1024)
    with site.full_plane():
        links = site.links()
    with site.plane(larger) as plane:
        assert plane.bind(BINDINGS) == []
        assert plane.update([*POLICY[:3], *records(3, vsid=7000)]) == []
    with site.full_plane(larger) as plane:
        assert as_set(plane) == set(POLICY)
        assert site.links().keys() == links.keys()
        assert len(list(maps.generations(site.pins))) == 1


def test_a_crash_while_programs_are_pinned_is_healed_by_the_next_start(site: Site) -> None:
    with site.plane() as plane:
        at = plane._loaded.programs_at
        assert at is not None
    (at / "weft_to_port").unlink()
    with site.full_plane() as plane:
        assert as_set(plane) == set(POLICY)
    assert sorted(pin.name for pin in bpffs.entries(at)) == sorted(maps.PROGRAMS)


def test_usage_says_how_full_each_table_is(told: EbpfDataPlane) -> None:
    usage = told.usage()
    assert usage["records"] == (4, 512)
    assert usage["ports"] == (2, 64)
    assert usage["sources"] == (4, 512)
    assert usage["hosts"] == (0, 1)


def test_counters_name_every_drop(site: Site) -> None:
    with site.full_plane() as plane:
        send("peer1", ARP_A, 3)
        eventually(lambda: plane.counters()[B].received_packets == 3, "three packets from b")
        assert plane.counters()[B].drops == {DropReason.PORT_DOWN: 3}


def test_remove_leaves_nothing_pinned_or_attached(site: Site) -> None:
    with site.full_plane() as plane:
        plane.remove()
    assert not site.pins.exists()

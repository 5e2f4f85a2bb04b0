"""Connections as the eBPF data plane shows, sweeps, forgets and keeps them."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf.driver import SIZES, TIMES, EbpfDriver, ebpf_driver
from packets import build as b
from packets.guarding import (
    FIRST,
    FTP,
    GROUPS,
    GUARDED,
    KEPT,
    KEPT_NO_HTTP,
    MACS,
    NO_HTTP,
    SECOND,
    WEB1_PORT,
    WEB2_PORT,
    dns,
    ftp,
    guarded,
    opened,
)
from packets.policy import BINDINGS, UPLINK, Policy
from weft.contracts.connections import Connection
from weft.dataplane.ebpf import build, conntrack, layout
from weft.dataplane.ebpf.maps import Sizes
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.policy.connections import EXPECTED_OF_PORT, Expected, State
from weft.policy.drop import DropReason
from weft.policy.rows import Port, SecurityGroup
from weft.wire import carried as wire

pytestmark = pytest.mark.root
EPOCH_FORMER = 0xFFFFFFFF


@pytest.fixture
def driver() -> Iterator[EbpfDriver]:
    with ebpf_driver(build.OBJECT, list(BINDINGS.values()), UPLINK) as made:
        made.load(GUARDED)
        yield made


def talk(driver: EbpfDriver) -> None:
    for exchange in (*opened(FIRST, SECOND), dns(FIRST, SECOND)):
        driver.inject(exchange.interface, exchange.frame)


def by_port(plane: EbpfDataPlane) -> dict[tuple[str, State], Connection]:
    return {(found.port, found.state): found for found in plane.connections()}


def test_each_port_shows_its_own_side(driver: EbpfDriver) -> None:
    talk(driver)
    found = by_port(driver.plane)
    assert set(found) == {
        (port, state) for port in (WEB1_PORT, WEB2_PORT) for state in (State.ESTABLISHED, State.UDP_UNREPLIED)
    }
    client, server = found[WEB1_PORT, State.ESTABLISHED], found[WEB2_PORT, State.ESTABLISHED]
    assert (client.local, client.remote, client.remote_port, client.outward) == (FIRST, SECOND, 80, True)
    assert (server.local, server.remote, server.local_port, server.outward) == (SECOND, FIRST, 80, False)
    assert client.packets == (3, 2)
    assert server.packets == (2, 3)
    assert (client.rule, server.rule) == (11, 21)
    assert 431_000 < client.expires_s <= 432_000


def test_what_is_forgotten_or_has_expired_is_not_there(driver: EbpfDriver) -> None:
    talk(driver)
    plane = driver.plane
    assert plane.sweep() == 0
    udp = [found.key for found in plane.connections() if found.protocol == 17]
    assert plane.forget(udp) == 2
    assert {found.protocol for found in plane.connections()} == {6}
    plane._tracking.clock_ns = 2**62  # where all has expired long ago
    plane._tracking.write()
    assert plane._connections.sweep(2**62) == 2
    assert list(plane.connections()) == []


def without_first(driver: EbpfDriver, told: Policy = GUARDED) -> None:
    """The port WEB1 goes."""
    rows = [row for row in told.rows if not (isinstance(row, Port) and row.port == WEB1_PORT)]
    driver.load(replace(told, rows=tuple(rows), bindings={p: i for p, i in BINDINGS.items() if p != WEB1_PORT}))


def counted(driver: EbpfDriver, name: str) -> Counter[int]:
    """How many entries a map has of each port, by its number but for the lowest bit."""
    entries = driver.plane._loaded.maps[name].items()
    return Counter(int.from_bytes(key[:8], sys.byteorder) | 1 for key, _ in entries)


NUMBER_OF_FIRST, NUMBER_OF_SECOND = (layout.port_number(port) | 1 for port in (WEB1_PORT, WEB2_PORT))


def pieces(source: str, to: str) -> Iterator[bytes]:
    """A datagram in two fragments."""
    whole = bytes(b.UDP(sport=40000, dport=53, len=40, chksum=0) / b.Raw(bytes(32)))
    for offset, more in ((0, "MF"), (2, 0)):
        part = b.Raw(whole[offset * 8 :][: 16 if more else None])
        yield b.eth(MACS[to], b.network(source, to, flags=more, frag=offset, id=7, proto=17) / part, MACS[source])


def test_what_a_port_begins_again_with_is_held_against_the_rules_of_then(driver: EbpfDriver) -> None:
    """Of a port that is away no connection is of the rules that are in force: whatever changes until it is back."""
    talk(driver)
    plane = driver.plane
    assert {epoch_of(value) for _, value in plane._connections.entries()} == {plane._tracking.epoch}
    assert plane.bind({WEB1_PORT: BINDINGS[WEB1_PORT]}) == []
    assert plane.update([row for row in NO_HTTP.rows if isinstance(row, SecurityGroup)]) == []
    assert plane._tracking.epoch not in {epoch_of(value) for _, value in plane._connections.entries()}
    driver.load(NO_HTTP)
    *_, last = opened(FIRST, SECOND)
    assert getattr(driver.inject(last.interface, last.frame), "reason", None) is DropReason.SECURITY_GROUP


def epoch_of(connection: bytes) -> int:
    return int(layout.CONNECTION.unpack(connection)[-8])


def test_connections_of_a_port_that_is_gone_go_with_the_next_sweep(driver: EbpfDriver) -> None:
    talk(driver)
    without_first(driver)
    assert driver.plane.sweep([WEB1_PORT]) == 0  # another host may ask for them
    assert driver.plane.sweep() == 2
    assert {found.port for found in driver.plane.connections()} == {WEB2_PORT}


def test_nothing_stays_of_ports_that_are_gone(driver: EbpfDriver) -> None:
    driver.load(FTP)
    for exchange in ftp(FIRST, SECOND, b"227 (10,0,1,5,195,80)\r\n", by_server=True):
        driver.inject(exchange.interface, exchange.frame)
    without_first(driver, FTP)
    for _ in range(3):
        driver.plane.sweep()
    for name in ("quotas", "expecting"):
        assert counted(driver, name) == {NUMBER_OF_SECOND: 1}, name


def test_a_count_that_is_in_use_or_of_a_port_that_is_known_stays(driver: EbpfDriver) -> None:
    talk(driver)
    plane = driver.plane
    number = layout.port_number(WEB1_PORT)
    for _ in range(3):  # of no port that is known, but with connections
        plane._of_ports.leftovers.sweep(0, {})
    assert counted(driver, "quotas").keys() == {NUMBER_OF_FIRST, NUMBER_OF_SECOND}
    plane.forget([found.key for found in plane.connections()])
    for known in (None, None, *3 * [{number: layout.tenant_number(WEB1_PORT)}]):
        plane._of_ports.leftovers.sweep(0, known)
    assert counted(driver, "quotas").keys() == {NUMBER_OF_FIRST}
    plane._of_ports.leftovers.sweep(0, {})
    assert counted(driver, "quotas").keys() == {NUMBER_OF_FIRST}  # a packet may be under way
    plane._of_ports.leftovers.sweep(0, {})
    assert counted(driver, "quotas") == {}


def test_datagrams_under_way_go_as_they_expire_and_with_their_port(driver: EbpfDriver) -> None:
    for frame in pieces(FIRST, SECOND):
        assert getattr(driver.inject("tapweb1", frame), "reason", None) is None
    now_ns = time.monotonic_ns()
    driver.plane.sweep()
    assert counted(driver, "datagrams") == {NUMBER_OF_FIRST: 1, NUMBER_OF_SECOND: 1}
    without_first(driver)
    driver.plane.sweep()
    assert counted(driver, "datagrams") == {NUMBER_OF_SECOND: 1}
    driver.plane._of_ports.leftovers.sweep(now_ns + 31 * 10**9)
    assert counted(driver, "datagrams") == {}


def test_every_port_has_its_places_for_datagrams_whatever_others_send(driver: EbpfDriver) -> None:
    """As many ports as there may be take all of theirs: one less than that is as many as others can be."""
    table = driver.plane._loaded.maps["datagrams"]
    others = SIZES.ports - 2
    for port in range(others):
        for side in (0, 1):
            for slot in range(layout.DATAGRAM_PLACES // 2):
                table.update(layout.DATAGRAM_KEY.pack(port, side, slot), bytes(layout.DATAGRAM.size))
    for frame in pieces(FIRST, SECOND):
        assert getattr(driver.inject("tapweb1", frame), "reason", None) is None
    assert table.max_entries == layout.DATAGRAM_PLACES * SIZES.ports


def test_lines_that_are_not_whole_take_16_places_of_a_port_and_go_as_they_expire_and_with_it(
    driver: EbpfDriver,
) -> None:
    driver.load(FTP)
    for port in range(40_000, 40_040):
        for exchange in ftp(FIRST, SECOND, b"PORT 10,0,1,", port=port):
            driver.inject(exchange.interface, exchange.frame)
    now_ns = time.monotonic_ns()
    driver.plane.sweep()
    assert counted(driver, "lines") == {NUMBER_OF_FIRST: 16, NUMBER_OF_SECOND: 16}
    without_first(driver, FTP)
    driver.plane.sweep()
    assert counted(driver, "lines") == {NUMBER_OF_SECOND: 16}
    driver.plane._of_ports.leftovers.sweep(now_ns + 61 * 10**9)
    assert counted(driver, "lines") == {}
    assert driver.plane._loaded.maps["lines"].max_entries == layout.LINE_PLACES * SIZES.ports


@contextmanager
def replaced(driver: EbpfDriver, sizes: Sizes, source: Path = build.OBJECT) -> Iterator[EbpfDriver]:
    """Another process's data plane in the place of the driver's, which has been told of nothing."""
    pins = driver.plane._pins
    driver.plane.close()
    driver.plane = EbpfDataPlane(pins, sizes, source=source, times=TIMES)
    again = EbpfDriver(driver.plane, driver._harness.netns, UPLINK)
    again._unreachable = driver._unreachable
    try:
        yield again
    finally:
        again._wires.close()


MORE = replace(SIZES, records=SIZES.records * 2)  # so that the maps are others
KEEPING = guarded(GROUPS, KEPT)
KEEPING_NO_HTTP = guarded(GROUPS, KEPT_NO_HTTP)


def goes_on(driver: EbpfDriver) -> DropReason | None:
    """Of HTTP that has been opened."""
    to_server = opened(FIRST, SECOND)[3]
    reason: DropReason | None = getattr(driver.inject(to_server.interface, to_server.frame), "reason", None)
    return reason


@pytest.mark.parametrize("upgrade", ["other maps", "other programs"])
def test_an_upgrade_cuts_no_connection_that_is_kept_without_its_rule(
    driver: EbpfDriver, upgrade: str, tmp_path: Path
) -> None:
    """Its epoch is a former one's, by which nothing can be told: nor is it new, and to be asked of."""
    driver.load(KEEPING)
    talk(driver)
    driver.load(KEEPING_NO_HTTP)
    assert goes_on(driver) is None
    other = tmp_path / "other.bpf.o"
    other.write_bytes(build.OBJECT.read_bytes() + b"\0")
    sizes, source = (MORE, build.OBJECT) if upgrade == "other maps" else (SIZES, other)
    with replaced(driver, sizes, source) as again:
        again.load(KEEPING_NO_HTTP)
        epochs = {layout.CONNECTION.unpack(value)[17] for _, value in again.plane._connections.entries()}
        assert (epochs == {EPOCH_FORMER}) is (upgrade == "other maps")
        assert goes_on(again) is None
        fresh = opened(FIRST, SECOND, 81)[0]
        assert getattr(again.inject(fresh.interface, fresh.frame), "reason", None) is DropReason.SECURITY_GROUP
        # When connections are kept no longer, it is held against the rules as any other.
        again.load(NO_HTTP)
        assert goes_on(again) is DropReason.SECURITY_GROUP


@pytest.fixture(scope="module")
def otherwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of which a connection's fields are elsewhere."""
    sources = tmp_path_factory.mktemp("otherwise") / "c"
    shutil.copytree(build.SOURCE.parent, sources)
    text = (sources / "maps.h").read_text()
    expires, began = "\t__u64 expires_ns; \\\n", "\t__u64 began_ns; \\\n"
    assert text.count(expires + began) == 1
    (sources / "maps.h").write_text(text.replace(expires + began, began + expires))
    return build.compile_programs(sources.parent / "weft.bpf.o", sources / build.SOURCE.name)


def test_an_upgrade_to_another_layout_of_connections_cuts_none(driver: EbpfDriver, otherwise: Path) -> None:
    """Nor does the way back, with all that was known of them."""

    def known(of: EbpfDriver) -> dict[bytes, tuple[object, ...]]:
        """All but the epoch and when they end."""
        found = ((key, layout.CONNECTION.unpack(value)) for key, value in of.plane._connections.entries())
        return {key: (*value[:2], *value[4:17], *value[18:]) for key, value in found}

    talk(driver)
    assert goes_on(driver) is None
    before = known(driver)
    assert len(before) == 4
    with replaced(driver, SIZES, otherwise) as again:
        again.load(GUARDED)
        assert len(known(again)) == 4
    with replaced(driver, SIZES) as back:
        back.load(GUARDED)
        assert known(back) == before
    with replaced(driver, SIZES, otherwise) as again:
        again.load(GUARDED)
        assert goes_on(again) is None


def test_what_was_cut_before_an_upgrade_stays_cut_where_connections_are_kept(driver: EbpfDriver) -> None:
    talk(driver)
    driver.load(NO_HTTP)
    assert goes_on(driver) is DropReason.SECURITY_GROUP
    with replaced(driver, MORE) as again:
        again.load(KEEPING_NO_HTTP)
        assert goes_on(again) is DropReason.SECURITY_GROUP
        again.load(KEEPING)
        assert goes_on(again) is None


def test_what_another_host_told_of_is_asked_of_rules_behind_an_upgrade_too(driver: EbpfDriver) -> None:
    """Nobody has held it against any rules here, so it is none that is kept."""
    driver.load(KEEPING)
    talk(driver)
    told = {port: [of for _, of in driver.plane.carried(port) if of.protocol == 6] for port in (WEB1_PORT, WEB2_PORT)}
    driver.plane.forget([found.key for found in driver.plane.connections()])
    driver.load(KEEPING_NO_HTTP)
    assert [driver.plane.take(port, found) for port, found in told.items()] == [1, 1]
    with replaced(driver, MORE) as again:
        again.load(KEEPING_NO_HTTP)
        assert [layout.CONNECTION.unpack(value)[17] for _, value in again.plane._connections.entries()] == [0, 0]
        assert goes_on(again) is DropReason.SECURITY_GROUP


def test_a_generation_that_takes_connections_over_holds_each_against_its_own_rules(driver: EbpfDriver) -> None:
    """Though as many changes were told of to the one as to the other."""
    talk(driver)
    former = driver.plane._tracking.epoch
    with replaced(driver, MORE) as again:
        again.load(NO_HTTP)
        assert {found.protocol for found in again.plane.connections()} == {6, 17}
        while again.plane._tracking.epoch < former:
            again.plane._tracking.renew()
        assert again.plane._tracking.epoch == former
        assert goes_on(again) is DropReason.SECURITY_GROUP


def test_whoever_watches_hears_what_becomes_of_them(driver: EbpfDriver) -> None:
    plane = driver.plane
    talk(driver)
    assert plane.connection_events() == []
    plane.forget([found.key for found in plane.connections()])
    plane.watch(on=True)
    talk(driver)
    plane.forget([found.key for found in plane.connections() if found.port == WEB1_PORT and found.protocol == 6])
    told = [(event.what, event.connection.port, event.connection.protocol) for event in plane.connection_events()]
    assert told.count(("new", WEB1_PORT, 6)) == 1
    assert told.count(("new", WEB2_PORT, 17)) == 1
    assert told.count(("established", WEB2_PORT, 6)) == 1
    assert told[-1] == ("destroyed", WEB1_PORT, 6)
    plane.watch(on=False)
    talk(driver)
    assert plane.connection_events() == []


def test_no_flood_of_one_guest_takes_another_guests_connections(driver: EbpfDriver) -> None:
    plane = driver.plane
    plane._tracking.settings = conntrack.Settings(most=64, most_of_port=16)
    plane._tracking.write()
    talk(driver)
    for port in range(100):
        flood = dns(FIRST, SECOND, port=1000 + port)
        driver.inject(flood.interface, flood.frame)
    counted = [found.port for found in plane.connections()]
    assert counted.count(WEB1_PORT) == 16
    assert counted.count(WEB2_PORT) == 2  # what the flood did not get out with did not get in
    for exchange in opened(FIRST, SECOND)[3:]:
        assert getattr(driver.inject(exchange.interface, exchange.frame), "reason", None) is None


def test_what_is_each_ports_own_in_the_table_is_beside_what_all_share(driver: EbpfDriver) -> None:
    """Also where an operator lets all have more than the table was made for."""
    table = driver.plane._loaded.maps["connections"]
    own = 2 * driver.plane._tracking.settings.own_of_port * SIZES.ports
    assert table.max_entries == SIZES.connections + own
    assert own
    assert driver.plane._tracking.settings.most == SIZES.connections < conntrack.Settings().most


def test_data_connections_that_ftp_expects_are_seen_swept_and_forgotten(driver: EbpfDriver) -> None:
    plane = driver.plane
    driver.load(FTP)
    control = ftp(FIRST, SECOND, b"227 (10,0,1,5,195,80)\r\n", by_server=True)
    for exchange in control:
        driver.inject(exchange.interface, exchange.frame)
    found = {each.port: each for each in plane.connections() if each.state is State.EXPECTED}
    assert found.keys() == {WEB1_PORT, WEB2_PORT}
    client, server = found[WEB1_PORT], found[WEB2_PORT]
    assert (client.local, client.local_port, client.remote, client.remote_port) == (FIRST, 0, SECOND, 50_000)
    assert (server.local, server.local_port, server.remote, server.remote_port) == (SECOND, 50_000, FIRST, 0)
    assert (client.outward, server.outward, client.rule, server.rule) == (True, False, 51, 61)
    assert 50 < client.expires_s <= 60
    assert plane.expected()[Expected.MADE] == 2
    assert plane.sweep() == 0
    assert plane.forget([client.key]) == 1
    plane._tracking.clock_ns = 2**40 + time.monotonic_ns()
    plane._tracking.write()
    assert plane._connections.sweep(plane._tracking.clock_ns) == 1
    assert not any(each.state is State.EXPECTED for each in plane.connections())


def test_every_port_has_its_room_for_what_ftp_expects_whatever_others_expect(driver: EbpfDriver) -> None:
    """As many ports as there may be expect all that they may, and so do as many that have just gone."""
    plane = driver.plane
    driver.load(FTP)
    others = 2 * SIZES.ports - 2
    table, counts = (plane._loaded.maps[name] for name in ("expectations", "expecting"))
    for port in range(others):
        for n in range(EXPECTED_OF_PORT):
            key = layout.CONNECTION_KEY.pack(port, bytes(16), bytes(16), bytes(2), n.to_bytes(2, "big"), 6, 0, 0)
            table.update(key, layout.EXPECTATION.pack(2**63, 0, bytes(48), 0, 0))
        counts.update(layout.COUNT.pack(port), layout.COUNT.pack(EXPECTED_OF_PORT))
    for exchange in ftp(FIRST, SECOND, b"227 (10,0,1,5,195,80)\r\n", by_server=True):
        driver.inject(exchange.interface, exchange.frame)
    assert (plane.expected()[Expected.MADE], plane.expected()[Expected.NO_ROOM]) == (2, 0)
    assert table.max_entries == EXPECTED_OF_PORT * (others + 2)


def test_what_ftp_expects_outlives_the_agent(driver: EbpfDriver) -> None:
    driver.load(FTP)
    for exchange in ftp(FIRST, SECOND, b"227 (10,0,1,5,195,80)\r\n", by_server=True):
        driver.inject(exchange.interface, exchange.frame)
    before = {each.key for each in driver.plane.connections()}
    with replaced(driver, SIZES) as again:
        again.load(FTP)
        assert {each.key for each in again.plane.connections()} == before
        for exchange in opened(FIRST, SECOND, 50_000):
            assert getattr(again.inject(exchange.interface, exchange.frame), "reason", None) is None
        assert again.plane.expected()[Expected.ADMITTED] == 2


def test_with_a_control_connection_goes_what_it_expects(driver: EbpfDriver) -> None:
    plane = driver.plane
    driver.load(FTP)
    for exchange in ftp(FIRST, SECOND, b"227 (10,0,1,5,195,80)\r\n", by_server=True):
        driver.inject(exchange.interface, exchange.frame)
    assert plane.forget([each.key for each in plane.connections() if each.state is not State.EXPECTED]) == 2
    assert list(plane.connections()) == []


def test_an_entry_is_within_256_bytes_of_the_kernels_memory(driver: EbpfDriver) -> None:
    table = driver.plane._loaded.maps["connections"]
    head_bytes, bucket_bytes, list_bytes = 48, 16, 8  # struct htab_elem, a bucket each, the allocator's list
    key, value = (-(-size // 8) * 8 for size in (table.key_bytes, table.value_bytes))
    assert head_bytes + key + value + bucket_bytes + list_bytes <= 256


def test_as_many_connections_go_along_as_a_port_may_have_and_no_more(driver: EbpfDriver) -> None:
    plane = driver.plane
    talk(driver)
    one = next(of for _, of in plane.carried(WEB1_PORT) if of.protocol == 6)
    plane.forget([found.key for found in plane.connections()])
    most = plane._tracking.settings.most_of_port
    full = [one._replace(remote_port=n % 65_536, local_port=1 + n // 65_536) for n in range(most + 5)]
    taken = 0
    for at in range(0, len(full), wire.MOST):
        some = full[at : at + wire.MOST]
        data = wire.encode(1 + at // wire.MOST, some, more=True)
        assert len(data) < wire.MOST_BYTES
        taken += plane.take(WEB1_PORT, wire.decode(data).connections)
    assert taken == most
    assert sum(1 for _ in plane.carried(WEB1_PORT)) == most
    # Again, as when the first answer was lost: they take their own places.
    assert plane.take(WEB1_PORT, full[:100]) == 100
    assert sum(1 for _ in plane.carried(WEB1_PORT)) == most

"""The bytes that Python writes are the structs that C reads."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpf.rows import HOST, PORT_A, RDID, SUBNET
from weft.dataplane.ebpf import build, layout, libbpf
from weft.dataplane.ebpf.btf import Btf, Translation
from weft.kit.errors import Rejected
from weft.policy.drop import DropReason
from weft.policy.rows import Limit, MacRecord, Pair, Port, Qos, Record, Route

MAPS_H = build.SOURCE.with_name("maps.h").read_text()


def offsets(of: struct.Struct) -> set[int]:
    """Where each item of a format begins."""
    at, found = 0, set()
    for count, code in re.findall(r"(\d*)([a-zA-Z])", of.format):
        found.add(at)
        if code == "s":
            at += int(count or 1)
        else:
            for _ in range(int(count or 1)):
                found.add(at)
                at += struct.calcsize(f"={code}")
    assert at == of.size
    return found


@pytest.mark.parametrize("name", list(layout.LAYOUTS))
def test_keys_and_values_have_the_compiled_structs_sizes_and_offsets(name: str, weft_object: Path) -> None:
    with libbpf.Object(weft_object) as opened:
        btf, definition = Btf(opened.btf()), opened.definitions()[name]
    for ours, theirs in zip(layout.LAYOUTS[name], (definition.key_type, definition.value_type), strict=True):
        assert ours.size == btf.size(theirs)
        members = btf.members(theirs)
        assert {member.offset for member in members} <= offsets(ours)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_PAS", layout.MAX_PAS),
        ("SUBNET_HAS4", layout.HAS4),
        ("SUBNET_HAS6", layout.HAS6),
        ("RECORD_MOVING", layout.MOVING),
        ("RULE_NVGRE", next(iter(layout.RULES.values()))),
        ("FAMILY_IPV4", layout.FAMILY4),
        ("FAMILY_IPV6", layout.FAMILY6),
        ("PORT_ENABLED", layout.ENABLED),
        ("PORT_PEER", layout.PEER),
        ("PORT_QOS", layout.HAS_QOS),
        ("PORT_SAMPLED", layout.SAMPLED),
        ("PORT_MIRRORED", layout.MIRRORED),
        ("HOST_SAMPLED", layout.HOST_SAMPLED),
        ("DIRECTION_FROM_GUEST", layout.DIRECTIONS[0]),
        ("DIRECTION_TO_GUEST", layout.DIRECTIONS[1]),
    ],
)
def test_constants_are_those_of_the_header(name: str, value: int) -> None:
    assert re.search(rf"#define {name} (\d+)", MAPS_H)[1] == str(value)


def test_every_drop_reason_has_a_counter() -> None:
    assert max(DropReason) < (layout.COUNTERS.size - 32) // 8


addresses = st.ip_addresses().map(str).filter(lambda text: not text.startswith("::ffff:"))
macs = st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":"))
vsids = st.integers(4096, 16_777_214)
prefixes = st.one_of(
    st.builds(lambda a, n: f"{a}/{n}", st.ip_addresses(v=4), st.just(32)),
    st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/8", "2001:db8::/32", "::1/128"]),
)


@settings(max_examples=80)
@given(st.builds(Record, vsids, addresses, addresses, macs))
def test_a_record_is_read_back_as_it_was_written(row: Record) -> None:
    key, value = layout.record(row)
    assert layout.read_record(key, value, {}) == row
    assert layout.map_key(row.key) == key
    assert layout.record_keys(key) == [row.key]


@settings(max_examples=50)
@given(st.builds(MacRecord, vsids, macs, addresses))
def test_a_mac_record_is_read_back_as_it_was_written(row: MacRecord) -> None:
    key, value = layout.mac_record(row)
    assert layout.read_mac_record(key, value, {}) == row
    assert layout.map_key(row.key) == key
    assert layout.mac_record_keys(key) == [row.key]


@settings(max_examples=50)
@given(st.builds(Route, st.uuids().map(str), prefixes, vsids, st.none() | addresses))
def test_a_route_is_read_back_as_it_was_written(row: Route) -> None:
    key, value = layout.route(row)
    assert layout.read_route(key, value) == row
    assert layout.map_key(row.key) == key
    assert layout.route_keys(key) == [row.key]


def test_a_subnet_is_read_back_but_for_its_prefixes() -> None:
    assert layout.read_subnet(*layout.subnet(SUBNET)).row(SUBNET.prefixes) == SUBNET


def test_a_host_is_read_back_with_the_smallest_mtu_that_policy_or_kernel_knows() -> None:
    read = layout.read_host(layout.host(HOST, {"up0": 1400, "lo": 65536}, 0))
    assert (read.pas, read.uplink_mtu_bytes) == (HOST.pas, 1400)
    assert layout.read_host(layout.host(HOST, {"up0": 9000}, 6)).uplink_mtu_bytes == 1500


limits = st.none() | st.builds(
    Limit,
    st.integers(8_000, 10**12),
    st.integers(1514, 1 << 28),
    st.integers(1, 10**9),
    st.integers(1, 1 << 20),
)


@settings(max_examples=80)
@given(st.builds(Qos, limits, limits, st.none() | st.integers(0, 63), st.none() | st.integers(0, 63)))
def test_limits_and_marks_are_read_back_with_the_port(qos: Qos) -> None:
    row = replace(PORT_A, qos=qos)
    entries = layout.port(row, 7, peer=True)
    (value,), (qos_value,) = entries.ports.values(), entries.qos.values()
    assert layout.read_port(row.port, value, entries.sources, qos_value) == row


def test_a_port_is_read_back_with_its_pairs() -> None:
    entries = layout.port(PORT_A, 7, peer=True)
    (value,) = entries.ports.values()
    assert layout.read_port(PORT_A.port, value, entries.sources) == PORT_A


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Record(5000, "10.0.0", "192.0.2.1", "02:00:00:00:00:01"), "'10.0.0' is not an address"),
        (Record(5000, "::ffff:10.0.0.1", "192.0.2.1", "02:00:00:00:00:01"), "is not an address"),
        (Record(5000, "10.0.0.1", "here", "02:00:00:00:00:01"), "'here' is not an address"),
        (Record(5000, "10.0.0.1\0", "192.0.2.1", "02:00:00:00:00:01"), "is not an address"),
        (Record(5000, "10.0.0.1", "192.0.2.1", "zz"), "'zz' is not a MAC address"),
        (Record(5000, "10.0.0.1", "192.0.2.1", "02:00:00:00:00:01:02"), "is not a MAC address"),
        (Record(-1, "10.0.0.1", "192.0.2.1", "02:00:00:00:00:01"), "-1 does not fit"),
    ],
)
def test_a_record_with_bad_text_is_refused_with_the_text(row: Record, words: str) -> None:
    with pytest.raises(Rejected, match=re.escape(words)):
        layout.record(row)


@pytest.mark.parametrize(
    "prefix", ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0.0/x", "10.0.0.0/", "/8", "fd00::/-1"]
)
def test_a_bad_prefix_is_refused_with_the_text(prefix: str) -> None:
    with pytest.raises(Rejected, match=re.escape(repr(prefix)) + "|''"):
        layout.route(Route(RDID, prefix, 5000))
    with pytest.raises(Rejected, match=re.escape(repr(prefix)) + "|''"):
        layout.port(Port("p", 5000, "02:00:00:00:00:01", (), (Pair("02:00:00:00:00:01", prefix),)), 1, peer=False)


FORMER = """
struct half { __u32 end, gone; };
struct what { __u16 first; __u8 narrow; __u32 later[2]; struct half halves[2]; };
"""
NEW = """
struct half { __u32 end; };
struct what { __u64 fresh; struct half halves[2]; __u32 later[3]; __u32 narrow; __u16 first; };
"""


def test_a_struct_of_another_layout_is_read_by_its_fields_names(tmp_path: Path) -> None:
    """What was not there is 0, and what was of another width."""

    def compiled(name: str, structs: str) -> Btf:
        source = tmp_path / f"{name}.bpf.c"
        source.write_text(f'#include "types.h"\n{structs}\nstruct what is SEC(".data");\n')
        with libbpf.Object(build.compile_programs(tmp_path / name, source)) as opened:
            return Btf(opened.btf())

    before, now = compiled("former", FORMER), compiled("new", NEW)
    translated = Translation(before, before.structs["what"], now, now.structs["what"])
    former = struct.pack("=HBx2I4I", 7, 8, 10, 11, 20, 21, 30, 31)
    assert translated(former) == struct.pack("=Q2I3IIH2x", 0, 20, 30, 10, 11, 0, 0, 7) + bytes(4)
    same = Translation(now, now.structs["what"], now, now.structs["what"])
    everything = bytes(range(1, 1 + now.size(now.structs["what"])))
    assert same(everything)[:34] == everything[:34]

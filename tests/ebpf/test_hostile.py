"""Every header cut at every byte, and every bit of it turned: the eBPF programs and the reference say the same of it.

Whatever a guest or a forger sends, it is dropped with a reason and counted, or it is what the specification says of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from ebpf.driver import ETHERNET_BYTES, EbpfDriver, ebpf_driver
from packets import bridge, provider_group, rewriting, stt, trunk, tunnels
from packets.everything import CASES
from packets.policy import BINDINGS, MAIN, UNBOUND_INTERFACE, UPLINK, Policy
from packets.table import Case
from weft.policy.rows import Port, SecurityGroup
from weft.reference.plane import ReferenceDataPlane
from weft.reference.verdict import Drop, ToStack


# Without a limit of broadcast: thousands of frames are tried in a second.
def without_limits(policy: Policy) -> Policy:
    rows = (replace(row, flood_limit_pps=0) if isinstance(row, Port) else row for row in policy.rows)
    return replace(policy, rows=tuple(rows))


UNLIMITED = without_limits(MAIN)
#: Outer Ethernet, IPv6, GRE, inner Ethernet, IPv6: behind it is what nobody here reads.
HEADERS_BYTES = 122
#: And all of a byte at once.
EVERY_BIT = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF)
LONGEST_BYTES = 160


def _kind(case: Case) -> tuple[object, ...]:
    """What tells one way through the programs from another."""
    frame = case.frame
    protocol = frame[23:24] if frame[12:14] == b"\x08\x00" else frame[20:21]
    return case.interface == UPLINK, type(case.expected), frame[12:14], protocol, frame[0] & 1


def _seeds() -> Iterator[Case]:
    """One packet of each kind that comes through."""
    seen: set[tuple[object, ...]] = set()
    for case in CASES:
        through = not isinstance(case.expected, Drop | ToStack)
        if case.policy is MAIN and through and len(case.frame) <= LONGEST_BYTES and _kind(case) not in seen:
            seen.add(_kind(case))
            yield case


SEEDS = tuple(_seeds())


#: By every way to travel but NVGRE's plain one.
WAYS = (tunnels, stt, rewriting, trunk, bridge, provider_group)


def _carried() -> Iterator[Case]:
    """What guests send that travel by another rule, and what comes so: one packet of each kind."""
    seen: set[tuple[object, ...]] = set()
    for way, case in ((module.__name__, case) for module in WAYS for case in module.CASES):
        if isinstance(case.expected, Drop | ToStack) or case.before or case.policy is MAIN:
            continue
        if any(isinstance(row, SecurityGroup) for row in case.policy.rows):
            continue  # whose answer to a frame depends on the ones before
        # On the way out all rules read guests' frames alike.
        kind = (way if case.interface != UPLINK else id(case.policy), _kind(case))
        if len(case.frame) <= LONGEST_BYTES + 40 and kind not in seen:
            seen.add(kind)
            yield case


CARRIED = tuple(_carried())


@pytest.fixture(scope="module")
def driver(weft_object: Path) -> Iterator[EbpfDriver]:
    with ebpf_driver(weft_object, [*BINDINGS.values(), UNBOUND_INTERFACE], UPLINK) as made:
        made.load(UNLIMITED)
        yield made


@pytest.fixture(scope="module")
def reference() -> ReferenceDataPlane:
    return told(UNLIMITED)


def told(policy: Policy) -> ReferenceDataPlane:
    made = ReferenceDataPlane("hosts/h1", reachable=lambda pa: pa not in policy.unreachable)
    assert made.update(policy.rows) == []
    assert made.bind(policy.bindings) == []
    assert made.listen(policy.listeners) == []
    assert made.heed(policy.wanted) == []
    assert made.paths(policy.ways) == []
    return made


def _agree(driver: EbpfDriver, reference: ReferenceDataPlane, interface: str, frame: bytes) -> None:
    enter = reference.from_uplink if interface == UPLINK else reference.from_port
    expected = enter(interface, frame)
    assert driver.inject(interface, frame) == expected.verdict, (interface, frame.hex(), expected.steps)


@pytest.mark.root
@pytest.mark.parametrize("case", SEEDS, ids=lambda case: case.name)
def test_cut_at_every_byte(case: Case, driver: EbpfDriver, reference: ReferenceDataPlane) -> None:
    for length in range(ETHERNET_BYTES, len(case.frame)):
        _agree(driver, reference, case.interface, case.frame[:length])


@pytest.mark.root
@pytest.mark.parametrize("case", SEEDS, ids=lambda case: case.name)
def test_every_byte_turned(case: Case, driver: EbpfDriver, reference: ReferenceDataPlane) -> None:
    """Lengths, versions, reserved bits, flags, addresses."""
    for at in range(min(len(case.frame), HEADERS_BYTES)):
        for mask in EVERY_BIT:
            frame = bytearray(case.frame)
            frame[at] ^= mask
            _agree(driver, reference, case.interface, bytes(frame))


@pytest.mark.root
@pytest.mark.parametrize("case", CARRIED, ids=lambda case: case.name)
def test_cut_and_turned_by_whatever_rule_it_travels(case: Case, driver: EbpfDriver) -> None:
    """VXLAN, Geneve, GRE, STT, IP rewrite, VLAN, sub-ports, groups of the underlay; over IPv4 and IPv6; both ways."""
    policy = without_limits(case.policy)
    reference = told(policy)
    driver.load(policy)
    try:
        for length in range(ETHERNET_BYTES, len(case.frame)):
            _agree(driver, reference, case.interface, case.frame[:length])
        # What guests send is read alike, by whatever rule it travels: of that each bit is turned above.
        masks = EVERY_BIT if case.interface == UPLINK else (0xFF,)
        for at, mask in product(range(min(len(case.frame), HEADERS_BYTES)), masks):
            frame = bytearray(case.frame)
            frame[at] ^= mask
            _agree(driver, reference, case.interface, bytes(frame))
    finally:
        driver.load(UNLIMITED)


@pytest.mark.root
@pytest.mark.parametrize("case", SEEDS, ids=lambda case: case.name)
def test_a_vlan_tag_put_in(case: Case, driver: EbpfDriver, reference: ReferenceDataPlane) -> None:
    for tag in (b"\x81\x00\x00\x05", b"\x88\xa8\x00\x05"):
        _agree(driver, reference, case.interface, case.frame[:12] + tag + case.frame[12:])

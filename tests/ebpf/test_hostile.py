"""Every header cut at every byte, and every bit of it turned: the eBPF programs and the reference say the same of it.

Whatever a guest or a forger sends, it is dropped with a reason and counted, or it is what the specification says of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf.driver import ETHERNET_BYTES, EbpfDriver, ebpf_driver
from packets.everything import CASES
from packets.policy import BINDINGS, MAIN, UNBOUND_INTERFACE, UPLINK, Policy
from packets.table import Case
from weft.policy.rows import Port
from weft.reference.plane import ReferenceDataPlane
from weft.reference.verdict import Drop, ToStack

#: Without a limit of broadcast: thousands of frames are tried in a second.
UNLIMITED: Policy = replace(
    MAIN, rows=tuple(replace(row, flood_limit_pps=0) if isinstance(row, Port) else row for row in MAIN.rows)
)
#: Outer Ethernet, IPv6, GRE, inner Ethernet, IPv6: behind it is what nobody here reads.
HEADERS_BYTES = 122
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


@pytest.fixture(scope="module")
def driver(weft_object: Path) -> Iterator[EbpfDriver]:
    with ebpf_driver(weft_object, [*BINDINGS.values(), UNBOUND_INTERFACE], UPLINK) as made:
        made.load(UNLIMITED)
        yield made


@pytest.fixture(scope="module")
def reference() -> ReferenceDataPlane:
    made = ReferenceDataPlane("hosts/h1", reachable=lambda pa: pa not in UNLIMITED.unreachable)
    assert made.update(UNLIMITED.rows) == []
    assert made.bind(UNLIMITED.bindings) == []
    assert made.listen(UNLIMITED.listeners) == []
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
        for mask in (0x01, 0x80, 0xFF):
            frame = bytearray(case.frame)
            frame[at] ^= mask
            _agree(driver, reference, case.interface, bytes(frame))


@pytest.mark.root
@pytest.mark.parametrize("case", SEEDS, ids=lambda case: case.name)
def test_a_vlan_tag_put_in(case: Case, driver: EbpfDriver, reference: ReferenceDataPlane) -> None:
    for tag in (b"\x81\x00\x00\x05", b"\x88\xa8\x00\x05"):
        _agree(driver, reference, case.interface, case.frame[:12] + tag + case.frame[12:])

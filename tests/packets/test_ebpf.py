"""The packet table on the eBPF data plane."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ebpf.driver import ETHERNET_BYTES, EbpfDriver, ebpf_driver
from packets.driver import run
from packets.policy import BINDINGS, MAIN, OVER_IPV6, UNBOUND_INTERFACE, UPLINK
from packets.table import CASES, Case
from weft.contracts.dataplane import Feature
from weft.dataplane.ebpf import build

#: No driver of a network card gives the kernel less than an Ethernet header.
IN_THE_KERNEL = [case for case in CASES if len(case.frame) >= ETHERNET_BYTES]
#: What the data plane says it can do.
CARRIED = [case for case in IN_THE_KERNEL if case.policy is not OVER_IPV6]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EbpfDriver]:
    source = build.compile_programs(tmp_path_factory.mktemp("object") / "weft.bpf.o")
    with ebpf_driver(source, [*BINDINGS.values(), UNBOUND_INTERFACE], UPLINK) as made:
        made.load(MAIN)
        yield made


@pytest.mark.root
@pytest.mark.parametrize("case", CARRIED, ids=lambda case: case.name)
def test_packet(case: Case, driver: EbpfDriver) -> None:
    assert case.policy is MAIN
    run(driver, case)


@pytest.mark.root
def test_what_is_left_out_is_what_the_data_plane_says_it_cannot_do(driver: EbpfDriver) -> None:
    left_out = [case for case in IN_THE_KERNEL if case not in CARRIED]
    assert bool(left_out) == (Feature.UNDERLAY_IPV6 not in driver.plane.features)

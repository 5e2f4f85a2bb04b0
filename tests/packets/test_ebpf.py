"""The packet table on the eBPF data plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ebpf.driver import ETHERNET_BYTES, EbpfDriver, ebpf_driver
from packets.driver import run
from packets.everything import CASES
from packets.moving import MOVES
from packets.policy import BINDINGS, UNBOUND_INTERFACE, UPLINK, Policy
from packets.table import Case
from weft.dataplane.ebpf import build

#: No driver of a network card gives the kernel less than an Ethernet header.
IN_THE_KERNEL = [case for case in (*CASES, *MOVES) if len(case.frame) >= ETHERNET_BYTES]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Policy], EbpfDriver]]:
    """Loads a policy where it is not the one that is loaded already."""
    source = build.compile_programs(tmp_path_factory.mktemp("object") / "weft.bpf.o")
    with ebpf_driver(source, [*BINDINGS.values(), UNBOUND_INTERFACE], UPLINK) as made:
        loaded: list[Policy] = []

        def with_policy(policy: Policy) -> EbpfDriver:
            if loaded[-1:] != [policy]:
                made.load(policy)
                loaded.append(policy)
            return made

        yield with_policy


@pytest.mark.root
@pytest.mark.parametrize("case", IN_THE_KERNEL, ids=lambda case: case.name)
def test_packet(case: Case, driver: Callable[[Policy], EbpfDriver]) -> None:
    run(driver(case.policy), case)

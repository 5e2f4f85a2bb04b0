"""Bytes of any kind through the reference data plane: never an exception, always a verdict."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packets.everything import CASES
from packets.policy import BINDINGS, MAIN, OVER_IPV6, UPLINK, Policy
from strategies.packets import mutated
from weft.reference.plane import ReferenceDataPlane, Verdict

INTERFACES = (*BINDINGS.values(), UPLINK, "tapnone")
FRAMES = st.sampled_from([case.frame for case in CASES])


def plane_for(policy: Policy) -> ReferenceDataPlane:
    plane = ReferenceDataPlane("hosts/h1", reachable=lambda pa: pa not in policy.unreachable)
    plane.update(policy.rows)
    plane.bind(policy.bindings)
    return plane


@pytest.mark.parametrize("policy", [MAIN, OVER_IPV6], ids=["over-ipv4", "over-ipv6"])
@settings(max_examples=100)
@given(frames=st.lists(st.tuples(st.sampled_from(INTERFACES), mutated(FRAMES) | st.binary(max_size=200)), max_size=8))
def test_any_bytes_get_a_verdict(policy: Policy, frames: list[tuple[str, bytes]]) -> None:
    plane = plane_for(policy)
    for interface, frame in frames:
        enter = plane.from_uplink if interface == UPLINK else plane.from_port
        verdict = enter(interface, frame).verdict
        assert isinstance(verdict, Verdict)


@pytest.mark.parametrize("policy", [MAIN, OVER_IPV6], ids=["over-ipv4", "over-ipv6"])
def test_every_packet_of_the_table_cut_at_every_byte_gets_a_verdict(policy: Policy) -> None:
    plane = plane_for(policy)
    for case in CASES:
        enter = plane.from_uplink if case.interface == UPLINK else plane.from_port
        for length in range(min(len(case.frame), 150)):
            assert enter(case.interface, case.frame[:length]).steps

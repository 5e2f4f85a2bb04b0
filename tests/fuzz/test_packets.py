"""Bytes of any kind through the reference data plane: never an exception, always a verdict."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packets.everything import CASES
from packets.guarding import GUARDED, SCENES, SECURED, STATELESS
from packets.policy import BINDINGS, MAIN, OVER_IPV6, UPLINK, Policy
from strategies.packets import mutated
from weft.reference.plane import ReferenceDataPlane, Verdict

INTERFACES = (*BINDINGS.values(), UPLINK, "tapnone")
#: What is dropped without groups, and where ports have some.
SENT = [
    *((case.interface, case.frame) for case in CASES),
    *((each.interface, each.frame) for of in SCENES for each in of.exchanges),
]
FRAMES = st.sampled_from([frame for _, frame in SENT])
POLICIES = {
    "over-ipv4": MAIN, "over-ipv6": OVER_IPV6, "guarded": GUARDED, "stateless": STATELESS, "port-security": SECURED,
}  # fmt: skip


def plane_for(policy: Policy) -> ReferenceDataPlane:
    plane = ReferenceDataPlane("hosts/h1", reachable=lambda pa: pa not in policy.unreachable)
    plane.update(policy.rows)
    plane.bind(policy.bindings)
    return plane


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@settings(max_examples=100)
@given(frames=st.lists(st.tuples(st.sampled_from(INTERFACES), mutated(FRAMES) | st.binary(max_size=200)), max_size=8))
def test_any_bytes_get_a_verdict(policy: Policy, frames: list[tuple[str, bytes]]) -> None:
    plane = plane_for(policy)
    for interface, frame in frames:
        enter = plane.from_uplink if interface == UPLINK else plane.from_port
        verdict = enter(interface, frame).verdict
        assert isinstance(verdict, Verdict)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_packet_of_the_table_cut_at_every_byte_gets_a_verdict(policy: Policy) -> None:
    plane = plane_for(policy)
    for interface, whole in SENT:
        enter = plane.from_uplink if interface == UPLINK else plane.from_port
        for length in range(min(len(whole), 150)):
            assert enter(interface, whole[:length]).steps

"""How the room for multicast groups is shared."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from weft.dataplane.ebpf.listeners import EVERY_GROUP, generalised


def groups(count: int) -> frozenset[str]:
    return frozenset(f"239.1.{number >> 8}.{number & 255}" for number in range(count))


def test_who_asks_for_the_most_hears_all_and_the_others_what_they_asked_for() -> None:
    greedy = {f"tenants/red/ports/{number}": groups(256) for number in range(64)}
    modest = {f"tenants/blue/ports/{number}": groups(20) for number in range(10)}
    given = generalised(greedy | modest, 16384 - 2 * 74)
    assert {port: given[port] for port in modest} == modest
    assert {port for port in greedy if given[port] == {"0.0.0.0"}}
    assert all(given[port] in ({"0.0.0.0"}, groups(256)) for port in greedy)


@given(
    st.dictionaries(
        st.text(max_size=3), st.frozensets(st.sampled_from([*groups(20), "ff15::1", "ff15::2", *EVERY_GROUP]))
    ),
    st.integers(0, 60),
)
def test_every_group_that_is_asked_for_is_heard_and_two_places_a_port_are_always_enough(
    asked: Mapping[str, frozenset[str]], more: int
) -> None:
    room = 2 * len(asked) + more
    shared = generalised(asked, room)
    assert sum(map(len, shared.values())) <= room
    for port, wanted in asked.items():
        for group in wanted:
            assert group in shared[port] or ("::" if ":" in group else "0.0.0.0") in shared[port]
    if sum(map(len, asked.values())) <= room:
        assert shared == asked

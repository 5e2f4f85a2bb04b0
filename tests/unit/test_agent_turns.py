"""What waits of many tenants takes turns."""

from __future__ import annotations

import pytest

from weft.agent.turns import Turns


def test_tenants_take_turns_and_what_is_of_one_stays_in_order() -> None:
    turns: Turns[str] = Turns(100)
    for port, what in (("a/ports/1", "a1"), ("a/ports/2", "a2"), ("a/ports/1", "a3"), ("b/ports/1", "b1")):
        assert turns.put(port, what)
    assert [turns.take() for _ in range(len(turns))] == ["a1", "b1", "a2", "a3"]
    with pytest.raises(IndexError):
        turns.take()


def test_each_tenant_has_no_more_than_it_leaves() -> None:
    turns: Turns[int] = Turns(12)
    flood = [turns.put(f"a/ports/{n}", n) for n in range(20)]
    assert flood == [True] * 6 + [False] * 14
    assert [turns.put(f"b/ports/{n}", n) for n in range(5)] == [True] * 3 + [False] * 2
    assert turns.put("c/ports/1", 1)
    assert not turns.put("a/ports/1", 1)
    assert len(turns) == 10

"""Who is behind an uplink, as time goes by: heard, believed, forgotten, and too many."""

from __future__ import annotations

from collections import Counter

from weft.reference.learning import AGE_NS, LOOP_NS, Learned

VSID, MAC, OTHER = 5001, bytes.fromhex("029900000001"), bytes.fromhex("029900000002")


def test_who_was_heard_is_believed_for_the_age_and_no_longer() -> None:
    learned = Learned()
    learned.learn(VSID, MAC, "eth0", 10, "blue")
    assert learned.is_outside(VSID, MAC, 10 + AGE_NS - 1)
    assert not learned.is_outside(VSID, MAC, 10 + AGE_NS)
    assert not learned.is_outside(VSID + 1, MAC, 10)
    learned.learn(VSID, MAC, "eth0", 10 + AGE_NS, "blue")
    assert learned.is_outside(VSID, MAC, 10 + AGE_NS)


def test_who_is_heard_by_another_uplink_is_there() -> None:
    learned = Learned()
    learned.learn(VSID, MAC, "eth0", 1, "blue")
    learned.learn(VSID, MAC, "eth1", 2, "blue")
    assert list(learned.entries(3)) == [(VSID, MAC, "eth1", 1)]


def test_who_speaks_here_has_gone_round_within_a_second_and_moved_after_it() -> None:
    learned, steps = Learned(), list[str]()
    learned.learn(VSID, MAC, "eth0", 10, "blue")
    assert learned.looped(VSID, MAC, 10 + LOOP_NS - 1, steps)
    assert "gone round" in steps[0]
    assert not learned.looped(VSID, MAC, 10 + LOOP_NS, steps)
    assert not learned.is_outside(VSID, MAC, 10 + LOOP_NS), "it is here now"


def test_what_there_is_no_room_for_is_counted_and_those_who_are_known_stay() -> None:
    learned = Learned(of_subnet=1)
    learned.learn(VSID, MAC, "eth0", 1, "blue")
    learned.learn(VSID, OTHER, "eth0", 1, "blue")
    learned.learn(VSID + 1, OTHER, "eth0", 1, "blue")
    assert learned.refused == 1
    assert learned.is_outside(VSID, MAC, 1)
    assert not learned.is_outside(VSID, OTHER, 1)
    assert learned.is_outside(VSID + 1, OTHER, 1), "one subnet takes no room of another's"


def test_a_tenant_has_at_most_three_times_what_it_leaves_and_each_subnet_some_of_its_own() -> None:
    learned = Learned(own=2, shared=16)
    for vsid, tenant in ((1, "blue"), (2, "blue"), (3, "red"), (4, "green")):
        for number in range(20):
            learned.learn(vsid, number.to_bytes(6, "big"), "eth0", 1, tenant)
    has = Counter(vsid for vsid, _, _, _ in learned.entries(1))
    assert has == {1: 2 + 12, 2: 2, 3: 2 + 3, 4: 2 + 1}
    assert learned.refused == 4 * 20 - has.total()


def test_a_subnet_that_is_anothers_by_now_has_nobody() -> None:
    learned = Learned()
    learned.learn(VSID, MAC, "eth0", 1, "blue")
    learned.learn(VSID, OTHER, "eth0", 1, "red")
    assert [mac for _, mac, _, _ in learned.entries(1)] == [OTHER]

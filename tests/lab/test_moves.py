"""A guest that moves takes its addresses along, and its peers find it at once."""

from __future__ import annotations

import pytest

from lab.scenes import address
from polling import eventually
from weft.kit.errors import Rejected
from weft.lab.lab import Lab
from weft.lab.traffic import Question, Responders, Stream, who_answers


@pytest.mark.parametrize(
    ("name", "away", "peer"),
    [
        ("blue/web-2", "h3", "blue/web-1"),  # by its tap's name; h3 has red's web-2, so there it is attached by hand
        ("blue/only-1", "h1", "blue/db-1"),  # attached by hand throughout
        ("red/db-1", "h1", "red/web-1"),  # to the host of its peer
    ],
)
def test_a_guest_moves_to_a_host_in_another_subnet_and_back(
    lab: Lab, responders: Responders, name: str, away: str, peer: str
) -> None:
    guest = lab.guest(name)
    asked = [Question(lab.guest(peer).namespace, address(guest, version), guest.port) for version in (4, 6)]
    home = guest.host
    assert who_answers(asked) == [guest.port] * 2
    for host in (away, home):
        lab.move(name, host)
        assert lab.guest(name).host == host
        assert who_answers(asked) == [guest.port] * 2
    with lab.client() as client:
        status = eventually(lambda: (s := client.get(guest.port).status)["state"] == "active" and s)
        assert status["host"] == f"hosts/{home}"


def test_what_a_move_loses_is_what_was_sent_while_it_lasted(lab: Lab) -> None:
    source, target = lab.guest("blue/db-1"), lab.guest("blue/web-2")
    home = target.host
    with Stream(source, target, address(target)) as stream:
        eventually(lambda: len(stream.received) > 200)
        lab.move("blue/web-2", "h1")
        arrived = stream.sent
        eventually(lambda: len(stream.received) > 0 and max(stream.received) > arrived + 500)
        stream.stop(settle_s=0.3)
    try:
        # Whatever is sent once the new host carries the port arrives.
        assert set(range(arrived + 50, stream.sent)) <= stream.received
        assert len(stream.received) > 0.5 * stream.sent
    finally:
        lab.move("blue/web-2", home)


def test_the_old_host_has_nothing_left_of_it(lab: Lab) -> None:
    guest = lab.guest("red/web-2")  # the only one of its tenant there
    lab.move("red/web-2", "h1")
    try:
        eventually(lambda: guest.port not in lab.ask_agent("h3", "GET", "/status")["ports"])
        # No port of red is left on h3, so no row of red's routing domain may be.
        with lab.client() as client:
            vsid = client.get("tenants/red/routing-domains/prod/virtual-subnets/web").spec["vsid"]
        eventually(lambda: lab.ask_agent("h3", "GET", "/status")["usage"]["subnets"]["used"] == 2)
        assert vsid == 6001
    finally:
        lab.move("red/web-2", "h3")


def test_a_move_to_where_it_is_or_to_nowhere_is_refused(lab: Lab) -> None:
    with pytest.raises(Rejected, match="is on h1 already"):
        lab.move("blue/web-1", "h1")
    with pytest.raises(Rejected, match="no host of the lab"):
        lab.move("blue/web-1", "h9")

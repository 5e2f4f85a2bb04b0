"""A guest that moves takes its addresses along, and its peers find it at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from lab.scenes import address, connected
from polling import eventually
from weft.apps.cli import main
from weft.cli.session import ExitCode
from weft.client import moves
from weft.kit.errors import Rejected, Retry
from weft.lab import plan, shell
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


@contextmanager
def streams(lab: Lab, one: str, other: str, version: int = 4) -> Iterator[tuple[Stream, Stream]]:
    """1000 packets/s each way, of which not one is lost."""
    here, there = lab.guest(one), lab.guest(other)
    with Stream(here, there, address(there, version)) as to, Stream(there, here, address(here, version)) as back:
        eventually(lambda: len(to.received) > 200 and len(back.received) > 200)
        yield to, back
        went_on = to.sent
        eventually(lambda: to.sent > went_on + 300)
        to.stop()
        back.stop()
        assert (to.lost, back.lost) == (0, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_move_between_hosts_in_different_subnets_loses_nothing_and_connections_survive(
    lab: Lab, version: int
) -> None:
    peer, moving = lab.guest("blue/db-1"), lab.guest("blue/web-2")
    home = moving.host
    try:
        with (
            streams(lab, "blue/db-1", "blue/web-2", version),
            connected(lab, peer.namespace, moving.namespace, address(moving, version)) as (client, server),
        ):
            for number, host in enumerate(("h1", home)):
                lab.move("blue/web-2", host)
                client.sendall(bytes([number]) * 5000)
                server.sendall(bytes([number]) * 5000)
                assert (received(lab, server, 5000), received(lab, client, 5000)) == (bytes([number]) * 5000,) * 2
    finally:
        if lab.guest("blue/web-2").host != home:
            lab.move("blue/web-2", home)


def test_a_move_goes_on_through_a_restart_of_the_controller(lab: Lab) -> None:
    old = lab.guest("blue/web-2")
    new = plan.moved(lab.spec, old, "h1", (each for each in lab.guests.values() if each.port != old.port))
    with streams(lab, "blue/db-1", "blue/web-2"), lab.client() as client:
        shell.run(plan.arrival_steps(lab.spec.name, new))
        try:
            moves.begin(client, old.port, "hosts/h1")
            if new.explicit:
                lab.attach(new)
            lab.kill("controller")
            lab.await_gone("controller")
            lab.start_controller()
            lab.await_controller(time.monotonic() + 10)
            moves.await_ready(client, old.port)
            assert client.get(old.port).spec["destination"] == "hosts/h1"
        finally:
            moves.cancel(client, old.port)
            if new.explicit:
                lab.ask_agent("h1", "POST", "/detach", {"port": old.port})
            shell.run([plan.DeleteLink(new.namespace, plan.ARRIVING)])
    lab.mend()


def test_a_move_that_is_cancelled_leaves_nothing_on_the_other_host(lab: Lab) -> None:
    guest = lab.guest("blue/web-3")
    with lab.client() as client:
        moves.begin(client, guest.port, "hosts/h3")
        eventually(lambda: guest.port in lab.ask_agent("h3", "GET", "/status")["ports"])
        with pytest.raises(Retry, match="hosts/h3: the port is down there: no interface"):
            moves.await_ready(client, guest.port, timeout_s=1.5)
        moves.cancel(client, guest.port)
        eventually(lambda: guest.port not in lab.ask_agent("h3", "GET", "/status")["ports"])
        assert client.get(guest.port).status["host"] == f"hosts/{guest.host}"


def test_a_move_to_a_host_that_cannot_take_it_ends_at_once_with_the_hosts_reason(
    lab: Lab, responders: Responders
) -> None:
    blue, red = lab.guest("blue/web-2"), lab.guest("red/web-2")  # by its name, h3's tap may be of either
    peers = (lab.guest("blue/web-1"), lab.guest("red/web-1"))
    asked = [
        Question(peer.namespace, address(each, 4), each.port) for peer, each in zip(peers, (blue, red), strict=True)
    ]
    began_s = time.monotonic()
    words = ["port", "move", "blue/web-2", "h3"]
    result = CliRunner().invoke(main, words, env={"WEFT_CONTROLLER": lab.paths.controller_url})
    assert result.exit_code == ExitCode.REFUSED, result.output
    assert time.monotonic() - began_s < 30  # of the 60 that it may take
    assert f"{blue.port} cannot go to hosts/h3, where it has failed: " in result.stderr
    assert f"may as well be of {red.port}" in result.stderr
    assert f"The port is on {blue.host}" in result.stderr
    with lab.client() as client:
        assert "destination" not in client.get(blue.port).spec
        assert client.get(blue.port).status == {"state": "active", "reason": "", "host": f"hosts/{blue.host}"}
    eventually(lambda: blue.port not in lab.ask_agent("h3", "GET", "/status")["ports"])
    assert who_answers(asked) == [blue.port, red.port]


def received(lab: Lab, end: socket.socket, count: int) -> bytes:
    """So many bytes; where they do not come, with what both ends' stacks and the hosts know of it."""
    found = b""
    while len(found) < count:
        try:
            found += end.recv(count - len(found))
        except TimeoutError as error:
            ends = [lab.exec(name, "ss", "-tinoem").stdout for name in ("blue/db-1", "blue/web-2")]
            counters = {host.name: lab.ask_agent(host.name, "GET", "/counters") for host in lab.spec.hosts}
            raise AssertionError(f"{len(found)} of {count} bytes have come: {ends}, {counters}") from error
    return found


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

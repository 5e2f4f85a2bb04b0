"""Security groups and connections with real stacks: who gets through, who is cut, and what an operator sees."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.scenes import UPLINK, address, denied, dropped
from lab.test_multicast import PORT, heard, listener, sender
from polling import eventually
from weft.client import Client, moves
from weft.lab import plan, shell
from weft.lab.lab import Lab
from weft.lab.plan import Guest

HTTP, DATAGRAMS = 8000, 9000
PATIENCE_S = 30.0
STALLED_S = 30.0
RULE = "tenants/t/security-groups/servers/rules/http"


@pytest.fixture(scope="module")
def secured() -> Iterator[Lab]:
    name = f"security-{os.getpid()}"
    try:
        yield Lab.up(Path(__file__).parent / "security.yaml", name=name)
    finally:
        Lab.down(name)


def made(guest: Guest, family: int, kind: int) -> socket.socket:
    """A socket of the guest's."""
    found = shell.within(guest.namespace, lambda: socket.socket(family, kind))
    found.settimeout(PATIENCE_S)
    return found


@contextmanager
def connected(lab: Lab, version: int = 4, port: int = HTTP) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection from the client to the server: the client's end, and the server's."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    client, server = lab.guest("t/client"), lab.guest("t/server")
    with made(server, family, socket.SOCK_STREAM) as listening, made(client, family, socket.SOCK_STREAM) as ours:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address(server, version), port))
        listening.listen()
        ours.connect((address(server, version), port))
        theirs, _ = listening.accept()
        with theirs:
            theirs.settimeout(PATIENCE_S)
            yield ours, theirs


def listed(lab: Lab, host: str, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.ask_agent(host, "GET", f"/connections{query}")
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_a_client_speaks_http_to_a_server_that_knows_its_group(secured: Lab, version: int) -> None:
    server, client = secured.guest("t/server"), secured.guest("t/client")
    where = address(server, version)
    command = [sys.executable, "-m", "http.server", str(HTTP + version), "--bind", where, "--directory", "/etc/ssl"]
    running = subprocess.Popen(
        shell.inside(server.namespace, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://{where if version == 4 else f'[{where}]'}:{HTTP + version}/"
    fetch = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=3).status)"
    try:

        def answered() -> bool:
            done = subprocess.run(
                shell.inside(client.namespace, [sys.executable, "-c", fetch]),
                capture_output=True,
                text=True,
                check=False,
            )
            return done.stdout.strip() == "200"

        eventually(answered, "the page is there")
    finally:
        running.terminate()
        running.wait()


def test_who_is_in_no_group_that_the_server_knows_does_not_connect(secured: Lab) -> None:
    server, stranger = secured.guest("t/server"), secured.guest("t/stranger")
    with (
        made(stranger, socket.AF_INET, socket.SOCK_STREAM) as ours,
        dropped(secured, "h2", stranger.port, "security_group"),
        denied(secured, "h2", server.port),
    ):
        ours.settimeout(0.3)
        with pytest.raises(TimeoutError):
            ours.connect((address(server), HTTP))


def test_pings_are_answered_one_way_and_not_the_other(secured: Lab) -> None:
    server, client = secured.guest("t/server"), secured.guest("t/client")
    asks = ["ping", "-c", "2", "-i", "0.2", "-W", "2", address(server)]
    assert subprocess.run(shell.inside(client.namespace, asks), capture_output=True, check=False).returncode == 0
    asks = ["ping", "-c", "1", "-W", "1", address(client)]
    with dropped(secured, "h2", server.port, "security_group"):
        assert subprocess.run(shell.inside(server.namespace, asks), capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("version", [4, 6])
def test_who_may_send_next_to_nothing_hears_the_groups_that_it_joins(secured: Lab, version: int) -> None:
    """That it listens is told to its host, and is no traffic that its egress rules are asked of."""
    visitor, stranger = secured.guest("t/visitor"), secured.guest("t/stranger")
    family, group = f"ipv{version}", "239.77.6.6" if version == 4 else "ff15::77:6"
    narrow = "tenants/t/security-groups/narrow"
    with secured.client() as controller:
        controller.put(narrow, {})
        controller.put(
            f"{narrow}/rules/out", {"direction": "egress", "family": family, "protocol": "tcp", "port_min": 80}
        )
        hears = {"direction": "ingress", "family": family, "protocol": "udp", "port_min": PORT}
        controller.put(f"{narrow}/rules/hears", hears)
        controller.patch(visitor.port, {"security_groups": ["narrow"]})
        followed(controller)
        try:
            ear, mouth, own = listener(visitor, version, group), sender(stranger, version), sender(visitor, version)
            with ear, mouth, own:

                def arrives() -> bool:
                    mouth.sendto(b"to the group", (group, PORT))
                    return b"to the group" in heard(ear)

                eventually(arrives, f"{group} is heard")
                with dropped(secured, "h1", visitor.port, "security_group"), suppress(OSError):
                    own.sendto(b"not out", (group, PORT))
        finally:
            controller.patch(visitor.port, {"security_groups": ["clients"]})
            controller.delete(narrow)


def test_what_an_operator_denies_is_counted_by_its_port_and_rule(secured: Lab) -> None:
    server, client = secured.guest("t/server"), secured.guest("t/client")
    group, rule = "tenants/t/security-groups/above", "tenants/t/security-groups/above/rules/no-pings"
    command = [sys.executable, "-m", "weft.apps.cli"]
    agent = ["--agent", str(secured.paths.agent_socket("h2"))]
    with secured.client() as controller:
        controller.put(group, {"operator": True})
        controller.put(rule, {"direction": "ingress", "protocol": "icmp", "remote_group": "clients", "action": "deny"})
        controller.patch(server.port, {"operator_groups": ["above"]})
        try:
            followed(controller)
            with denied(secured, "h2", server.port, rule, 3):
                asks = ["ping", "-c", "3", "-i", "0.2", "-W", "1", address(server)]
                done = subprocess.run(shell.inside(client.namespace, asks), capture_output=True, check=False)
                assert done.returncode == 1
            by_rule = r"\S*above\S*no-pings +3"
            for what, line in (("denials", rf"t/server +{by_rule}"), ("hits", rf"{by_rule} +3")):
                shown = subprocess.run([*command, what, *agent], capture_output=True, text=True, check=True).stdout
                assert re.search(line, shown), shown
        finally:
            controller.patch(server.port, {"operator_groups": []})
            controller.delete(rule)
            controller.delete(group)


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_datagram_crosses_in_fragments_and_so_does_its_answer(secured: Lab, version: int) -> None:
    server, client = secured.guest("t/server"), secured.guest("t/client")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    where = (address(server, version), DATAGRAMS)
    with made(server, family, socket.SOCK_DGRAM) as theirs, made(client, family, socket.SOCK_DGRAM) as ours:
        theirs.bind(where)
        ours.bind((address(client, version), 0))
        for end in (ours, theirs):
            end.settimeout(1)

        def crosses(sent: bytes, sender: socket.socket, receiver: socket.socket) -> bool:
            """A datagram may be lost, as any: where a CPU lags behind, its first fragment may come last."""
            sender.sendto(sent, receiver.getsockname())
            with suppress(TimeoutError):
                return receiver.recv(10_000) == sent
            return False

        for _ in range(3):
            sent = os.urandom(9000)
            eventually(partial(crosses, sent, ours, theirs), "the datagram crosses")
            eventually(partial(crosses, sent[::-1], theirs, ours), "its answer crosses")


def test_bytes_by_the_million_pass_both_windows(secured: Lab) -> None:
    """Large windows, scaled; segments that are large frames within the host. However long that takes, it goes on."""
    left = much = 16 << 20
    piece = os.urandom(1 << 20)
    with connected(secured) as (ours, theirs):
        for end in (ours, theirs):
            end.settimeout(STALLED_S)  # of a step, not of all

        def send() -> int:
            sent = 0
            while sent < much:
                sent += ours.send(piece[: much - sent])
            return sent

        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send)
            while left and (some := theirs.recv(1 << 20)):
                left -= len(some)
            assert sending.result() == much
        assert left == 0
        theirs.sendall(b"all")
        assert ours.recv(10) == b"all"


def test_one_side_closes_and_the_other_goes_on(secured: Lab) -> None:
    with connected(secured) as (ours, theirs):
        ours.shutdown(socket.SHUT_WR)
        assert theirs.recv(1) == b""
        for _ in range(3):
            theirs.sendall(b"more")
            assert ours.recv(10) == b"more"
        eventually(lambda: bool(listed(secured, "h1", "?state=half_closed")), "half closed is seen")


def test_a_rule_that_goes_cuts_its_connections_and_brings_them_back_when_it_comes(secured: Lab) -> None:
    with connected(secured) as (ours, theirs), secured.client() as client:
        ours.sendall(b"before")
        assert theirs.recv(10) == b"before"
        spec = client.get(RULE).spec
        client.delete(RULE)
        eventually(lambda: client.get("hosts/h2").status["applied_revision"] >= client.health()["revision"])
        theirs.settimeout(0.5)
        try:
            ours.sendall(b"cut")
            with pytest.raises(TimeoutError):
                theirs.recv(10)
        finally:
            client.put(RULE, {key: value for key, value in spec.items() if key != "number"})
        theirs.settimeout(PATIENCE_S)
        assert theirs.recv(10) == b"cut"  # sent again by TCP


def test_a_rule_that_goes_leaves_connections_alone_that_the_groups_of_both_ends_keep(secured: Lab) -> None:
    groups = ("tenants/t/security-groups/servers", "tenants/t/security-groups/clients")
    with connected(secured) as (ours, theirs), secured.client() as client:
        ours.sendall(b"before")
        assert theirs.recv(10) == b"before"
        spec = client.get(RULE).spec
        try:
            for each in groups:
                client.patch(each, {"keep_connections": True})
            client.delete(RULE)
            followed(client)
            ours.sendall(b"kept")
            assert theirs.recv(10) == b"kept"
            with (
                made(secured.guest("t/client"), socket.AF_INET, socket.SOCK_STREAM) as another,
                dropped(secured, "h2", UPLINK, "security_group"),
                denied(secured, "h2", secured.guest("t/server").port),
            ):
                another.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    another.connect((address(secured.guest("t/server")), HTTP))
            client.patch(groups[0], {"keep_connections": False})
            followed(client)
            theirs.settimeout(0.5)
            ours.sendall(b"cut")
            with pytest.raises(TimeoutError):
                theirs.recv(10)
        finally:
            for each in groups:
                client.patch(each, {"keep_connections": False})
            client.put(RULE, {key: value for key, value in spec.items() if key != "number"})
        theirs.settimeout(PATIENCE_S)
        assert theirs.recv(10) == b"cut"


@contextmanager
def nothing_invalid(lab: Lab) -> Iterator[None]:
    """On no host is a packet dropped that tells of a connection that is not known."""

    def counted() -> dict[tuple[str, str, str], int]:
        return {
            (host, name, reason): count
            for host in ("h1", "h2", "h3")
            for name, traffic in lab.ask_agent(host, "GET", "/counters").items()
            for reason, count in traffic["drops"].items()
            if reason in ("security_group", "connection_invalid", "unknown_fragment")
        }

    before = counted()
    yield
    more = {key: count - before.get(key, 0) for key, count in counted().items()}
    assert {key: count for key, count in more.items() if count} == {}


@pytest.mark.parametrize("mover", ["server", "client"])
def test_connections_of_guarded_ports_survive_a_move_with_streams_and_nothing_is_invalid(
    secured: Lab, mover: str
) -> None:
    """Whichever end moves, and back; bytes flow both ways throughout, and a connection that rests is there then."""
    home = secured.guest(f"t/{mover}").host
    try:
        with (
            connected(secured) as (ours, theirs),
            connected(secured, port=HTTP + 1) as (rests, resting),
            connected(secured, version=6, port=HTTP + 2) as (six, sixth),
            nothing_invalid(secured),
        ):
            rests.sendall(b"before")
            assert resting.recv(10) == b"before"
            streams = [Flow(ours, theirs), Flow(theirs, ours), Flow(six, sixth), Flow(sixth, six)]
            for host in ("h3", home):
                secured.move(f"t/{mover}", host)
                for each in streams:
                    each.await_more()
                query = f"?port=tenants/t/ports/{mover}&state=established&address=10.0.1.12"
                found = listed(secured, host, query)
                [still] = [of for of in found if HTTP + 1 in (of["local_port"], of["remote_port"])]
                # It has not spoken since: what was counted where it comes from has come along.
                assert min(still["sent"]["packets"], still["received"]["packets"]) >= 2
            for each in streams:
                each.stop()
            # The end that has not moved speaks first: what knows of it can only have come along.
            speaks, hears = (rests, resting) if mover == "server" else (resting, rests)
            speaks.sendall(b"after")
            assert hears.recv(10) == b"after"
            hears.sendall(b"too")
            assert speaks.recv(10) == b"too"
    finally:
        if secured.guest(f"t/{mover}").host != home:
            secured.move(f"t/{mover}", home)


def test_a_move_does_not_wait_for_ever_for_connections_that_nobody_gives_and_says_so(secured: Lab) -> None:
    server = secured.guest("t/server")
    new = plan.moved(secured.spec, server, "h3", (each for each in secured.guests.values() if each.port != server.port))
    with connected(secured), secured.client() as client:
        secured.kill("agent:h2")
        shell.run(plan.arrival_steps(secured.spec.name, new))
        try:
            moves.begin(client, server.port, "hosts/h3")
            if new.explicit:
                secured.attach(new)
            eventually(lambda: client.get(server.port).status["move"]["state"] == "active")
            move = client.get(server.port).status["move"]
            assert move["reason"].startswith("its connections have not come: hosts/h2 ")
            secured.mend()
            # Late, and welcome.
            eventually(lambda: client.get(server.port).status["move"]["reason"] == "")
            assert listed(secured, "h3", f"?port={server.port}&state=established")
        finally:
            secured.mend()
            moves.cancel(client, server.port)
            if new.explicit:
                secured.ask_agent("h3", "POST", "/detach", {"port": server.port})
            shell.run([plan.DeleteLink(new.namespace, plan.ARRIVING)])


class Flow:
    """Bytes from one end to the other, as they go, each in its place."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._stopped = threading.Event()
        self.received = 0
        self._faults: list[Exception] = []
        self._source, self._target = source, target
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._send, self._receive)]
        for each in self._threads:
            each.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, AssertionError) as fault:
            self._faults.append(fault)

    def _send(self) -> None:
        number = 0
        while not self._stopped.is_set():
            self._source.sendall(bytes((number + n) % 251 for n in range(1000)))
            number = (number + 1000) % 251
            self._stopped.wait(0.002)
        self._source.sendall(b"\xff")

    def _receive(self) -> None:
        while True:
            some = self._target.recv(1 << 16)
            assert some, "the connection is over"
            end = some.endswith(b"\xff")
            data = some[:-1] if end else some
            assert data == bytes((self.received + n) % 251 for n in range(len(data)))
            self.received += len(data)
            if end:
                return

    def await_more(self) -> None:
        seen = self.received
        eventually(lambda: self._faults or self.received > seen + 20_000, "bytes go on")
        assert not self._faults, self._faults

    def stop(self) -> None:
        self._stopped.set()
        for each in self._threads:
            each.join(20)
        assert not self._faults, self._faults


def test_a_ports_connections_are_seen_through_the_controller_wherever_it_is(secured: Lab) -> None:
    with connected(secured):
        command = [sys.executable, "-m", "weft.apps.cli", "port", "connections", "t/server", "-o", "json"]
        environment = {**os.environ, "WEFT_CONTROLLER": secured.paths.controller_url}
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
        [seen] = [of for of in json.loads(done.stdout) if (of["local_port"], of["state"]) == (HTTP, "established")]
        assert (seen["port"], seen["begun_by"], seen["rule_name"]) == ("tenants/t/ports/server", "other", RULE)


def dry_run(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As an operator would run it."""
    command = [sys.executable, "-m", "weft.apps.cli", *arguments, "--dry-run"]
    environment = {**os.environ, "WEFT_CONTROLLER": lab.paths.controller_url}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)


def test_a_dry_run_says_which_connections_would_be_cut_and_then_they_are(secured: Lab) -> None:
    with connected(secured) as (ours, theirs), connected(secured, version=6, port=HTTP + 3), secured.client() as client:
        ours.sendall(b"before")
        assert theirs.recv(10) == b"before"
        said = json.loads(dry_run(secured, "delete", RULE, "-o", "json").stdout)
        [cut] = [each for each in said["cut"]["connections"] if each["local_port"] == HTTP]
        assert (cut["port"], cut["state"], cut["rule"], cut["by"]) == (
            "tenants/t/ports/server",
            "established",
            RULE,
            None,
        )
        assert (cut["local"], cut["remote"]) == (address(secured.guest("t/server")), address(secured.guest("t/client")))
        assert (cut["begun_by"], cut["host"]) == ("other", "hosts/h2")
        assert {each["local_port"] for each in said["cut"]["connections"]} == {HTTP}, (
            "not that of IPv6, of another rule"
        )
        assert said["cut"]["unanswered"] == []
        assert said["cut"]["looked_at"] >= 2
        told = dry_run(secured, "delete", RULE).stdout
        assert "no rule would allow it" in told
        assert "1 of " in told
        # Nothing of it was done; and when it is, it comes about.
        ours.sendall(b"still")
        assert theirs.recv(10) == b"still"
        spec = client.get(RULE).spec
        client.delete(RULE)
        try:
            followed(client)
            theirs.settimeout(0.5)
            ours.sendall(b"cut")
            with pytest.raises(TimeoutError):
                theirs.recv(10)
        finally:
            client.put(RULE, {key: value for key, value in spec.items() if key != "number"})
        theirs.settimeout(PATIENCE_S)
        assert theirs.recv(10) == b"cut"


def test_a_host_that_cannot_be_asked_is_named(secured: Lab) -> None:
    secured.kill("agent:h2")
    try:
        with secured.client() as client:
            eventually(lambda: client.get("hosts/h2").status["state"] == "absent")
        done = dry_run(secured, "delete", RULE)
        assert "of connections of t/server nothing is known: hosts/h2 is not connected" in done.stderr
    finally:
        secured.mend()


def has_applied(client: Client, host: str, revision: int) -> bool:
    return bool(client.get(host).status["applied_revision"] >= revision)


def followed(client: Client) -> None:
    """Every host does what was last written."""
    revision = client.health()["revision"]
    for host in ("hosts/h1", "hosts/h2"):
        eventually(partial(has_applied, client, host, revision))


def test_a_connection_outlives_the_agent(secured: Lab) -> None:
    with connected(secured) as (ours, theirs):
        secured.kill("agent:h2")
        secured.mend()
        ours.sendall(b"still")
        assert theirs.recv(10) == b"still"
        [seen] = [of for of in listed(secured, "h2", "?state=established&protocol=tcp") if of["local_port"] == HTTP]
        assert seen["port"] == "tenants/t/ports/server"


def test_an_operator_lists_and_flushes_connections_and_what_is_flushed_is_over(secured: Lab) -> None:
    with connected(secured) as (ours, theirs):
        # Nobody hears them close: they would say it again for 100 s, and be counted in other tests.
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        query = "?port=tenants/t/ports/server&protocol=tcp&state=established"
        [seen] = listed(secured, "h2", query)
        assert (seen["local_port"], seen["begun_by"]) == (HTTP, "other")
        assert secured.ask_agent("h2", "POST", f"/connections/flush{query}") == {"forgotten": 1}
        assert listed(secured, "h2", query) == []
        ours.sendall(b"nobody knows")
        theirs.settimeout(0.5)
        with pytest.raises(TimeoutError):
            theirs.recv(10)

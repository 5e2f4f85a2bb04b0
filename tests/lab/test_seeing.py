"""What an operator sees of connections and of rules on a host: lists, streams of events, logs, counts, and why."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from lab.scenes import address, denied
from polling import PATIENCE_S, eventually
from weft.agent.conntrack import MOST_WAITING
from weft.cli import agent_socket
from weft.cli.session import ExitCode
from weft.dataplane.ebpf import layout, libbpf
from weft.lab import shell
from weft.lab.lab import Lab
from weft.lab.plan import Guest

WEB, DATAGRAMS, TELNET = 8000, 9000, 23
SERVER, OTHERS_SERVER = "tenants/t/ports/server", "tenants/u/ports/server"
STRANGER = "tenants/t/ports/stranger"
HTTP_RULE = "tenants/t/security-groups/servers/rules/http"
WEB_RULE, TELNET_RULE = "tenants/u/security-groups/open/rules/web", "tenants/u/security-groups/above/rules/no-telnet"

Told = dict[str, Any]


@pytest.fixture(scope="module")
def seeing() -> Iterator[Lab]:
    name = f"seeing-{os.getpid()}"
    try:
        yield Lab.up(Path(__file__).parent / "seeing.yaml", name=name)
    finally:
        Lab.down(name)


def command(lab: Lab, *arguments: str, host: str = "h2") -> tuple[list[str], dict[str, str]]:
    """As an operator would run it on a host."""
    environment = {
        "WEFT_CONTROLLER": lab.paths.controller_url,
        "WEFT_AGENT": str(lab.paths.agent_socket(host)),
    }
    return [sys.executable, "-m", "weft.apps.cli", *arguments], {**os.environ, **environment}


def weft(lab: Lab, *arguments: str, host: str = "h2") -> subprocess.CompletedProcess[str]:
    line, environment = command(lab, *arguments, host=host)
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60, env=environment)


def said(lab: Lab, *arguments: str, host: str = "h2") -> Any:
    done = weft(lab, *arguments, "-o", "json", host=host)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Watch:
    """`weft conntrack watch` on a host, from when it says that it watches: what it prints, line by line."""

    def __init__(self, lab: Lab, *filters: str, host: str = "h2") -> None:
        line, environment = command(lab, "conntrack", "watch", "-o", "json", *filters, host=host)
        # What a shell runs in the background, these tests perhaps, has children that ignore an interrupt.
        self._process = subprocess.Popen(
            ["env", "--default-signal=INT", *line],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.events: list[Told] = []
        self.notes: list[str] = []
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._heard)),
            threading.Thread(target=self._read, args=(self._process.stderr, self.notes.append)),
        ]

    def _heard(self, line: str) -> None:
        self.events.append(json.loads(line))

    def _read(self, stream: Any, take: Callable[[str], None]) -> None:
        for line in stream:
            take(line)

    def __enter__(self) -> Self:
        for each in self._readers:
            each.start()
        self.await_note("watching the connections of this host")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self.code = self._process.wait(20)
        for each in self._readers:
            each.join(20)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def await_note(self, text: str) -> None:
        eventually(lambda: any(text in each for each in self.notes), f"{text!r} among {self.notes}", within_s=30)

    def has_told(self, wanted: list[Told]) -> bool:
        """These, in order, and no others."""
        return self.events == wanted

    def told(self, event: str, **facts: object) -> list[Told]:
        """Those with these facts."""
        wanted = {"event": event, **facts}
        return [each for each in list(self.events) if wanted.items() <= each.items()]

    def await_told(self, event: str, times: int = 1, **facts: object) -> list[Told]:
        eventually(
            lambda: len(self.told(event, **facts)) >= times, f"{event} {facts} in {self.events}", within_s=PATIENCE_S
        )
        return self.told(event, **facts)


def made(guest: Guest, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
    found = shell.within(guest.namespace, lambda: socket.socket(family, kind))
    found.settimeout(PATIENCE_S)
    return found


@contextmanager
def connected(lab: Lab, tenant: str, version: int = 4) -> Iterator[int]:
    """A connection of the tenant's client to its server; the client's port."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    client, server = lab.guest(f"{tenant}/client"), lab.guest(f"{tenant}/server")
    where = (address(server, version), WEB)
    with made(server, family=family) as listening, made(client, family=family) as ours:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen()
        ours.connect(where)
        theirs, _ = listening.accept()
        with theirs:
            ours.sendall(b"hello")
            assert theirs.recv(10) == b"hello"
            yield ours.getsockname()[1]


def ping(lab: Lab, source: str, target: str) -> None:
    done = lab.exec(source, "ping", "-c", "1", "-W", "5", address(lab.guest(target)))
    assert done.returncode == 0, done.stdout


def datagram(lab: Lab, source: str, target: str) -> None:
    with made(lab.guest(source), socket.SOCK_DGRAM) as ours:
        ours.sendto(b"datagram", (address(lab.guest(target)), DATAGRAMS))


def refused(lab: Lab, tenant: str, number: int) -> None:
    """One SYN, and no answer."""
    with made(lab.guest(f"{tenant}/client")) as ours:
        ours.settimeout(0.3)
        with pytest.raises(TimeoutError):
            ours.connect((address(lab.guest(f"{tenant}/server")), number))


@contextmanager
def much_going_on(lab: Lab) -> Iterator[None]:
    """Something of every kind that can be asked for, at the server of each tenant. Nothing of before."""
    weft(lab, "conntrack", "flush")
    with connected(lab, "t"), connected(lab, "t", version=6), connected(lab, "u"):
        datagram(lab, "t/client", "t/server")
        ping(lab, "u/client", "u/server")
        yield


#: What is asked for -> which it is.
FILTERS: dict[tuple[str, ...], Callable[[Told], bool]] = {
    ("--tenant", "u"): lambda of: of["port"] == OTHERS_SERVER,
    ("--port", "t/server"): lambda of: of["port"] == SERVER,
    ("--port", OTHERS_SERVER, "--protocol", "icmp"): lambda of: (of["port"], of["protocol"]) == (OTHERS_SERVER, "icmp"),
    ("--address", "10.0.0.11"): lambda of: of["remote"] == "10.0.0.11",
    ("--address", "FD00:0:0:b:0::12"): lambda of: of["local"] == "fd00:0:0:b::12",
    ("--protocol", "udp"): lambda of: of["protocol"] == "udp",
    ("--protocol", "6"): lambda of: of["protocol"] == "tcp",
    ("--state", "established"): lambda of: of["state"] == "established",
}


def end_of(of: Told) -> tuple[object, ...]:
    return of["port"], of["protocol"], of["local"], of["local_port"], of["remote"], of["remote_port"]


@pytest.mark.parametrize("asked", FILTERS, ids=" ".join)
def test_a_list_is_of_what_was_asked_for_and_a_flush_forgets_that_and_nothing_else(
    seeing: Lab, asked: tuple[str, ...]
) -> None:
    with much_going_on(seeing):
        everything = said(seeing, "conntrack", "list")
        assert len(everything) == 5
        wanted = {end_of(each) for each in everything if FILTERS[asked](each)}
        assert 0 < len(wanted) < 5
        assert {end_of(each) for each in said(seeing, "conntrack", "list", *asked)} == wanted
        assert said(seeing, "conntrack", "flush", *asked) == {"forgotten": len(wanted)}
        assert said(seeing, "conntrack", "list", *asked) == []
        left = {end_of(each) for each in said(seeing, "conntrack", "list")}
        assert left == {end_of(each) for each in everything} - wanted


def test_a_list_says_who_talks_to_whom_how_much_and_by_which_rule(seeing: Lab) -> None:
    weft(seeing, "conntrack", "flush")
    with connected(seeing, "t") as number:
        shown = weft(seeing, "conntrack", "list", "--protocol", "tcp").stdout
        line = (
            rf"t/server +tcp +established +10\.0\.1\.12 8000 +<- +10\.0\.0\.11 {number} "
            r"+\d+ \(\d+ B\) +\d+ \(\d+ B\) +43\d{4} +t/servers/http\n"
        )
        assert re.search(line, shown), shown
        assert weft(seeing, "conntrack", "flush", "--protocol", "tcp").stdout == "1 connection is forgotten\n"
        nothing = weft(seeing, "conntrack", "list", "--protocol", "tcp")
        assert (nothing.returncode, nothing.stdout) == (0, "")
        assert nothing.stderr == "no connections like that now: only those of ports with security groups are kept\n"


@pytest.mark.parametrize("what", ["list", "flush", "watch"])
@pytest.mark.parametrize(
    ("asked", "code", "error"),
    [
        (
            ("--port", "nope/x"),
            ExitCode.NOT_FOUND,
            f"port: this host has no 'tenants/nope/ports/x'; it has {SERVER}, {STRANGER}, {OTHERS_SERVER}",
        ),
        (("--port", "t/client"), ExitCode.NOT_FOUND, "port: this host has no 'tenants/t/ports/client'; it has "),
        (("--tenant", "nope"), ExitCode.NOT_FOUND, "tenant: this host has no port of 'nope'; it has ports of t, u"),
        (("--port", "server"), ExitCode.REFUSED, "'server' does not name a port: write tenants/T/ports/P, or T/P"),
        (("--address", "nowhere"), ExitCode.REFUSED, "address: 'nowhere' is not an address such as 10.0.1.4"),
        (("--protocol", "smtp"), ExitCode.REFUSED, "protocol: 'smtp' is none of icmp, tcp, udp, "),
        (("--state", "open"), ExitCode.REFUSED, "state: 'open' is none of syn_sent, syn_received, established, "),
        (("--agent", "/nowhere.sock"), ExitCode.UNREACHABLE, "no agent answers at /nowhere.sock: "),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_what_cannot_be_asked_for_is_an_error_that_says_what_can(
    seeing: Lab, what: str, asked: tuple[str, ...], code: ExitCode, error: str
) -> None:
    done = weft(seeing, "conntrack", what, *asked)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"error: {error}")
    assert done.stderr.count("\n") == 1


def test_a_watch_tells_what_becomes_of_what_was_asked_for_and_of_nothing_else(seeing: Lab) -> None:
    weft(seeing, "conntrack", "flush")
    with ExitStack() as stack:
        watched = {asked: stack.enter_context(Watch(seeing, *asked)) for asked in FILTERS}
        whole = stack.enter_context(Watch(seeing))
        with much_going_on(seeing):
            for port, protocol, state in (
                (SERVER, "tcp", "established"),
                (OTHERS_SERVER, "tcp", "established"),
                (OTHERS_SERVER, "icmp", "icmp_replied"),
            ):
                (began,) = {end_of(each) for each in whole.await_told("established", port=port, protocol=protocol)} & {
                    end_of(each) for each in whole.told("new", port=port, protocol=protocol) if "." in each["local"]
                }
                facts = {"port": port, "protocol": protocol, "state": state}
                assert began in {end_of(each) for each in whole.told("established", **facts)}
            whole.await_told("new", port=SERVER, protocol="udp", state="udp_unreplied", local_port=DATAGRAMS)
            assert whole.told("established", protocol="udp") == [], "nobody has answered"
            (http, _) = whole.told("established", port=SERVER, protocol="tcp")
            assert (http["begun_by"], http["rule_name"], http["refused"]) == ("other", HTTP_RULE, False)
            assert http["received"]["packets"] == 2, "SYN and ACK, of which it came about"
            assert said(seeing, "conntrack", "flush") == {"forgotten": 5}
            whole.await_told("destroyed", 5)
        order: dict[tuple[object, ...], list[str]] = {}
        for each in whole.events:
            order.setdefault(end_of(each), []).append(each["event"])
        assert len(order) == 5
        assert Counter(map(tuple, order.values())) == {
            ("new", "established", "destroyed"): 4,
            ("new", "destroyed"): 1,
        }
        for asked, watch in watched.items():
            wanted = [each for each in whole.events if FILTERS[asked](each)]
            assert wanted
            eventually(partial(watch.has_told, wanted), f"{asked}: {wanted}")
    assert {each.code for each in (whole, *watched.values())} == {ExitCode.INTERRUPTED}


def test_the_same_stream_is_in_the_agents_api_and_costs_something_only_while_it_is_read(seeing: Lab) -> None:
    socket_path = str(seeing.paths.agent_socket("h2"))

    def programs_tell() -> bool:
        (generation,) = (seeing.paths.pins / "h2").glob("maps-*")
        tracking = libbpf.Map.of("tracking", libbpf.pinned(generation / "tracking"))
        try:
            return bool(layout.TRACKING.unpack(tracking.lookup(layout.NUMBER.pack(0)) or b"")[layout.STATES + 4] & 1)
        finally:
            os.close(tracking.fd)

    eventually(lambda: not programs_tell(), "watches that have ended cost nothing")
    first = agent_socket.follow(socket_path, f"/connections/events?port={OTHERS_SERVER}&protocol=icmp")
    assert next(first) is None
    second = agent_socket.follow(socket_path, "/connections/events?state=icmp_replied")
    assert next(second) is None
    assert programs_tell()
    ping(seeing, "u/client", "u/server")
    told = [next(first), next(first)]
    assert [each["event"] for each in told] == ["new", "established"]
    assert next(second) == told[1]
    assert told[1] == {
        "event": "established", "port": OTHERS_SERVER, "protocol": "icmp", "local": "10.0.1.12", "remote": "10.0.0.11",
        "local_port": told[0]["local_port"], "remote_port": 8, "state": "icmp_replied", "begun_by": "other",
        "rule": told[0]["rule"], "rule_name": "tenants/u/security-groups/open/rules/ping", "refused": False,
        "sent": {"packets": 1, "bytes": 98}, "received": {"packets": 1, "bytes": 98},
    }  # fmt: skip
    first.close()
    ping(seeing, "u/client", "u/server")
    assert next(second)["event"] == "established", "who goes away takes nobody's events along"
    second.close()
    eventually(lambda: not programs_tell(), "the programs tell nobody any more", within_s=PATIENCE_S)


def test_who_reads_slowly_is_told_how_much_was_missed_and_is_in_nobodys_way(seeing: Lab) -> None:
    """The port's connections are its guest's: on its own host each datagram to another port begins one."""
    many, client = 2 * MOST_WAITING, seeing.guest("t/client")
    target = address(seeing.guest("t/server"))
    asked = f"/connections/events?port={client.port}&protocol=udp"
    slow = agent_socket.follow(str(seeing.paths.agent_socket("h1")), asked)
    assert next(slow) is None
    with Watch(seeing, "--port", "t/client", "--protocol", "udp", host="h1") as quick:
        with made(client, socket.SOCK_DGRAM) as ours:
            ours.bind((address(client), 0))
            number = ours.getsockname()[1]
            for sent in range(1, many + 1):
                ours.sendto(b"x", (target, 10_000 + sent))
                if not sent % 1000:  # the programs' ring holds some thousands
                    quick.await_told("new", sent, local_port=number)
        seeing.ask_agent("h1", "GET", "/healthz")
        heard, missed = 0, 0
        while heard + missed < many:
            event = next(slow)
            if event["event"] == "missed":
                missed += event["count"]
            elif event["event"] == "new":
                heard += 1
        assert missed > 0
        assert heard >= MOST_WAITING
        assert len(quick.told("new", local_port=number)) == many
        assert quick.told("missed") == []
        weft(seeing, "conntrack", "flush", "--port", "t/client", host="h1")
        assert next(slow)["event"] in ("new", "destroyed"), "it goes on from there"
        slow.close()
        ping(seeing, "t/client", "t/server")


def test_a_watch_goes_on_when_the_agent_was_restarted_and_says_so(seeing: Lab) -> None:
    with Watch(seeing, "--port", "t/server") as watch, connected(seeing, "t") as before:
        watch.await_told("established", remote_port=before)
        seeing.kill("agent:h2")
        watch.await_note("has ended; waiting for it to come back")
        seeing.mend()
        watch.await_note("it is back; what has happened meanwhile is not known")
        watch.await_told("missed", count=None)
        with connected(seeing, "t", version=6) as number:
            watch.await_told("new", remote_port=number)
            watch.await_told("established", remote_port=number)
        assert said(seeing, "conntrack", "flush", "--address", "10.0.0.11", "--protocol", "tcp")["forgotten"]
        watch.await_told("destroyed", remote_port=before), "the former agent's connection was there all the time"
    assert watch.code == ExitCode.INTERRUPTED


def logged(path: Path) -> list[Told]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def numbers(path: Path) -> list[int]:
    """The clients' ports in the log."""
    return [each["remote_port"] for each in logged(path)]


def journal(lab: Lab) -> list[dict[str, Any]]:
    """What systemd has of the agent's standard error: its lines, of JSON each."""
    lines = lab.paths.log("agent-h2").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def a_logged_connection(lab: Lab, holds: Callable[[int], bool]) -> int:
    """The client's port of one that the rule has logged. A rule's next 10 ms are not, so there may be several."""

    def once() -> int:
        with connected(lab, "u") as number:
            eventually(lambda: holds(number), f"{number} is logged", within_s=2)
        return number

    return eventually(once)


def test_what_a_rule_logs_is_in_the_journal_and_in_the_file_and_is_counted(seeing: Lab) -> None:
    path = seeing.paths.host("h2") / "state" / "rules.log"
    before = len(logged(path))
    number = a_logged_connection(seeing, lambda number: number in numbers(path))
    (line,) = [each for each in logged(path) if each["remote_port"] == number]
    assert line.pop("time_ms") > 1_700_000_000_000
    assert line.pop("bytes") >= 54
    assert line == {
        "rule": WEB_RULE, "port": OTHERS_SERVER, "direction": "ingress", "verdict": "allowed", "protocol": "tcp",
        "local": "10.0.1.12", "remote": "10.0.0.11", "local_port": WEB, "remote_port": number,
    }  # fmt: skip
    (said,) = [each for each in journal(seeing) if each.get("remote_port") == number]
    told = {"event": "rule", "level": "info", "rule": WEB_RULE, "port": OTHERS_SERVER, "verdict": "allowed"}
    assert told.items() <= said.items()
    with denied(seeing, "h2", OTHERS_SERVER, TELNET_RULE):
        refused(seeing, "u", TELNET)

    def denial() -> Told | None:
        return next((each for each in logged(path)[before:] if each["verdict"] == "denied"), None)

    line = eventually(denial, f"so does what denies: {logged(path)}", within_s=PATIENCE_S) or {}
    assert (line["rule"], line["port"], line["local_port"]) == (TELNET_RULE, OTHERS_SERVER, TELNET)
    shown = weft(seeing, "denials").stdout
    assert re.search(r"u/server +u/above/no-telnet +[1-9]", shown), shown
    shown = weft(seeing, "hits").stdout
    assert re.search(r"u/above/no-telnet +([1-9]\d*) +\1\n", shown), shown
    assert re.search(r"u/open/web +[1-9]\d* +0\n", shown), shown


def test_what_a_rule_logs_is_a_sample(seeing: Lab) -> None:
    path = seeing.paths.host("h2") / "state" / "rules.log"
    before, many = len(logged(path)), 2000
    hits = seeing.ask_agent("h2", "GET", "/rules")[TELNET_RULE]
    raw = f"""
import socket
from scapy.all import IP, TCP
wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for number in range(1, {many + 1}):
    wire.sendto(bytes(IP(src="10.0.0.11", dst="10.0.1.12") / TCP(sport=number, dport={TELNET})), ("10.0.1.12", 0))
"""
    done = seeing.exec("u/client", sys.executable, "-c", raw)
    assert done.returncode == 0, done.stderr
    eventually(
        lambda: seeing.ask_agent("h2", "GET", "/rules")[TELNET_RULE] >= hits + many,
        "all are denied",
    )
    found = [each for each in logged(path)[before:] if each["rule"] == TELNET_RULE]
    assert 0 < len(found) < many / 2


def test_the_log_goes_on_in_a_new_file_when_the_old_one_was_rotated_or_removed(seeing: Lab) -> None:
    path = seeing.paths.host("h2") / "state" / "rules.log"
    former = path.with_name("rules.log-20261128")
    first = a_logged_connection(seeing, lambda number: number in numbers(path))
    path.rename(former)
    second = a_logged_connection(seeing, lambda number: number in numbers(path))
    assert first in numbers(former)
    assert second not in numbers(former)
    path.unlink()
    third = a_logged_connection(seeing, lambda number: number in numbers(path))
    assert third in numbers(path)
    assert second not in numbers(path)


def test_a_file_that_cannot_be_written_is_told_of_clearly_and_the_journal_has_it_all(seeing: Lab) -> None:
    path = seeing.paths.host("h2") / "state" / "rules.log"

    def fault() -> str:
        return str(seeing.ask_agent("h2", "GET", "/status")["rule_log"]["fault"])

    assert fault() == ""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/full")
    try:
        for _ in range(2):
            a_logged_connection(
                seeing, lambda number: any(each.get("remote_port") == number for each in journal(seeing))
            )
        eventually(lambda: fault() == "No space left on device", within_s=PATIENCE_S)
    finally:
        path.unlink()
    (told,) = [each for each in journal(seeing) if "what rules log is not kept in a file" in each["event"]]
    assert (told["level"], told["path"], told["reason"]) == ("warning", str(path), "No space left on device")
    a_logged_connection(seeing, lambda number: number in numbers(path))
    assert fault() == ""
    assert "what rules log is kept in a file again" in [each["event"] for each in journal(seeing)]


@pytest.mark.parametrize(
    ("tenant", "number", "code", "step"),
    [
        ("t", WEB, ExitCode.DONE, f"ingress of {SERVER}: a new connection, {HTTP_RULE} allows it"),
        ("t", WEB + 100, ExitCode.NOT_DELIVERED, f"ingress of {SERVER}: refused, no rule speaks of it"),
        (
            "u",
            TELNET,
            ExitCode.NOT_DELIVERED,
            f"ingress of {OTHERS_SERVER}: refused, {TELNET_RULE} denies it",
        ),
    ],
)
def test_a_trace_names_the_rule_that_then_decides(
    seeing: Lab, tenant: str, number: int, code: ExitCode, step: str
) -> None:
    asked = ("--from", f"{tenant}/client", "--to", "10.0.1.12", "--protocol", "tcp", "--port", str(number))
    done = weft(seeing, "trace", *asked)
    assert done.returncode == code
    assert step in done.stdout
    if code:
        rule = TELNET_RULE if tenant == "u" else ""
        with denied(seeing, "h2", f"tenants/{tenant}/ports/server", rule):
            refused(seeing, tenant, number)
    else:
        weft(seeing, "conntrack", "flush")
        with connected(seeing, tenant):
            (seen,) = said(seeing, "conntrack", "list", "--protocol", "tcp")
            assert seen["rule_name"] == HTTP_RULE


def test_a_dry_run_names_what_a_change_would_cut_by_rule_and_by_what_refuses_it(seeing: Lab, tmp_path: Path) -> None:
    group = "tenants/t/security-groups/servers/rules"
    narrower = tmp_path / "narrower.yaml"
    narrower.write_text(
        f"- {{name: {group}/http, spec: {{direction: ingress, protocol: tcp, port_min: 8001, port_max: 8010, "
        "remote_group: clients}}\n"
    )
    weft(seeing, "conntrack", "flush")
    with connected(seeing, "t") as number, connected(seeing, "t", version=6), connected(seeing, "u"):
        (cut,) = said(seeing, "apply", "--dry-run", "-f", str(narrower))["cut"]["connections"]
        assert (cut["port"], cut["remote_port"], cut["rule"], cut["by"]) == (SERVER, number, HTTP_RULE, None)
        shown = weft(seeing, "apply", "--dry-run", "-f", str(narrower)).stdout
        assert re.search(rf"10\.0\.0\.11 {number}\b.*", shown), shown
        assert "no rule would allow it" in shown
        refusing = tmp_path / "refusing.yaml"
        refusing.write_text(
            "- {name: tenants/u/security-groups/above/rules/no-web, spec: {direction: ingress, protocol: tcp, "
            "port_min: 8000, action: deny}}\n"
        )
        (cut,) = said(seeing, "apply", "--dry-run", "-f", str(refusing))["cut"]["connections"]
        assert (cut["port"], cut["rule"]) == (OTHERS_SERVER, WEB_RULE)
        assert cut["by"] == "tenants/u/security-groups/above/rules/no-web"
        assert len(said(seeing, "conntrack", "list", "--protocol", "tcp")) == 3, "nothing of it was done"

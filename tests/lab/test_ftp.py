"""FTP with a real server and clients, whose groups allow port 21 only: what else passes is what FTP says."""

from __future__ import annotations

import ftplib
import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import pytest

from lab.scenes import UPLINK, address, dropped
from polling import eventually
from weft.lab import shell
from weft.lab.lab import Lab

T = TypeVar("T")
PATIENCE_S = 10.0
FILE = os.urandom(1 << 20) * 3


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"ftp-{os.getpid()}"
    try:
        yield Lab.up(Path(__file__).parent / "ftp.yaml", name=name)
    finally:
        Lab.down(name)


@pytest.fixture(scope="module")
def files(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the server has, which takes files, too."""
    there = tmp_path_factory.mktemp("ftp")
    (there / "file").write_bytes(FILE)
    server = lab.guest("t/server")
    running = []
    try:
        for version in (4, 6):
            command = [
                sys.executable, "-W", "ignore", "-m", "pyftpdlib", "-i", address(server, version), "-p", "21", "-w",
                "-d", str(there),
            ]  # fmt: skip
            running.append(
                subprocess.Popen(
                    shell.inside(server.namespace, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        for version in (4, 6):
            eventually(partial(_listens, lab, version), "the server listens")
        yield there
    finally:
        for each in running:
            each.terminate()
            each.wait()


def _listens(lab: Lab, version: int) -> bool:
    server = lab.guest("t/server")
    shown = subprocess.run(
        shell.inside(server.namespace, ["ss", "-Hltn", f"-{version}", "sport = :21"]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return bool(shown.stdout.strip())


class Client(ftplib.FTP):
    """The client guest's, of whose namespace all its sockets are."""

    def __init__(self, lab: Lab, version: int, *, passive: bool) -> None:
        super().__init__(timeout=PATIENCE_S)
        self._namespace = lab.guest("t/client").namespace
        self._in(lambda: self.connect(address(lab.guest("t/server"), version)))
        self.login()
        self.set_pasv(passive)

    def _in(self, work: Callable[[], T]) -> T:
        return shell.within(self._namespace, work)

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        whole = super().ntransfercmd
        return self._in(lambda: whole(cmd, rest))


@contextmanager
def client_of(lab: Lab, version: int = 4, *, passive: bool = True) -> Iterator[Client]:
    made = Client(lab, version, passive=passive)
    try:
        yield made
    finally:
        made.close()


def listed(lab: Lab, host: str, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.ask_agent(host, "GET", f"/connections?{query}")
    return found


def outcomes(lab: Lab, host: str) -> dict[str, int]:
    """What became of what FTP said, as the host's metrics have it."""
    transport = httpx2.HTTPTransport(uds=str(lab.paths.agent_socket(host)), verify=False)  # there is no certificate
    with httpx2.Client(transport=transport, base_url="http://agent", trust_env=False) as http:
        text = http.get("/metrics").text
    return {
        outcome: int(float(count))
        for outcome, count in re.findall(r'^weft_ftp_expectations_total\{outcome="(\w+)"\} (\S+)$', text, re.MULTILINE)
    }


def tries(lab: Lab, guest: str, to: str, port: int) -> None:
    """To connect, in vain."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    made = shell.within(lab.guest(guest).namespace, lambda: socket.socket(family, socket.SOCK_STREAM))
    with made:
        made.settimeout(0.3)
        with pytest.raises(TimeoutError):
            made.connect((to, port))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
def test_files_go_both_ways(lab: Lab, files: Path, version: int, passive: bool) -> None:
    """PASV and PORT; EPSV and EPRT by IPv6."""
    with client_of(lab, version, passive=passive) as client:
        assert "file" in client.nlst()
        got = io.BytesIO()
        client.retrbinary("RETR file", got.write)
        assert got.getvalue() == FILE
        client.storbinary(f"STOR from-{version}-{passive}", io.BytesIO(FILE))
        client.quit()
    assert (files / f"from-{version}-{passive}").read_bytes() == FILE


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", [[], ["--ftp-port", "-"]], ids=["passive", "active"])
def test_curl_which_extends_passive_and_active_by_ipv4_too_gets_a_file(
    lab: Lab, files: Path, tmp_path: Path, version: int, way: list[str]
) -> None:
    where = address(lab.guest("t/server"), version)
    url = f"ftp://{where if version == 4 else f'[{where}]'}/file"
    command = ["curl", "-sS", "--max-time", "20", *way, "-o", str(tmp_path / "got"), url]
    done = subprocess.run(
        shell.inside(lab.guest("t/client").namespace, command), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got").read_bytes() == FILE


def test_nothing_passes_that_ftp_has_not_said(lab: Lab, files: Path) -> None:
    client, server, stranger = (lab.guest(f"t/{name}") for name in ("client", "server", "stranger"))
    with client_of(lab) as ftp:
        host, port = ftp.makepasv()
        assert host == address(server)
        with dropped(lab, "h1", client.port, "security_group"):
            tries(lab, "t/client", host, port + 1)
        with dropped(lab, "h2", UPLINK, "security_group"):
            tries(lab, "t/stranger", host, port)
        with dropped(lab, "h2", server.port, "security_group"):
            tries(lab, "t/server", address(client), 50_000)
        assert stranger.host == client.host


def test_an_operator_sees_what_ftp_expects_and_it_outlives_the_agents(lab: Lab, files: Path) -> None:
    with client_of(lab) as ftp:
        host, port = ftp.makepasv()
        for where, name, far in (("h1", "client", "remote_port"), ("h2", "server", "local_port")):
            found = listed(lab, where, f"state=expected&port=tenants/t/ports/{name}&address={host}")
            [seen] = [each for each in found if each[far] == port]
            assert (seen[far], seen["protocol"], seen["begun_by"]) == (
                port,
                "tcp",
                "guest" if name == "client" else "other",
            )
            assert 0 < seen["expires_s"] <= 60
        for agent in ("agent:h1", "agent:h2"):
            lab.kill(agent)
        made = shell.within(
            lab.guest("t/client").namespace, lambda: socket.create_connection((host, port), timeout=PATIENCE_S)
        )
        with made:
            lab.mend()
            ftp.sendcmd("TYPE I")
            ftp.sendcmd("RETR file")
            got = b""
            while some := made.recv(1 << 16):
                got += some
            assert got == FILE
            ftp.voidresp()
    assert [seen for seen in listed(lab, "h1", "state=expected") if seen["remote_port"] == port] == []


def test_transfers_need_no_agent(lab: Lab, files: Path) -> None:
    for agent in ("agent:h1", "agent:h2"):
        lab.kill(agent)
    try:
        for passive in (True, False):
            with client_of(lab, passive=passive) as ftp:
                got = io.BytesIO()
                ftp.retrbinary("RETR file", got.write)
                assert got.getvalue() == FILE
    finally:
        lab.mend()


def test_a_client_that_names_somebody_else_is_counted_and_nobody_is_reached(lab: Lab, files: Path) -> None:
    """The bounce attack."""
    stranger = lab.guest("t/stranger")
    before = outcomes(lab, "h1")["other_address"], outcomes(lab, "h2")["other_address"]
    with client_of(lab) as ftp:
        with pytest.raises(ftplib.Error):  # the server, too, will have none of it
            ftp.sendport(address(stranger), 50_000)
        after = outcomes(lab, "h1")["other_address"], outcomes(lab, "h2")["other_address"]
        assert after == (before[0] + 1, before[1] + 1)
        with dropped(lab, "h2", lab.guest("t/server").port, "security_group"):
            tries(lab, "t/server", address(stranger), 50_000)


def said(speaker: socket.socket, text: bytes, *, by_bytes: bool) -> None:
    speaker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, by_bytes)
    for begin in range(0, len(text), 1 if by_bytes else len(text)):
        speaker.sendall(text[begin : begin + 1] if by_bytes else text)


class ByBytes(Client):
    """One that types, as telnet sends it."""

    def putline(self, line: str) -> None:
        assert self.sock is not None
        said(self.sock, f"{line}\r\n".encode(), by_bytes=True)


class Session:
    """A control connection to a guest that runs no server: what pyftpdlib would not wait for, or not send as that.

    by_bytes: each in a segment of its own.
    """

    def __init__(self, lab: Lab, version: int, *, by_bytes: bool = False) -> None:
        self.lab, self.version, self.by_bytes = lab, version, by_bytes
        with self.listens("plain", 21) as listening:
            self.client = self.connects("roaming", "plain", 21)
            self.server = listening.accept()[0]
        self.says(self.server, "220 ready\r\n")
        self.says(self.client, "USER anonymous\r\n")

    def listens(self, guest: str, port: int = 0) -> socket.socket:
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        of = self.lab.guest(f"t/{guest}")
        made = shell.within(
            of.namespace, lambda: socket.create_server((address(of, self.version), port), family=family)
        )
        made.settimeout(PATIENCE_S)
        return made

    def connects(self, guest: str, to: str, port: int) -> socket.socket:
        where = address(self.lab.guest(f"t/{to}"), self.version), port
        return shell.within(
            self.lab.guest(f"t/{guest}").namespace, lambda: socket.create_connection(where, timeout=PATIENCE_S)
        )

    def says(self, speaker: socket.socket, text: str) -> None:
        """And the other end has heard it."""
        said(speaker, text.encode(), by_bytes=self.by_bytes)
        other = self.server if speaker is self.client else self.client
        other.settimeout(PATIENCE_S)
        heard = b""
        while len(heard) < len(text):
            heard += other.recv(1 << 10)
        assert heard == text.encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()

    def names(self, port: int, *, passive: bool) -> None:
        """Where the data connection is to come to."""
        own = address(self.lab.guest("t/plain" if passive else "t/roaming"), self.version)
        six = f"{own.replace('.', ',')},{port >> 8},{port & 255}"
        if passive:
            self.says(self.server, f"227 So ({six}).\r\n" if self.version == 4 else f"229 So (|||{port}|)\r\n")
        else:
            self.says(self.client, f"PORT {six}\r\n" if self.version == 4 else f"EPRT |2|{own}|{port}|\r\n")

    def transfers(self, listening: socket.socket, *, passive: bool) -> None:
        """A data connection, and something in it."""
        ends = ("roaming", "plain") if passive else ("plain", "roaming")
        with self.connects(*ends, listening.getsockname()[1]) as one, listening.accept()[0] as other:
            other.settimeout(PATIENCE_S)
            one.sendall(b"data")
            assert other.recv(10) == b"data"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
@pytest.mark.parametrize("moving", ["roaming", "plain"])
def test_the_data_connection_opens_where_the_port_has_moved_to(
    lab: Lab, version: int, passive: bool, moving: str
) -> None:
    with Session(lab, version) as session, session.listens("plain" if passive else "roaming") as listening:
        session.names(listening.getsockname()[1], passive=passive)
        home = lab.guest(f"t/{moving}").host
        lab.move(f"t/{moving}", "h3" if home != "h3" else "h1" if moving == "roaming" else "h2")
        session.transfers(listening, passive=passive)
        # And what is said from then on is heard there.
        session.says(session.client, "NOOP\r\n")
        session.says(session.server, "200 so\r\n")
        with session.listens("plain" if passive else "roaming") as another:
            session.names(another.getsockname()[1], passive=passive)
            session.transfers(another, passive=passive)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
def test_a_client_that_sends_byte_by_byte_gets_its_file(lab: Lab, files: Path, version: int, passive: bool) -> None:
    client = ByBytes(lab, version, passive=passive)
    try:
        got = io.BytesIO()
        client.retrbinary("RETR file", got.write)
        assert got.getvalue() == FILE
    finally:
        client.close()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
def test_what_either_end_says_byte_by_byte_is_heard_by_the_hosts_of_both(lab: Lab, version: int, passive: bool) -> None:
    def made() -> int:
        return sum(
            outcomes(lab, host)["made"] for host in {lab.guest(f"t/{name}").host for name in ("roaming", "plain")}
        )

    with (
        Session(lab, version, by_bytes=True) as session,
        session.listens("plain" if passive else "roaming") as listening,
    ):
        before = made()
        session.names(listening.getsockname()[1], passive=passive)
        assert made() == before + 2
        session.transfers(listening, passive=passive)


def test_with_the_rule_of_the_control_connection_its_transfer_stops_and_goes_on(lab: Lab, files: Path) -> None:
    rule = "tenants/t/security-groups/servers/rules/ftp"
    with client_of(lab) as ftp, lab.client() as api, ftp.transfercmd("STOR cut") as sending:
        port = sending.getpeername()[1]

        def data() -> dict[str, Any]:
            [found] = [each for each in listed(lab, "h2", "protocol=tcp") if each["local_port"] == port]
            return found

        sending.sendall(b"before")
        eventually(lambda: data()["received"]["packets"] >= 3, "the data has come")
        spec = api.get(rule).spec
        api.delete(rule)
        try:
            eventually(lambda: api.get("hosts/h2").status["applied_revision"] >= api.health()["revision"])
            with dropped(lab, "h2", UPLINK, "security_group"):
                sending.sendall(b", and behind")
            assert data()["refused"]
        finally:
            api.put(rule, {key: value for key, value in spec.items() if key != "number"})
        eventually(lambda: not data()["refused"], "it goes on")
        sending.close()
        ftp.voidresp()
    assert (files / "cut").read_bytes() == b"before, and behind"

"""The controller as a process: what it refuses to begin with, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.free_ports import free_port

from polling import PATIENCE_S, eventually
from recorded import stores as recorded
from unit.controller_world import BASE, port
from weft.apps import controller
from weft.client import AsyncClient, Client
from weft.contracts.store import SCHEMA
from weft.kit.errors import Rejected, Retry
from weft.store.address import etcd_address, sqlite_path

RUN = "import sys; from weft.apps.controller import run; run(sys.argv[1], sys.argv[2:])"


@contextlib.contextmanager
def process(directory: Path, *listen: str) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / "log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-c", RUN, str(directory / "weft.db"), *(listen or (url(directory),))],
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            yield started
        finally:
            started.kill()
            started.wait()


def url(directory: Path) -> str:
    return f"unix://{directory}/s"


def started(directory: Path, times: int = 1) -> None:
    """Waits until it has said so. It listens by then."""
    eventually(lambda: (directory / "log").read_text().count('"event": "started"') == times)


def test_sigterm_ends_it_with_zero_while_streams_are_open(tmp_path: Path) -> None:
    with process(tmp_path) as controlled:
        started(tmp_path)
        with Client(url(tmp_path)) as client, Client(url(tmp_path)) as other:
            client.apply(BASE)
            feed, watch = other.feed("hosts/h1"), client.watch()
            next(feed)
            next(watch)
            controlled.send_signal(signal.SIGTERM)
            assert controlled.wait(PATIENCE_S) == 0
            assert list(feed) == []
            assert list(watch) == []
    assert not (tmp_path / "s").exists()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "stopped"]


def test_a_file_of_the_release_before_is_taken_up_at_the_start(tmp_path: Path) -> None:
    recorded.unpack("release-0.1", tmp_path).rename(tmp_path / "weft.db")
    with process(tmp_path):
        started(tmp_path)
        with Client(url(tmp_path)) as client:
            assert client.health()["schema"] == SCHEMA
            assert client.get("tenants/blue/ports/a").spec["security_groups"] == [
                "tenants/blue/security-groups/default",
                "tenants/blue/security-groups/front",
            ]
            assert client.ask("GET", "/v1/quotas/blue", dict)["limits"] == {"port": 100}
    said = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert (said["event"], said["schema_before"], said["schema"]) == ("the store has gone over", 1, SCHEMA)


def test_a_file_of_a_newer_release_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = recorded.unpack("release-0.1", tmp_path).rename(tmp_path / "weft.db")
    with contextlib.closing(sqlite3.connect(file)) as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    before = file.read_bytes()
    with process(tmp_path) as refused:
        assert refused.wait(PATIENCE_S) != 0
    assert f"weft store migrate --to {SCHEMA}" in (tmp_path / "log").read_text()
    assert file.read_bytes() == before


def test_an_answered_write_is_there_after_kill_9_and_its_socket_is_taken_over(tmp_path: Path) -> None:
    with process(tmp_path) as controlled:
        started(tmp_path)
        with Client(url(tmp_path)) as client:
            client.apply([*BASE, port(1)])
            answered: list[int] = []

            async def write() -> None:
                async with AsyncClient(url(tmp_path)) as writer:
                    with contextlib.suppress(Retry):
                        while True:
                            await writer.put(f"tenants/t{len(answered)}", {})
                            answered.append(1)

            writing = threading.Thread(target=lambda: asyncio.run(write()))
            writing.start()
            eventually(lambda: len(answered) > 20)
            controlled.kill()
            writing.join()
            controlled.wait()
    assert (tmp_path / "s").exists()
    with process(tmp_path):
        started(tmp_path, 2)
        with Client(url(tmp_path)) as client:
            names = {item.name for item in client.list("tenants")}
            assert {f"tenants/t{n}" for n in range(len(answered))} <= names
            assert client.get("tenants/blue/ports/p1").revision == 1
            client.put(*port(2))


def test_it_listens_at_several_addresses(tmp_path: Path) -> None:
    number = free_port()
    with process(tmp_path, f"http://127.0.0.1:{number}", url(tmp_path)):
        started(tmp_path)
        for at in (f"http://127.0.0.1:{number}", url(tmp_path)):
            with Client(at) as client:
                assert client.health()["status"] == "ok"


def test_an_address_that_is_taken_is_refused() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        at = f"http://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Rejected, match=f"cannot listen at {at}: another process does"), controller.listening(at):
            pass


def test_a_unix_socket_where_somebody_listens_is_refused_and_left(tmp_path: Path) -> None:
    with controller.listening(url(tmp_path)):
        with pytest.raises(Rejected, match="another process does"), controller.listening(url(tmp_path)):
            pass
        assert (tmp_path / "s").is_socket()
    assert not (tmp_path / "s").exists()


def test_a_file_in_the_place_of_the_socket_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(Rejected, match="no socket"), controller.listening(url(tmp_path)):
        pass
    assert (tmp_path / "s").read_text() == "mine"


def test_a_socket_that_another_has_replaced_is_left_at_the_end(tmp_path: Path) -> None:
    with controller.listening(url(tmp_path)):
        (tmp_path / "s").unlink()
        (tmp_path / "s").write_text("another's")
    assert (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "at", ["", "127.0.0.1:8640", "http://127.0.0.1", "http://127.0.0.1:x", "unix://s", "http://a/b"]
)
def test_what_is_no_address_is_refused(at: str) -> None:
    with pytest.raises(Rejected, match="nothing to listen at"), controller.listening(at):
        pass


@pytest.mark.parametrize(
    ("store", "path"),
    [
        ("/var/lib/weft/x.db", "/var/lib/weft/x.db"),
        ("x.db", "x.db"),
        ("sqlite:///var/lib/a b.db", "/var/lib/a b.db"),
        ("sqlite:///var/a%20b.db", "/var/a b.db"),
        ("postgres://127.0.0.1:2379", None),
        ("sqlite://", None),
        ("sqlite://x.db", None),
    ],
)
def test_a_store_is_a_path_or_a_url(store: str, path: str | None) -> None:
    if path is None:
        with pytest.raises(Rejected, match="is not a store such as"):
            sqlite_path(store)
    else:
        assert sqlite_path(store) == Path(path)


def test_an_etcd_store_is_a_url_with_all_its_nodes(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden\n")
    address = etcd_address(
        f"etcds://10.0.0.1,10.0.0.2:4001,[fd00::1]:2379/weft/?ca=/ca.pem&cert=/c.pem&key=/k.pem"
        f"&user=weft&password-file={tmp_path}/secret"
    )
    assert address.endpoints == ("https://10.0.0.1:2379", "https://10.0.0.2:4001", "https://[fd00::1]:2379")
    assert (address.prefix, address.ca, address.certificate) == ("/weft", Path("/ca.pem"), Path("/c.pem"))
    assert (address.user, address.password) == ("weft", "hidden")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("etcd://", "is not a store such as"),
        ("etcd://user:secret@10.0.0.1:2379", "is not a store such as"),
        ("etcd://10.0.0.1?ca=/ca.pem", "without TLS"),
        ("etcds://10.0.0.1?cipher=x", "there is no 'cipher'"),
        ("etcds://10.0.0.1?user=weft&password-file=/nowhere/secret", "cannot be read"),
    ],
)
def test_an_etcd_url_that_says_something_else_is_refused(url: str, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        etcd_address(url)


def test_a_store_that_cannot_be_opened_is_refused_and_the_socket_let_go(tmp_path: Path) -> None:
    (tmp_path / "weft.db").write_text("not a database " * 100)
    with process(tmp_path) as controlled:
        assert controlled.wait(PATIENCE_S) != 0
    assert "cannot be opened: file is not a database" in (tmp_path / "log").read_text()
    assert not (tmp_path / "s").exists()

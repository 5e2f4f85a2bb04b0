"""Mutual TLS everywhere, by what `weft ca` makes: among etcd nodes, controllers to etcd and each other, hosts."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from bench.free_ports import free_ports

from etcd_nodes import Node, memory_directory
from polling import eventually
from unit.certificates import ADMIN, authority, credentials_of, files_of, now
from unit.controller_world import BASE, port
from weft.agent import joining
from weft.client import ApiError, Client, access
from weft.client.credentials import Credentials
from weft.kit.errors import Retry
from weft.tls.authority import Authority
from weft.tls.contexts import ClientTls, Files
from weft.tls.identity import Identity, Role

pytestmark = pytest.mark.xdist_group("etcd")

CLIENT = Identity(Role.ETCD_CLIENT, "c1")


def of_etcd(ca: Authority, identity: Identity) -> Files:
    """etcd has a root of its own."""
    mine = files_of(ca, identity)
    return Files(mine.certificate, mine.key, ca.etcd_ca)


@contextlib.contextmanager
def etcd(ca: Authority, count: int = 3) -> Iterator[list[str]]:
    """Nodes that let in nobody but each other and who has a certificate of etcd's root."""
    directory, ports = memory_directory(), free_ports(2 * count)
    nodes = []
    for n in range(count):
        mine = of_etcd(ca, Identity(Role.ETCD_SERVER, f"e{n}"))
        words = []
        for peer in ("", "peer-"):
            words += [f"--{peer}cert-file", str(mine.certificate), f"--{peer}key-file", str(mine.key)]
            words += [f"--{peer}client-cert-auth", f"--{peer}trusted-ca-file", str(mine.ca)]
        at, among = (f"https://127.0.0.1:{ports[2 * n + side]}" for side in (0, 1))
        nodes.append(Node(f"n{n}", at, among, directory, words))
    members = ",".join(f"{node.name}={node.peer}" for node in nodes)
    try:
        for node in nodes:
            node.start(members)
        mine = ClientTls(of_etcd(ca, CLIENT)).context
        for node in nodes:
            eventually(lambda at=node.client: _answers(at, mine), f"{node.client} answers", every_s=0.1)
        yield [node.client for node in nodes]
    finally:
        for node in nodes:
            node.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _answers(at: str, context: object) -> bool:
    try:
        with httpx2.Client(verify=context, trust_env=False, timeout=2) as http:
            return http.post(f"{at}/v3/kv/range", content=b'{"key":"YQ=="}').status_code == 200
    except httpx2.HTTPError:
        return False


@dataclass(frozen=True, slots=True)
class Deployment:
    ca: Authority
    urls: tuple[str, ...]
    etcd: list[str]


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three etcd nodes, and two controllers, as `weft controller` is started."""
    directory = tmp_path_factory.mktemp("deployment")
    ca = authority(directory / "ca")
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(etcd(ca))
        own = of_etcd(ca, CLIENT)
        where = ",".join(each.removeprefix("https://") for each in nodes)
        store = f"etcds://{where}/weft?ca={own.ca}&cert={own.certificate}&key={own.key}"
        urls = tuple(f"https://127.0.0.1:{number}" for number in free_ports(2))
        for n, url in enumerate(urls):
            ca.issue(Identity(Role.CONTROLLER, f"t{n}"), ["127.0.0.1"], now(), timedelta(days=1))
            mine = files_of(ca, Identity(Role.CONTROLLER, f"t{n}"))
            command = [
                sys.executable, "-m", "weft.apps.cli", "controller", "--listen", url, "--store", store,
                "--certificate", str(mine.certificate), "--key", str(mine.key), "--ca", str(mine.ca),
                "--issuer-certificate", str(ca.directory / "hosts.crt"),
                "--issuer-key", str(ca.directory / "hosts.key"),
            ]  # fmt: skip
            log = stack.enter_context((directory / f"{n}.log").open("wb"))
            process = stack.enter_context(subprocess.Popen(command, stderr=log, env={**os.environ}))
            stack.callback(process.terminate)
        for n in range(2):
            said = directory / f"{n}.log"
            eventually(lambda at=said: b'"started"' in at.read_bytes(), "it starts", 30)
        with Client(urls[0], credentials=credentials_of(ca, ADMIN)) as client:
            client.apply([*BASE, port(1)])
        yield Deployment(ca, urls, nodes)


def test_a_token_of_one_controller_lets_a_host_join_at_another_once(it: Deployment, tmp_path: Path) -> None:
    one, other = it.urls
    with Client(one, credentials=credentials_of(it.ca, ADMIN)) as client:
        token = access.make_join_token(client, "h1", 600).token
    eventually(lambda: _knows(it, other, token), "the other controller has heard")
    joined = joining.join("hosts/h1", other, token, tmp_path / "h1")
    for url in it.urls:
        with Client(url, credentials=Credentials(joined)) as host:
            assert b"tenants/blue/ports/p1" in next(host.feed("hosts/h1"))
            with pytest.raises(ApiError, match="may not"):
                next(host.feed("hosts/h2"))
    with pytest.raises(ApiError, match="used, or expired"):
        joining.join("hosts/h1", one, token, tmp_path / "again")


def _knows(it: Deployment, url: str, token: str) -> bool:
    with Client(url, credentials=credentials_of(it.ca, ADMIN)) as client:
        entries, _ = access.audited(client, 100)
    return any(token.split("_")[1] in str(each) for each in entries)


def test_users_quotas_and_the_audit_log_are_the_same_at_every_controller(it: Deployment) -> None:
    from weft.wire.access import NewToken

    one, other = it.urls
    with Client(one, credentials=credentials_of(it.ca, ADMIN)) as client:
        made = access.make_token(client, NewToken(user="ann", role="tenant-reader", tenant="blue"))
        access.set_quota(client, "blue", {"port": 1})
    ann = Credentials(Files(ca=it.ca.ca), made.secret)

    def known() -> bool:
        with Client(other, credentials=ann) as client:
            try:
                return bool(access.whoami(client)["of"] == "tenants/blue")
            except ApiError:
                return False

    eventually(known, "the other controller knows ann")
    with Client(other, credentials=credentials_of(it.ca, ADMIN)) as client:
        with pytest.raises(ApiError, match="no room for 1 more"):
            client.put(*port(2))
        access.set_quota(client, "blue", {})
        first, _ = access.audited(client, 1000)
        revision = int(client.health()["revision"])
    with Client(one, credentials=credentials_of(it.ca, ADMIN)) as client:
        eventually(lambda: int(client.health()["revision"]) >= revision)
        assert access.audited(client, 1000)[0][: len(first)] == first


def test_a_host_that_reaches_etcd_is_not_let_in(it: Deployment) -> None:
    """Its certificate is of the deployment, and etcd trusts another root."""
    host = files_of(it.ca, Identity(Role.HOST, "h2"))
    stranger = Files(host.certificate, host.key, it.ca.etcd_ca)
    assert _answers(it.etcd[0], ClientTls(of_etcd(it.ca, CLIENT)).context)
    assert not _answers(it.etcd[0], ClientTls(stranger).context)
    assert not _answers(it.etcd[0], ClientTls(Files(ca=it.ca.etcd_ca)).context)


def test_a_certificate_of_etcds_root_is_nobody_at_a_controller(it: Deployment) -> None:
    own = files_of(it.ca, CLIENT)
    shown = Credentials(Files(own.certificate, own.key, it.ca.ca))
    with Client(it.urls[0], credentials=shown) as client, pytest.raises(Retry):
        client.health()


def test_a_controller_takes_up_a_new_certificate_while_a_feed_goes_on(it: Deployment) -> None:
    with (
        Client(it.urls[0], credentials=credentials_of(it.ca, ADMIN)) as client,
        Client(it.urls[0], credentials=credentials_of(it.ca, ADMIN)) as writer,
    ):
        feed = client.feed("hosts/h1")
        next(feed)
        before = _ends(writer)
        it.ca.issue(Identity(Role.CONTROLLER, "t0"), ["127.0.0.1"], now(), timedelta(days=9), renew=True)
        eventually(lambda: _ends(writer) > before + 86_400, "the new certificate is in use", 20)
        writer.put(*port(7))
        text = b""
        while b"tenants/blue/ports/p7" not in text:
            text += next(feed)


def _ends(client: Client) -> float:
    """By the controller's own figures."""
    text = client._call("GET", "/metrics").decode()
    name = 'weft_certificate_expiry_timestamp_seconds{certificate="server"}'
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(name)))

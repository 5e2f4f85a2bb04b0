"""etcd that speaks TLS, asks for certificates, and wants to know who comes: what weft ca makes is what it takes."""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from bench.free_ports import free_ports

from conformance.store_suite import Closing, take
from etcd_nodes import Cluster, Node, memory_directory
from polling import PATIENCE_S, eventually
from unit.certificates import files_of, now
from weft.kit.errors import Rejected, Retry
from weft.store.address import etcd_address
from weft.store.etcd import EtcdStore
from weft.store.etcd_client import Address, Etcd, Range
from weft.tls.authority import Authority
from weft.tls.contexts import ClientTls, Files
from weft.tls.identity import Identity, Role

pytestmark = [
    pytest.mark.xdist_group("etcd"),
    # The HTTP client leaves a connection to the garbage collector whose TLS was refused after the handshake.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SERVER, CLIENT = Identity(Role.ETCD_SERVER, "e1"), Identity(Role.ETCD_CLIENT, "c1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.make(tmp_path_factory.mktemp("ca"), "test", now())
    made.issue(SERVER, ["127.0.0.1"], now())
    made.issue(CLIENT, [], now())
    return made


@pytest.fixture(scope="module")
def url(authority: Authority) -> Iterator[str]:
    """One node; user weft with the password secret may do what it likes below /weft/, and nobody else anything."""
    server, client = files_of(authority, SERVER), files_of(authority, CLIENT)
    ports, directory = free_ports(2), memory_directory()
    node = Node(
        "e1", f"https://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", directory,
        ["--cert-file", str(server.certificate), "--key-file", str(server.key),
         "--trusted-ca-file", str(authority.etcd_ca), "--client-cert-auth"],
    )  # fmt: skip
    made = Cluster([node], directory)
    try:
        made.start()
        files = Files(client.certificate, client.key, authority.etcd_ca)
        with httpx2.Client(base_url=node.client, verify=ClientTls(files).context) as etcd:

            def asked(path: str, **body: object) -> bool:
                try:
                    return etcd.post(f"/v3/{path}", json=body).status_code == 200
                except httpx2.HTTPError:
                    return False

            eventually(lambda: asked("kv/range", key="YQ=="), "etcd answers", every_s=0.1)
            assert asked("auth/user/add", name="root", password="root")
            assert asked("auth/role/add", name="root")
            assert asked("auth/user/grant", user="root", role="root")
            assert asked("auth/user/add", name="weft", password="secret")
            assert asked("auth/role/add", name="weft")
            below = {"permType": "READWRITE", "key": "L3dlZnQv", "range_end": "L3dlZnQw"}  # /weft/ to /weft0
            assert asked("auth/role/grant", name="weft", perm=below)
            assert asked("auth/user/grant", user="weft", role="weft")
            assert asked("auth/enable")
        (directory / "password").write_text("secret\n")
        yield (
            f"etcds://127.0.0.1:{ports[0]}/weft?ca={authority.etcd_ca}&cert={client.certificate}&key={client.key}"
            f"&user=weft&password-file={directory}/password"
        )
    finally:
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a test leaves is found in that test, and in no other."""
    yield
    gc.collect()


async def test_a_store_comes_in_with_certificate_and_password(url: str) -> None:
    async with aclosing(Closing(EtcdStore(etcd_address(url)))) as it:
        revision = await it.store.commit({}, {"a": b"1"}, [])
        async with aclosing(it.store.watch(revision - 1)) as batches:
            assert [dict(each.puts) for each in await take(batches, 1)] == [{"a": b"1"}]
        assert await it.store.commit({"a": revision}, {}, ["a"]) == revision + 1


async def test_a_token_that_has_run_out_is_asked_for_again(url: str) -> None:
    async with aclosing(Closing(EtcdStore(etcd_address(url)))) as it:
        await it.store.commit({}, {"a": b"1"}, [])
        it.store.etcd._token = "none.1"
        await it.store.commit({}, {"a": b"2"}, [])
        assert it.store.etcd._token != "none.1"


def _without_certificate(address: Address) -> Address:
    return replace(address, certificate=None, key=None)


def _with_another_password(address: Address) -> Address:
    return replace(address, password="guess")


def _elsewhere(address: Address) -> Address:
    return replace(address, prefix="/another")


def _as_nobody(address: Address) -> Address:
    return replace(address, user=None)


@pytest.mark.parametrize("change", [_without_certificate, _with_another_password, _elsewhere, _as_nobody])
async def test_who_is_not_let_in_is_told_so(url: str, change: object) -> None:
    assert callable(change)
    async with aclosing(Closing(EtcdStore(change(etcd_address(url))))) as it:
        with pytest.raises((Rejected, Retry)):
            await it.store.commit({}, {"a": b"1"}, [])


async def test_certificates_that_are_replaced_are_taken_up_by_a_client_that_is_open(url: str, tmp_path: Path) -> None:
    good = etcd_address(url)
    assert good.certificate is not None
    assert good.key is not None
    another = Authority.make(tmp_path / "ca", "another", now())
    stranger = files_of(another, Identity(Role.ETCD_CLIENT, "stranger"))
    shown = tmp_path / "shown.pem"
    shown.write_bytes(stranger.certificate.read_bytes() + stranger.key.read_bytes())
    etcd = Etcd(replace(good, certificate=shown, key=None))
    with pytest.raises(Retry):
        await etcd.range(Range(b"/weft/head"))
    replacement = tmp_path / "new.pem"
    replacement.write_bytes(good.certificate.read_bytes() + good.key.read_bytes())
    replacement.replace(shown)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await etcd.range(Range(b"/weft/head"))
                break
            except Retry:
                await asyncio.sleep(0.05)
    await etcd.close()


def test_certificates_that_are_not_there_are_said_at_once(url: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="cannot be read"):
        EtcdStore(replace(etcd_address(url), ca=tmp_path / "none.pem"))

"""TLS between clients and a controller, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from bench.free_ports import free_port

from polling import PATIENCE_S
from unit.certificates import ADMIN, CONTROLLER, authority, credentials_of, files_of, now
from unit.controller_world import BASE
from weft.apps import controller
from weft.client import AsyncClient, Client
from weft.client.credentials import Credentials
from weft.kit.errors import Rejected, Retry
from weft.tls.authority import Authority
from weft.tls.contexts import ClientTls, Files, ServerTls
from weft.tls.identity import Identity, Role


@dataclass(frozen=True, slots=True)
class Running:
    url: str
    ca: Authority


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Running]:
    ca = authority(directory / "ca")
    url = f"https://127.0.0.1:{free_port()}"
    stopping, ready = asyncio.Event(), asyncio.Event()
    issuer = (ca.directory / "hosts.crt", ca.directory / "hosts.key")
    security = controller.Security(files_of(ca, CONTROLLER), issuer=issuer)
    serving = controller.serve(str(directory / "weft.db"), [url], stopping, ready=ready.set, security=security)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(serving)
        await ready.wait()
        try:
            yield Running(url, ca)
        finally:
            stopping.set()


async def test_an_administrator_applies_and_reads_over_tls(tmp_path: Path) -> None:
    async with running(tmp_path) as it, AsyncClient(it.url, credentials=credentials_of(it.ca, ADMIN)) as client:
        await client.apply(BASE)
        assert (await client.get("hosts/h1")).name == "hosts/h1"


async def test_a_certificate_of_another_authority_is_not_let_in(tmp_path: Path) -> None:
    other = authority(tmp_path / "other")
    async with running(tmp_path) as it:
        theirs = files_of(other, ADMIN)
        forged = Credentials(Files(theirs.certificate, theirs.key, it.ca.ca))
        async with AsyncClient(it.url, credentials=forged) as client:
            with pytest.raises(Retry, match="broke"):
                await client.health()
        with (
            Client(it.url, credentials=forged) as command,
            pytest.raises(Retry, match="authority that it does not know"),
        ):
            await asyncio.to_thread(command.health)


async def test_plain_http_where_https_is_wanted_says_what_to_try(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        with Client(it.url.replace("https", "http")) as command, pytest.raises(Retry, match=r"\(it may want https\)"):
            await asyncio.to_thread(command.health)


def test_a_certificate_whose_key_is_elsewhere_says_so(tmp_path: Path) -> None:
    certificate = files_of(authority(tmp_path / "ca"), ADMIN).certificate
    with pytest.raises(Rejected, match=r"there is no key in .*/alice\.crt: say where it is"):
        ClientTls(Files(certificate))


async def test_a_controller_of_another_authority_is_not_believed(tmp_path: Path) -> None:
    other = authority(tmp_path / "other")
    async with running(tmp_path) as it, AsyncClient(it.url, credentials=credentials_of(other, ADMIN)) as client:
        with pytest.raises(Retry, match=r"whoever answers at .* is not believed to be the controller: self-signed"):
            await client.health()


async def test_a_host_cannot_pose_as_a_controller(tmp_path: Path) -> None:
    """Its certificate is of the right authority, but for clients, and for no address."""
    ca = authority(tmp_path / "ca")
    host = files_of(ca, Identity(Role.HOST, "h1"))
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0, ssl=ServerTls(host).context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=ClientTls(files_of(ca, ADMIN)).context)


async def test_the_authority_of_hosts_cannot_make_an_administrator(tmp_path: Path) -> None:
    """Whoever has a controller's issuing key has hosts' certificates, and no more."""
    from weft.tls.certificates import Issuer, issue, key_pem, make_key

    async with running(tmp_path) as it:
        hosts = it.ca.hosts()
        key = make_key()
        for identity, message in ((Identity(Role.HOST, "h1"), ""), (ADMIN, "broke")):
            stolen = Issuer(hosts.certificate, hosts.key)  # no word of what it may sign: the certificate says it
            made = issue(stolen, identity, key.public_key(), [], now(), timedelta(days=1))
            path = tmp_path / "made.pem"
            path.write_bytes(key_pem(key) + made.pem + hosts.certificate.pem)
            async with AsyncClient(it.url, credentials=Credentials(Files(path, None, it.ca.ca))) as client:
                with pytest.raises(Retry, match=message) if message else contextlib.nullcontext():
                    await client.health()


async def test_certificates_are_replaced_while_connections_go_on(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    tls = ServerTls(files_of(ca, CONTROLLER))
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            seen.append(line)
            writer.write(line)

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls.context)
    async with server:
        port = server.sockets[0].getsockname()[1]

        async def connect(files: Files) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ClientTls(files).context)
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return reader, writer, shown

        before = await connect(files_of(ca, ADMIN))
        assert not tls.check()
        ca.renew(now(), timedelta(0), ["controller/c1"])
        assert tls.check()
        after = await connect(files_of(ca, ADMIN))
        assert before[2] != after[2]
        for reader, writer, _ in (before, after):
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"
            writer.close()


async def test_an_authority_that_is_taken_away_lets_nobody_in_any_more(tmp_path: Path) -> None:
    """Without a restart: what a listener holds for its life must not be what callers are judged by."""
    ca, other = authority(tmp_path / "ca"), authority(tmp_path / "other")
    mine = files_of(ca, CONTROLLER)
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(ca.ca.read_bytes() + other.ca.read_bytes())
    tls = ServerTls(Files(mine.certificate, mine.key, trusted))
    guest = files_of(other, ADMIN)
    client = ClientTls(Files(guest.certificate, guest.key, ca.ca))

    async def is_let_in() -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client.context)
            writer.write(b"hello\n")
            said = await reader.readline()
            writer.close()
        except (ssl.SSLError, ConnectionError):
            return False
        return said == b"hello\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls.context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await is_let_in()
        trusted.write_bytes(ca.ca.read_bytes())
        assert tls.check()
        assert not await is_let_in()


def test_a_pair_that_does_not_fit_is_refused_and_the_former_stays_in_use(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    files = files_of(ca, CONTROLLER)
    tls = ServerTls(files)
    assert files.key is not None
    good = files.key.read_bytes()
    ends = dict(tls.ends)
    ca.issue(CONTROLLER, ["127.0.0.1"], now(), timedelta(days=500), renew=True)
    files.key.write_bytes(files_of(ca, ADMIN).key.read_bytes())
    with pytest.raises(Rejected, match="cannot be used"):
        tls.check()
    assert tls.ends == ends  # what is in use has not become another, whatever the file says
    ca.issue(CONTROLLER, ["127.0.0.1"], now(), timedelta(days=500), renew=True)
    assert good != files.key.read_bytes()
    assert tls.check()
    assert tls.ends["server"] > ends["server"]


@pytest.mark.parametrize("at", ["http://0.0.0.0:0", "http://[::]:0", "http://192.0.2.1:1"])
def test_plain_http_off_the_loopback_is_refused_unless_it_is_asked_for(at: str) -> None:
    with pytest.raises(Rejected, match="whoever reaches it could do anything"), controller.listening(at):
        pass


def test_plain_http_off_the_loopback_is_served_when_it_is_asked_for() -> None:
    with controller.listening("http://0.0.0.0:0", insecure=True) as bound:
        assert bound.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("url", ["http://192.0.2.1:8640", "http://controller.example"])
def test_a_token_is_not_sent_where_others_could_read_it(url: str) -> None:
    with pytest.raises(Rejected, match="use https"):
        AsyncClient(url, credentials=Credentials(token="secret"))


async def test_https_without_certificates_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="needs a certificate"):
        await controller.serve(str(tmp_path / "db"), ["https://127.0.0.1:0"], asyncio.Event())

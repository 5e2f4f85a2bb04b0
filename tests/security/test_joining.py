"""A host joins by a token, over real TLS: the agent as a process, with the reference data plane under it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bench.free_ports import free_port

from polling import PATIENCE_S, eventually
from unit.certificates import ADMIN, credentials_of
from unit.controller_world import BASE, port
from unit.test_tls import Running, running
from weft.agent import joining
from weft.cli import agent_socket
from weft.client import ApiError, AsyncClient, Client, access
from weft.client.credentials import Credentials
from weft.controller import api
from weft.kit.errors import Rejected, Retry
from weft.tls.certificates import Certificate, make_key, make_request
from weft.tls.contexts import Files

EMPTY_REQUEST = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"

AGENT = """
import sys
from pathlib import Path
from weft.apps.agent import serve
from weft.reference.plane import ReferenceDataPlane
host, controller, state, token = sys.argv[1:]
serve(host, controller, Path(state), Path(state), lambda: ReferenceDataPlane(host), join=token)
"""


@contextlib.contextmanager
def agent(host: str, url: str, state: Path, token: str = "") -> Iterator[subprocess.Popen[bytes]]:
    state.mkdir(exist_ok=True)
    with (state / "log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-c", AGENT, host, url, str(state), token],
            stderr=log, stdout=log, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        try:
            yield started
        finally:
            started.kill()
            started.wait()


async def prepared(it: Running) -> str:
    """Objects, and a token for h1."""

    def work() -> str:
        with Client(it.url, credentials=credentials_of(it.ca, ADMIN)) as client:
            client.apply([*BASE, port(1)])
            return access.make_join_token(client, "h1", 600).token

    return await asyncio.to_thread(work)


async def test_a_host_joins_with_a_token_and_comes_back_without_one(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        token = await prepared(it)

        def work() -> None:
            state = tmp_path / "h1"
            for given in (token, ""):
                with agent("hosts/h1", it.url, state, given) as process:
                    eventually(lambda: _connected(state), (state / "log").read_text())
                    eventually(reported, "the host says what it has applied")
                    metrics = _metrics(state)
                    assert "weft_certificate_expiry_timestamp_seconds" in metrics
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(PATIENCE_S) == 0
            assert (state / "tls" / "host.pem").stat().st_mode & 0o777 == 0o600

        def reported() -> bool:
            with Client(it.url, credentials=credentials_of(it.ca, ADMIN)) as client:
                return bool(client.get("hosts/h1").status.get("applied_revision"))

        await asyncio.to_thread(work)


def _connected(state: Path) -> bool:
    try:
        return bool(agent_socket.ask(str(state / "agent.sock"), "GET", "/status")["controller"]["connected"])
    except Retry:
        return False


def _metrics(state: Path) -> str:
    import http.client

    from weft.cli.agent_socket import _Connection

    with contextlib.closing(_Connection(str(state / "agent.sock"), 10)) as connection:
        connection.request("GET", "/metrics")
        answer: http.client.HTTPResponse = connection.getresponse()
        return answer.read().decode()


async def test_a_token_is_good_once_and_for_its_host_only(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        token = await prepared(it)

        def work() -> None:
            with pytest.raises(Rejected, match="the token is for host h1, not for hosts/h2"):
                joining.join("hosts/h2", it.url, token, tmp_path / "h2")
            assert not (tmp_path / "h2" / "host.pem").exists()
            with pytest.raises(ApiError, match="used, or expired"):
                joining.join("hosts/h1", it.url, token, tmp_path / "h1")

        await asyncio.to_thread(work)


async def test_of_two_who_come_at_once_with_a_token_one_is_let_in(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        token = await prepared(it)

        def join(number: int) -> bool:
            try:
                joining.join("hosts/h1", it.url, token, tmp_path / str(number))
            except ApiError:
                return False
            return True

        assert sorted(await asyncio.gather(*(asyncio.to_thread(join, n) for n in range(4)))) == [False] * 3 + [True]


async def test_a_controller_of_another_deployment_never_sees_the_token(tmp_path: Path) -> None:
    """It cannot show the root that the token asks for, so it is not asked anything else."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with running(tmp_path / "a") as ours, running(tmp_path / "b") as theirs:
        token = await prepared(ours)
        with pytest.raises(Rejected, match="nothing was sent to it"):
            await asyncio.to_thread(joining.join, "hosts/h1", theirs.url, token, tmp_path / "h1")
        await asyncio.to_thread(joining.join, "hosts/h1", ours.url, token, tmp_path / "h1")


async def test_a_host_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    with agent("hosts/h1", "https://127.0.0.1:1", tmp_path / "h1") as process:
        assert await asyncio.to_thread(process.wait, 20) != 0
    said = (tmp_path / "h1" / "log").read_text()
    assert f"hosts/h1 has no certificate in {tmp_path / 'h1' / 'tls'} and no token to get one by" in said
    assert "`weft host token h1`" in said


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("https://127.0.0.1:1", "x", "not a token to join by"),
        ("http://127.0.0.1:1", "weft-join_a_b_" + "0" * 64, "joins by https"),
    ],
)
def test_a_host_does_not_join_by_what_is_no_token_or_no_https(
    tmp_path: Path, url: str, token: str, message: str
) -> None:
    with pytest.raises(Rejected, match=message):
        joining.join("hosts/h1", url, token, tmp_path)


async def test_a_host_that_nobody_answers_says_so(tmp_path: Path) -> None:
    with pytest.raises(Retry, match="no controller answers"):
        joining.join("hosts/h1", f"https://127.0.0.1:{free_port()}", "weft-join_a_b_" + "0" * 64, tmp_path)


# ---- afterwards


async def joined(it: Running, directory: Path) -> Files:
    token = await prepared(it)
    return await asyncio.to_thread(joining.join, "hosts/h1", it.url, token, directory)


async def test_a_host_reads_its_own_feed_and_nothing_of_others(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        files = await joined(it, tmp_path / "h1")
        async with AsyncClient(it.url, credentials=Credentials(files)) as client:
            assert b"tenants/blue/ports/p1" in await anext(client.feed("hosts/h1"))
            for request in (client.feed("hosts/h2"), client.watch(), client.list("tenants")):
                with pytest.raises(ApiError) as refused:
                    await anext(request)
                assert refused.value.status == 403
            with pytest.raises(ApiError, match="may not speak for this host"):
                await access.renew(client, "hosts/h2", make_request(make_key()).decode())


class Clock:
    """Sleeps until it is told that it is time."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._ticks = asyncio.Semaphore(0)

    def now_s(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        await self._ticks.acquire()
        self._now_s += seconds

    def tick(self) -> None:
        self._ticks.release()


async def test_a_certificate_is_renewed_with_a_new_key_when_two_thirds_of_it_are_over(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        files = await joined(it, tmp_path / "h1")
        assert files.certificate is not None
        before = files.certificate.read_bytes()
        now = [datetime.now(UTC)]
        clock = Clock()
        async with AsyncClient(it.url, credentials=Credentials(files)) as client:
            keeper = joining.Keeper("hosts/h1", client, files, clock, renewed_in=tmp_path / "h1", now=lambda: now[0])
            ends = keeper.ends()
            assert ends is not None
            running_keeper = asyncio.create_task(keeper.run())
            try:
                clock.tick()
                clock.tick()
                assert (await client.health())["status"] == "ok"
                assert files.certificate.read_bytes() == before
                now[0] = ends - timedelta(days=29)
                async with asyncio.timeout(PATIENCE_S):
                    while files.certificate.read_bytes() == before:
                        clock.tick()
                        await client.health()
            finally:
                running_keeper.cancel()
        after = Certificate.of_pem(files.certificate.read_bytes())
        assert after.parsed.public_key() != Certificate.of_pem(before).parsed.public_key()
        async with AsyncClient(it.url, credentials=Credentials(files)) as client:
            assert await anext(client.feed("hosts/h1"))


async def test_a_host_whose_certificates_were_called_back_is_nobody_until_it_joins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "LOOK_AGAIN_S", 0.1)
    async with running(tmp_path) as it:
        files = await joined(it, tmp_path / "h1")
        assert files.certificate is not None

        def revoke() -> str:
            with Client(it.url, credentials=credentials_of(it.ca, ADMIN)) as client:
                # Whatever was made in this very second would still be good.
                made = Certificate.of_pem(files.certificate.read_bytes()).not_before
                eventually(lambda: datetime.now(UTC) - made > timedelta(minutes=10, seconds=1.1))
                access.revoke(client, "host/h1")
                return access.make_join_token(client, "h1", 600).token

        async with AsyncClient(it.url, credentials=Credentials(files)) as client:
            feed = client.feed("hosts/h1")
            assert await anext(feed)
            token = await asyncio.to_thread(revoke)
            async with asyncio.timeout(PATIENCE_S):  # what is open ends
                with contextlib.suppress(Retry):
                    async for _ in feed:
                        pass
        async with AsyncClient(it.url, credentials=Credentials(files)) as client:
            with pytest.raises(ApiError, match="has been revoked"):
                await anext(client.feed("hosts/h1"))
        again = await asyncio.to_thread(joining.join, "hosts/h1", it.url, token, tmp_path / "again")
        async with AsyncClient(it.url, credentials=Credentials(again)) as client:
            assert await anext(client.feed("hosts/h1"))


@pytest.mark.parametrize(
    "request_", ["", "x" * 9000, "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
async def test_what_is_no_signing_request_costs_no_token(tmp_path: Path, request_: str) -> None:
    async with running(tmp_path) as it:
        token = await prepared(it)

        def work() -> None:
            with Client(it.url, credentials=Credentials(Files(ca=it.ca.ca))) as client:
                with pytest.raises(ApiError) as refused:
                    access.join(client, token, request_)
                assert refused.value.status == 422
                access.join(client, token, make_request(make_key()).decode())

        await asyncio.to_thread(work)

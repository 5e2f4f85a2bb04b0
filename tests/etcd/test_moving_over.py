"""Agents and clients that know several controllers; what a controller's hosts say to it; whose turn it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from etcd.controllers import controllers, etcd_url
from etcd_nodes import Cluster, cluster
from polling import PATIENCE_S, eventually
from unit.certificates import ADMIN, CONTROLLER, authority, credentials_of, files_of
from unit.controller_world import BASE, port
from weft.client import ApiError, AsyncClient, Client, PortReport, StatusReport
from weft.feed.log import Gone
from weft.feed.reflector import Batch, Lost, Reflector, follow
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Retry
from weft.store.etcd_client import Address
from weft.store.etcd_cluster import EtcdCluster
from weft.tls.identity import Identity, Role

pytestmark = pytest.mark.xdist_group("etcd")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def test_a_client_goes_on_at_another_controller_when_its_own_is_killed(nodes: Cluster, tmp_path: Path) -> None:
    with controllers(etcd_url(nodes), tmp_path) as (a, b), Client(f"{a.url},{b.url}") as client:
        client.apply(BASE)
        made = client.put(*port(1))
        a.kill()
        assert client.get("tenants/blue/ports/p1").revision == made.revision
        assert client.put(*port(2)).revision == made.revision + 1
        a.start()
        eventually(a.answers)
        b.kill()
        assert client.get("tenants/blue/ports/p2").revision == made.revision + 1


def test_a_read_is_asked_of_another_controller_when_its_own_is_stopped_in_the_middle(
    nodes: Cluster, tmp_path: Path
) -> None:
    with (
        controllers(etcd_url(nodes), tmp_path) as (a, b),
        Client(f"{a.url},{b.url}") as client,
        Client(b.url) as other,
    ):
        other.apply(BASE)
        assert eventually(lambda: any(found.name == "tenants/blue" for found in client.list("tenants")))
        a.signal(signal.SIGSTOP)  # its machine lives, and takes connections
        try:
            began_s = time.monotonic()
            assert client.get("tenants/blue").spec == other.get("tenants/blue").spec
            assert client.url == b.url
            assert time.monotonic() - began_s < 20  # and not the minute that an answer may take
        finally:
            a.signal(signal.SIGCONT)


def test_who_follows_the_audit_log_goes_on_at_another_controller_and_misses_nothing(
    nodes: Cluster, tmp_path: Path
) -> None:
    with controllers(etcd_url(nodes), tmp_path) as (a, b), Client(b.url) as other:
        command = ["audit", "follow", "--revision", "0", "-o", "json"]
        with subprocess.Popen(
            [sys.executable, "-m", "weft.apps.cli", *command],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "WEFT_CONTROLLER": f"{a.url},{b.url}", "PYTHONUNBUFFERED": "1"},
        ) as following:
            try:
                assert following.stdout is not None
                seen: list[str] = []
                for number, kill in ((1, True), (2, False), (3, False)):
                    other.put(f"tenants/t{number}", {})
                    while not seen or seen[-1] != f"tenants/t{number}":
                        changes = json.loads(following.stdout.readline())["changes"]
                        seen.append(next(each["name"] for each in changes if each["name"].count("/") == 1))
                    if kill:
                        a.kill()
                assert seen == ["tenants/t1", "tenants/t2", "tenants/t3"]
            finally:
                following.terminate()


async def test_a_host_moves_over_at_once_and_misses_nothing(nodes: Cluster, tmp_path: Path) -> None:
    with controllers(etcd_url(nodes), tmp_path) as (a, b), Client(b.url) as other:
        other.apply([*BASE, port(1)])
        async with AsyncClient(f"{a.url},{b.url}") as agent:

            async def connect(revision: int | None) -> AsyncIterator[bytes]:
                try:
                    async for chunk in agent.feed("hosts/h1", revision, reflector.history):
                        yield chunk
                except ApiError as error:
                    if error.status == 410:
                        raise Gone(str(error)) from error
                    raise Retry(str(error)) from error

            reflector = Reflector(host="hosts/h1")
            async with aclosing(follow(reflector, connect, MonotonicClock(), Random(1))) as events:  # noqa: S311
                async for event in events:
                    if isinstance(event, Batch) and event.synced:
                        break
                a.kill()
                lost = 0
                await asyncio.to_thread(other.put, *port(2))
                full = False
                async for event in events:
                    full = full or (isinstance(event, Batch) and event.full)
                    lost += isinstance(event, Lost)
                    if reflector.tables.get(("ports", "tenants/blue/ports/p2")) is not None:
                        break
                # Each is followed by a wait of 0.2 s at most for the first, 0.4 s for the second.
                assert lost <= 2
                assert not full  # it resumed where it was, at a controller that it had never spoken to
                rows = frozenset(reflector.tables.rows())
        assert {row.key[1] for row in rows if row.key[0] == "ports"} == {f"tenants/blue/ports/p{n}" for n in (1, 2)}


def test_each_controller_knows_what_hosts_say_to_the_others(nodes: Cluster, tmp_path: Path) -> None:
    with controllers(etcd_url(nodes), tmp_path) as (a, b), Client(a.url) as one, Client(b.url) as other:
        one.apply([*BASE, port(1)])
        eventually(lambda: other.health()["revision"] == one.health()["revision"])
        with Client(a.url) as agent:
            feed = agent.feed("hosts/h1")
            next(feed)
            agent.report(
                "hosts/h1", StatusReport(revision=1, ports={"tenants/blue/ports/p1": PortReport(state="active")})
            )
            eventually(lambda: other.get("tenants/blue/ports/p1").status["state"] == "active")
            eventually(lambda: other.get("hosts/h1").status["state"] == "connected")
            a.kill()
            eventually(lambda: other.get("hosts/h1").status["state"] == "absent")
            feed.close()


def test_controllers_tell_each_other_what_hosts_say_over_tls(nodes: Cluster, tmp_path: Path) -> None:
    made = authority(tmp_path / "ca")
    admin, host = credentials_of(made, ADMIN), credentials_of(made, Identity(Role.HOST, "h1"))
    with (
        controllers(etcd_url(nodes), tmp_path, secured=files_of(made, CONTROLLER)) as (a, b),
        Client(a.url, credentials=admin) as one,
        Client(b.url, credentials=admin) as other,
        Client(f"{a.url},{b.url}", credentials=host) as agent,
    ):
        one.apply([*BASE, port(1)])
        eventually(lambda: other.health()["revision"] == one.health()["revision"])
        feed = agent.feed("hosts/h1")
        next(feed)
        said = {"tenants/blue/ports/p1": PortReport(state="active")}
        written = one.get("tenants/blue/ports/p1").revision
        agent.report("hosts/h1", StatusReport(revision=written, ports=said))
        eventually(lambda: other.get("tenants/blue/ports/p1").status["state"] == "active")
        feed.close()


@asynccontextmanager
async def member(nodes: Cluster, prefix: str) -> AsyncIterator[EtcdCluster]:
    made = EtcdCluster(Address(nodes.endpoints, prefix), "unix:///nowhere")
    running = asyncio.ensure_future(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await made.close()


async def test_a_turn_is_one_processs_at_a_time_and_passes_on_when_it_is_over(nodes: Cluster) -> None:
    prefix = nodes.fresh_prefix()
    async with asyncio.timeout(PATIENCE_S), member(nodes, prefix) as one, member(nodes, prefix) as other:
        async with one.turn("sweep"):
            waiting = asyncio.ensure_future(other.turn("sweep").__aenter__())
            await asyncio.wait({waiting}, timeout=1.2)  # it asks twice a second
            assert not waiting.done()
        await waiting


async def test_whoever_cannot_reach_etcd_stops_before_another_begins(nodes: Cluster) -> None:
    prefix = nodes.fresh_prefix()
    async with member(nodes, prefix) as other, asyncio.timeout(PATIENCE_S):
        cut_off = EtcdCluster(Address(nodes.endpoints, prefix), "unix:///nowhere")
        running = asyncio.ensure_future(cut_off.run())
        async with cut_off.turn("sweep") as lost:
            cut_off._etcd._closed = True  # from here on nothing of it reaches etcd
            waiting = asyncio.ensure_future(other.turn("sweep").__aenter__())
            await lost.wait()
            assert not waiting.done()
            await waiting
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await cut_off.close()


async def test_those_who_are_there_know_each_other(nodes: Cluster) -> None:
    prefix = nodes.fresh_prefix()
    async with member(nodes, prefix) as one, asyncio.timeout(PATIENCE_S), aclosing(one.others()) as others:
        assert await anext(others) == {}
        async with member(nodes, prefix) as other:
            assert await anext(others) == {other.id: "unix:///nowhere"}
        assert await anext(others) == {}

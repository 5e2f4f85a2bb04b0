"""Rolling upgrades, for real: controllers of the release before (its own code) and of this one over one etcd."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from bench.free_ports import free_ports
from click.testing import CliRunner

from etcd.controllers import Controller, etcd_url
from etcd_nodes import Cluster, cluster
from polling import PATIENCE_S, eventually
from recorded import stores as recorded
from unit.controller_world import BASE, port
from unit.test_migration import MOVES, REWRITTEN
from weft.apps.cli import main
from weft.cli.session import ExitCode
from weft.client import ApiError, Client, PortReport, StatusReport
from weft.store.address import open_store
from weft.store.migration import migrate

pytestmark = pytest.mark.xdist_group("etcd")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def pair(nodes: Cluster, tmp_path: Path) -> Iterator[tuple[Controller, Controller]]:
    """Of the release before, and of this one; neither runs yet."""
    store = etcd_url(nodes)
    sources = recorded.sources(tmp_path / "release-before")
    ports = free_ports(2)
    old = Controller(store, (f"http://127.0.0.1:{ports[0]}",), tmp_path / "old.log", sources=sources)
    new = Controller(store, (f"http://127.0.0.1:{ports[1]}",), tmp_path / "new.log")
    try:
        yield old, new
    finally:
        old.stop()
        new.stop()


def start(*controllers: Controller) -> None:
    for each in controllers:
        each.start()
    for each in controllers:
        eventually(each.answers, f"{each.url} answers")


def weft(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, words)
    return done.exit_code, done.output


def names(client: Client) -> set[str]:
    return {item.name for item in client.list("tenants/blue/ports")}


def test_an_upgrade_goes_through_with_old_and_new_at_work_and_can_be_taken_back(
    pair: tuple[Controller, Controller],
) -> None:
    old, new = pair
    start(old)
    with Client(old.url) as before, Client(new.url) as after:
        before.apply([*BASE, port(1)])
        start(new)
        # Both at once: each serves what the other writes, and neither writes what the other cannot read.
        assert after.health()["schema"] == 1
        after.apply([*REWRITTEN, port(2)])
        eventually(lambda: len(names(before)) == 3)
        before.put(*port(3))
        eventually(lambda: len(names(after)) == 4)
        assert after.get("tenants/blue/ports/p3").spec == before.get("tenants/blue/ports/p3").spec
        with pytest.raises(ApiError, match=r"moving: spec.rewrites\[1\].destination"):
            after.apply([MOVES])
        # An upgrade is not over while one of the old is at work.
        code, said = weft("store", "migrate", "--store", old.store)
        assert code == ExitCode.REFUSED
        assert f"controllers of an older release serve this store and would have to stop: {old.url}" in said
        old.kill()
        eventually(lambda: weft("store", "migrate", "--store", old.store)[0] == ExitCode.DONE)
        # The new one was there all the time, and takes at once what it could not.
        after.apply([MOVES])
        assert after.health()["schema"] == 2

        # The release before will not touch it now, and says why.
        old.start()
        assert old.process is not None
        assert old.process.wait(timeout=PATIENCE_S) != 0
        assert "schema version 2" in old.log.read_text()

        # Taken back: what it cannot say is named, and goes when that is said.
        code, said = weft("store", "migrate", "--store", old.store, "--to", "1")
        assert code == ExitCode.REFUSED
        assert "tenants/blue/ports/moving: spec.rewrites[1].destination = true" in said
        code, said = weft("store", "migrate", "--store", old.store, "--to", "1", "--drop")
        assert code == ExitCode.DONE, said
        old.starts -= 1  # the one that said no
        start(old)
        assert names(before) == names(after)
        before.put(*port(4))
        eventually(lambda: names(before) == names(after))
        after.put(*port(5))
        eventually(lambda: names(before) == names(after))


# An agent's side of the feed: prints its ports' rows at each bookmark, and what it was refused.
FOLLOW = """
import asyncio, random, sys
from weft.client import ApiError, AsyncClient
from weft.feed.log import Gone
from weft.feed.reflector import Batch, Lost, Reflector, follow
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Retry

async def main():
    reflector = Reflector(host="hosts/h1")
    async with AsyncClient(sys.argv[1]) as client:
        async def connect(revision):
            try:
                async for chunk in client.feed("hosts/h1", revision, reflector.history):
                    yield chunk
            except ApiError as error:
                raise (Gone if error.status == 410 else Retry)(str(error)) from error
        async for event in follow(reflector, connect, MonotonicClock(), random.Random(1)):
            if isinstance(event, Batch):
                ports = sorted(key[1] for key in reflector.tables.keys() if key[0] == "ports")
                print(*ports, flush=True)
            elif isinstance(event, Lost):
                print("lost", event, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("agent", ["of the release before", "of this one"])
async def test_agents_a_release_apart_follow_both_and_go_from_one_to_the_other(
    agent: str, pair: tuple[Controller, Controller], tmp_path: Path
) -> None:
    old, new = pair
    for each in pair:  # the older makes the store
        await asyncio.to_thread(start, each)
    sources = str(old.sources) if agent == "of the release before" else os.pathsep.join(sys.path)
    with Client(new.url) as client:
        client.apply([*BASE, port(1)])
        if agent == "of this one":
            # It tells a controller of the release before what that can hear, and each controller tells the other.
            said = {"tenants/blue/ports/p1": PortReport(state="active")}
            with Client(old.url) as at_old, closing(client.feed("hosts/h1")) as feed:
                next(feed)
                for here in (client, at_old):
                    here.report("hosts/h1", StatusReport(revision=1, ports=said, drops={"no_record": 7}))
                eventually(lambda: at_old.get("tenants/blue/ports/p1").status["state"] == "active")
                eventually(lambda: at_old.get("hosts/h1").status["state"] == "connected")
        following = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FOLLOW, f"{old.url},{new.url}", stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": sources},
        )  # fmt: skip
        assert following.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                assert await following.stdout.readline() == b"tenants/blue/ports/p1\n"
                client.put(*port(2))
                while await following.stdout.readline() != b"tenants/blue/ports/p1 tenants/blue/ports/p2\n":
                    pass
                old.kill()
                client.put(*port(3))
                lines = [b""]
                while not lines[-1].endswith(b"tenants/blue/ports/p3\n"):
                    lines.append(await following.stdout.readline())
            assert sum(line.startswith(b"lost") for line in lines) == 1  # the one that was killed
        finally:
            following.kill()
            await following.wait()


# All that it writes is written, but for the transaction that makes it so.
HALF_WAY = """
import asyncio, os, sys
from weft.store.address import etcd_address
from weft.store.etcd import EtcdStore

class Stuck(EtcdStore):
    async def _try(self, attempt):
        assert attempt.parts
        print("half way", flush=True)
        await asyncio.sleep(600)

store = Stuck(etcd_address(sys.argv[1]))
asyncio.run(store.migrate(int(sys.argv[2]), 2, {"tenants/blue": os.urandom(2 << 20)}, []))
"""


async def test_a_migration_that_is_killed_half_way_has_changed_nothing_and_can_be_done_again(nodes: Cluster) -> None:
    url = etcd_url(nodes)
    store = open_store(url)
    await store.migrate(0, 1, recorded.values(), [])
    before = await store.snapshot()
    assert (before.schema, before.revision) == (1, 1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HALF_WAY, url, "1", stdout=subprocess.PIPE, env=environment
    )
    assert killed.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert await killed.stdout.readline() == b"half way\n"
        killed.kill()
        await killed.wait()
    assert await store.snapshot() == before
    assert await store.commit({}, {"access/a": b"1"}, [], None, 1) == 2
    await migrate(store, 2)
    assert (await store.snapshot()).schema == store.schema == 2
    await store.close()

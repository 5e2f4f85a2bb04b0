"""Two controllers and three etcd nodes; writers, readers, watchers and hosts; and nodes that are killed, paused and cut
off meanwhile. Whatever then was answered, seen or fed must follow from one history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from etcd.controllers import Controller
from etcd.history import Fault, Finding, History, Operation, judge, report
from etcd_nodes import Cluster, Node, memory_directory
from polling import eventually
from weft.client import ApiError, AsyncClient
from weft.contracts.store import Batch
from weft.controller.service import is_intent
from weft.feed.log import Gone
from weft.feed.reflector import Reflector, follow
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Retry
from weft.policy.rows import Row

pytestmark = [pytest.mark.xdist_group("etcd"), pytest.mark.root]

FAULT_S, CALM_S = 1.2, 0.3
REPORT = Path(__file__).parents[2] / "build" / "history.md"
HOSTS = ("h1", "h2")

PROBE = """
import sys, urllib.request
for url in sys.argv[1:]:
    urllib.request.urlopen(urllib.request.Request(url + "/v3/kv/range", data=b'{"key":"YQ=="}'), timeout=2)
"""
READ_LOG = """
import asyncio, pickle, sys
from weft.store.etcd import EtcdStore
from weft.store.etcd_client import Address

async def main():
    store = EtcdStore(Address(tuple(sys.argv[1:]), "/weft"))
    head, found = await store.head(), []
    async for batch in store.watch(0):
        found.append((batch.revision, dict(batch.puts), list(batch.deletes)))
        if batch.revision == head:
            break
    await store.close()
    sys.stdout.buffer.write(pickle.dumps(found))

asyncio.run(main())
"""


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=20)


@dataclass
class Place:
    """A network of its own: a switch with controllers, and each etcd node in a namespace of its own."""

    hub: str
    cluster: Cluster
    controllers: list[Controller]

    def cut(self, number: int) -> None:
        nft = "add table ip cut; add chain ip cut in { type filter hook input priority 0; policy accept; };"
        nft += "add chain ip cut out { type filter hook output priority 0; policy accept; };"
        nft += 'add rule ip cut in iifname "eth0" drop; add rule ip cut out oifname "eth0" drop'
        run("ip", "netns", "exec", f"{self.hub}{number}", "nft", nft)

    def mend(self, number: int) -> None:
        run("ip", "netns", "exec", f"{self.hub}{number}", "nft", "delete table ip cut")

    def is_healthy(self) -> bool:
        """Whether each node answers a linearizable read."""
        return self.python(PROBE, *self.cluster.endpoints).returncode == 0

    def python(self, code: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Where the controllers are: from elsewhere etcd is not reached."""
        return subprocess.run(
            ["ip", "netns", "exec", self.hub, sys.executable, "-c", code, *words],
            check=False,
            capture_output=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )


@contextlib.contextmanager
def namespaces(hub: str, count: int) -> Iterator[None]:
    names = [hub, *(f"{hub}{n}" for n in range(count))]
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", hub, "addr", "add", "10.99.0.100/24", "dev", "br0")
        run("ip", "-n", hub, "link", "set", "br0", "up")
        for n in range(count):
            run("ip", "-n", hub, "link", "add", f"v{n}", "type", "veth", "peer", "name", "eth0", "netns", f"{hub}{n}")
            run("ip", "-n", hub, "link", "set", f"v{n}", "master", "br0", "up")
            run("ip", "-n", f"{hub}{n}", "addr", "add", f"10.99.0.{n + 1}/24", "dev", "eth0")
            run("ip", "-n", f"{hub}{n}", "link", "set", "eth0", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=20)


@contextlib.contextmanager
def place(directory: Path) -> Iterator[Place]:
    hub = f"whist{os.getpid()}"
    state = memory_directory()
    with namespaces(hub, 3):
        nodes = [
            Node(
                f"n{n}", f"http://10.99.0.{n + 1}:2379", f"http://10.99.0.{n + 1}:2380", state,
                wrapper=("ip", "netns", "exec", f"{hub}{n}"),
            )
            for n in range(3)
        ]  # fmt: skip
        cluster = Cluster(nodes, state)
        store = "etcd://10.99.0.1:2379,10.99.0.2:2379,10.99.0.3:2379/weft"
        made = Place(
            hub,
            cluster,
            [
                Controller(
                    store, (f"unix://{directory}/{n}.sock",), directory / f"{n}.log", ("ip", "netns", "exec", hub)
                )
                for n in range(2)
            ],
        )
        try:
            cluster.start()
            eventually(made.is_healthy, "the etcd cluster answers", within_s=30.0, every_s=0.1)
            for each in made.controllers:
                each.start()
            for each in made.controllers:
                eventually(each.answers, within_s=20.0)
            yield made
        finally:
            for each in made.controllers:
                each.stop()
            cluster.stop()


class Scene:
    """Everybody at once, and what they did."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.history = History()
        self.over = asyncio.Event()
        self.feeds: dict[str, Reflector] = {}

    async def write(
        self, client: AsyncClient, who: str, what: str, name: str, work: Any, expected: int | None = None
    ) -> int:
        operation = Operation(who, what, name, time.monotonic(), expected=expected)
        try:
            answer = await work
        except ApiError as error:
            operation.outcome = "not-done" if error.status == 503 else "unknown" if error.status >= 500 else "refused"
            operation.detail = str(error)
        except Retry as error:
            operation.detail = str(error)
        else:
            operation.outcome, operation.revision = "done", answer
        operation.ended_s = time.monotonic()
        self.history.operations.append(operation)
        return operation.revision

    async def writer(self, number: int) -> None:
        """Makes ports, hosts and subnets, and takes some of them away again."""
        who, dice = f"writer {number}", random.Random(number)  # noqa: S311 -- no secret
        made: list[str] = []
        async with AsyncClient(self.urls[number % 2], timeout_s=6.0) as client:
            for n in itertools.count():
                if self.over.is_set():
                    return
                await asyncio.sleep(0.01)
                match dice.choice(["port", "port", "port", "host", "subnet", "delete", "delete"]):
                    case "port":
                        name = f"tenants/blue/ports/w{number}-{n}"
                        spec = {"virtual_subnet": "prod/web", "host": dice.choice(HOSTS)}
                        revision = await self.write(client, who, "create", name, _put(client, name, spec))
                        if revision:
                            made.append(name)
                    case "host":
                        name = f"hosts/w{number}-{n}"
                        spec = {"uplinks": [{"interface": "eth1", "provider_network": "phys"}]}
                        await self.write(client, who, "create", name, _put(client, name, spec))
                    case "subnet":
                        name = f"tenants/t{number}/routing-domains/d/virtual-subnets/s{n}"
                        spec = {"prefixes": [f"10.{n // 256}.{n % 256}.0/24"]}
                        await self.write(client, who, "create", name, _put(client, name, spec))
                    case _ if made:
                        name = made.pop(dice.randrange(len(made)))
                        await self.write(client, who, "delete", name, _delete(client, name))

    async def counter(self, number: int) -> None:
        """Adds one to a number that others add to as well."""
        who, name = f"counter {number}", "tenants/blue"
        async with AsyncClient(self.urls[number % 2], timeout_s=6.0) as client:
            while not self.over.is_set():
                await asyncio.sleep(0.02)
                with contextlib.suppress(ApiError, Retry):
                    had = await client.get(name)
                    spec = {"description": str(int(had.spec["description"]) + 1)}
                    await self.write(client, who, "add one", name, _put(client, name, spec, had.revision), had.revision)

    async def reader(self, number: int) -> None:
        seen = self.history.reads.setdefault(f"reader {number}", [])
        turned = self.urls if number % 2 else self.urls[::-1]
        async with AsyncClient(",".join(turned), timeout_s=3.0) as client:
            while not self.over.is_set():
                await asyncio.sleep(0.01)
                with contextlib.suppress(ApiError, Retry):
                    seen.append((await client.page("tenants/blue/ports", limit=1)).revision)
                    if len(seen) % 20 == 0:
                        client._ends.failed(client._ends.at)  # as if it had heard of trouble

    async def watcher(self, number: int) -> None:
        told = self.history.watched.setdefault(f"watcher {number}", [])
        revision = 1
        async with AsyncClient(",".join(self.urls if number % 2 else self.urls[::-1]), timeout_s=3.0) as client:
            while True:
                with contextlib.suppress(ApiError, Retry):
                    async for event in client.watch(revision):
                        if event.puts or event.deletes:
                            told.append(
                                (event.revision, frozenset(item.name for item in event.puts), frozenset(event.deletes))
                            )
                        revision = max(revision, event.revision)
                await asyncio.sleep(0.05)

    async def host(self, label: str) -> None:
        reflector = self.feeds[label] = Reflector(host=f"hosts/{label}")
        async with AsyncClient(",".join(self.urls if label == "h1" else self.urls[::-1]), timeout_s=3.0) as client:

            async def connect(revision: int | None) -> AsyncIterator[bytes]:
                try:
                    async for chunk in client.feed(f"hosts/{label}", revision, reflector.history):
                        yield chunk
                except ApiError as error:
                    raise (Gone if error.status == 410 else Retry)(str(error)) from error

            async with aclosing(follow(reflector, connect, MonotonicClock(), random.Random(label))) as events:  # noqa: S311
                async for _ in events:
                    pass

    async def trouble(self, place: Place) -> None:
        """One thing after the other; each is made good before the next."""
        nodes, (a, b) = place.cluster.nodes, place.controllers
        faults: list[tuple[str, Callable[[], None], Callable[[], None]]] = []
        for n, node in enumerate(nodes):
            faults.append((f"etcd {n + 1} is killed", node.kill, partial(node.start, place.cluster.members)))
            faults.append((f"etcd {n + 1} is paused", node.pause, node.resume))
            faults.append((f"etcd {n + 1} is cut off", partial(place.cut, n), partial(place.mend, n)))
        faults.append(("controller 1 is killed", a.kill, a.start))
        faults.append(
            ("controller 2 is paused", partial(_signal, b, signal.SIGSTOP), partial(_signal, b, signal.SIGCONT))
        )
        faults.append(("controller 2 is killed", b.kill, b.start))
        faults.append(
            ("two etcd are paused", partial(_each, nodes[:2], Node.pause), partial(_each, nodes[:2], Node.resume))
        )
        random.Random(5).shuffle(faults)  # noqa: S311 -- no secret
        for what, breaks, mends in faults:
            began_s = time.monotonic()
            await asyncio.to_thread(breaks)
            await asyncio.sleep(FAULT_S)
            await asyncio.to_thread(mends)
            self.history.faults.append(Fault(what, began_s, time.monotonic()))
            await asyncio.to_thread(eventually, place.is_healthy, "", 30.0, 0.2)
            await asyncio.to_thread(eventually, lambda: a.answers() and b.answers(), "", 20.0)
            await asyncio.sleep(CALM_S)


async def until(look: Callable[[], bool]) -> None:
    """The caller says how long it may take."""
    while not look():  # noqa: ASYNC110 -- what others do to plain data has no event
        await asyncio.sleep(0.05)


def _signal(controller: Controller, number: int) -> None:
    assert controller.process is not None
    controller.process.send_signal(number)


def _each(nodes: list[Node], what: Callable[[Node], None]) -> None:
    for node in nodes:
        what(node)


async def _put(client: AsyncClient, name: str, spec: dict[str, Any], if_match: int | None = None) -> int:
    return (await client.put(name, spec, if_match=if_match)).revision


async def _delete(client: AsyncClient, name: str) -> int:
    changes = await client.apply((), [name])
    return changes.revision


async def test_one_history_explains_whatever_was_seen_while_things_broke(tmp_path: Path) -> None:
    with place(tmp_path) as where:
        scene = Scene([each.url for each in where.controllers])
        async with AsyncClient(scene.urls[0]) as client:
            await client.apply(
                [
                    ("provider-networks/phys", {"pools": [{"prefix": "192.0.0.0/16"}]}),
                    *((f"hosts/{h}", {"uplinks": [{"interface": "eth1", "provider_network": "phys"}]}) for h in HOSTS),
                    ("tenants/blue", {"description": "0"}),
                    ("tenants/blue/routing-domains/prod", {}),
                    ("tenants/blue/routing-domains/prod/virtual-subnets/web", {"prefixes": ["10.0.0.0/16"]}),
                    *((f"tenants/t{n}", {}) for n in range(4)),
                    *((f"tenants/t{n}/routing-domains/d", {}) for n in range(4)),
                ]
            )
        ending = [
            *(scene.writer(n) for n in range(4)),
            *(scene.counter(n) for n in range(2)),
            *(scene.reader(n) for n in range(3)),
        ]
        lasting = [*(scene.watcher(n) for n in range(2)), *(scene.host(h) for h in HOSTS)]
        until_over = [asyncio.ensure_future(each) for each in ending]
        for_ever = [asyncio.ensure_future(each) for each in lasting]
        await scene.trouble(where)
        scene.over.set()
        await asyncio.gather(*until_over)
        log = await asyncio.to_thread(read_log, where)
        judged(scene.history, log)  # whatever comes of the rest
        async with asyncio.timeout(30):
            watched = scene.history.watched.values()
            await until(lambda: all(told and told[-1][0] == log[-1].revision for told in watched))
            wanted: dict[str, dict[str, frozenset[Row]]] = {h: {} for h in HOSTS}
            for url, h in itertools.product(scene.urls, HOSTS):
                whole = Reflector(host=f"hosts/{h}")
                whole.connected()
                async with AsyncClient(url) as client, aclosing(client.feed(f"hosts/{h}")) as chunks:
                    rest = b""
                    while whole.revision is None:
                        *lines, rest = (rest + await anext(chunks)).split(b"\n")
                        for line in lines:
                            whole.feed(line)
                wanted[h][url] = frozenset(whole.tables.rows())
            for h in HOSTS:
                await until(lambda h=h: frozenset(scene.feeds[h].tables.rows()) in wanted[h].values())
        for task in for_ever:
            task.cancel()
        await asyncio.gather(*for_ever, return_exceptions=True)
    findings = judged(scene.history, log)
    assert {finding.check: finding.wrong for finding in findings if finding.wrong} == {}
    for h in HOSTS:
        assert len(set(wanted[h].values())) == 1  # both controllers feed the same
    assert all(finding.looked_at for finding in findings if "said not to be done" not in finding.check)


def judged(history: History, log: list[Batch]) -> list[Finding]:
    findings = judge(history, log)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(report(history, log, findings))
    return findings


def read_log(where: Place) -> list[Batch]:
    done = where.python(READ_LOG, *where.cluster.endpoints)
    assert done.returncode == 0, done.stderr.decode()
    return [intent(*each) for each in pickle.loads(done.stdout)]  # noqa: S301 -- of our own process


def intent(revision: int, puts: dict[str, bytes], deletes: list[str]) -> Batch:
    """Without what is kept beside intent, such as the audit log: no watch tells of that."""
    return Batch(
        revision,
        {name: value for name, value in puts.items() if is_intent(name)},
        [name for name in deletes if is_intent(name)],
    )

"""Two controllers and three etcd nodes; writers, readers, watchers and hosts; and nodes and controllers that are
killed, paused and cut off meanwhile. Whatever then was answered, seen or fed must follow from one history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from etcd.history import Fault, Finding, History, Move, Operation, judge, report
from etcd.place import CONTROLLERS, NODES, Place, place
from etcd.replay import digest, fed
from etcd_nodes import Node
from polling import PATIENCE_S, eventually
from weft.client import ApiError, AsyncClient
from weft.contracts.store import Batch
from weft.controller.service import is_intent
from weft.feed.log import Gone
from weft.feed.reflector import Batch as Bookmarked
from weft.feed.reflector import Reflector, follow
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Retry
from weft.policy.rows import Row

pytestmark = [pytest.mark.xdist_group("etcd"), pytest.mark.root]

FAULT_S, CALM_S = 1.2, 0.3
# A controller that is cut off is gone for longer than its clients need to notice, and to go on at the other.
CUT_OFF_S = 3.5
REPORT = Path(__file__).parents[2] / "build" / "history.md"
HOSTS = ("h1", "h2")

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


class Scene:
    """Everybody at once, and what they did."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.history = History()
        self.over = asyncio.Event()
        self.feeds: dict[str, Reflector] = {}
        self._heard: dict[str, tuple[str, float]] = {}

    def hears(self, who: str, client: AsyncClient) -> None:
        """Somebody was told something by the controller that it is at."""
        now_s = time.monotonic()
        at, before_s = self._heard.get(who, (client.url, now_s))
        if at != client.url:
            self.history.moves.append(Move(who, now_s, now_s - before_s, client.url))
        self._heard[who] = (client.url, now_s)

    def urls_of(self, number: int) -> str:
        """Every second keeps to one controller, and sees what becomes of that; the others know both."""
        turned = self.urls if number % 2 else self.urls[::-1]
        return ",".join(turned) if number % 4 > 1 else turned[0]

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
        async with AsyncClient(self.urls_of(number), timeout_s=6.0) as client:
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
        async with AsyncClient(self.urls_of(2 + number), timeout_s=6.0) as client:
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
                        self.hears(f"watcher {number}", client)
                        if event.puts or event.deletes:
                            told.append(
                                (event.revision, frozenset(item.name for item in event.puts), frozenset(event.deletes))
                            )
                        revision = max(revision, event.revision)
                await asyncio.sleep(0.05)

    async def host(self, label: str) -> None:
        reflector = self.feeds[label] = Reflector(host=f"hosts/{label}")
        told = self.history.fed.setdefault(f"hosts/{label}", [])
        async with AsyncClient(",".join(self.urls if label == "h1" else self.urls[::-1]), timeout_s=3.0) as client:

            async def connect(revision: int | None) -> AsyncIterator[bytes]:
                try:
                    async for chunk in client.feed(f"hosts/{label}", revision, reflector.history):
                        self.hears(f"host {label}", client)
                        yield chunk
                except ApiError as error:
                    raise (Gone if error.status == 410 else Retry)(str(error)) from error

            async with aclosing(follow(reflector, connect, MonotonicClock(), random.Random(label))) as events:  # noqa: S311
                async for event in events:
                    if isinstance(event, Bookmarked):
                        told.append((event.revision, digest(list(reflector.tables.rows()))))

    async def trouble(self, place: Place) -> None:
        """One thing after the other; each is made good before the next."""
        nodes, (a, b) = place.cluster.nodes, place.controllers
        faults: list[tuple[str, Callable[[], None], Callable[[], None], float]] = []
        for n, (node, at) in enumerate(zip(nodes, NODES, strict=True), 1):
            faults += [
                (f"etcd {n} is killed", node.kill, partial(node.start, place.cluster.members), FAULT_S),
                (f"etcd {n} is paused", node.pause, node.resume, FAULT_S),
                (f"etcd {n} is cut off", partial(place.cut, at), partial(place.mend, at), FAULT_S),
            ]
        for n, (each, at) in enumerate(zip((a, b), CONTROLLERS, strict=True), 1):
            pause, go_on = partial(each.signal, signal.SIGSTOP), partial(each.signal, signal.SIGCONT)
            faults += [
                (f"controller {n} is killed", each.kill, each.start, FAULT_S),
                (f"controller {n} is paused", pause, go_on, FAULT_S),
                (f"controller {n} is cut off", partial(place.cut, at), partial(place.mend, at), CUT_OFF_S),
                (
                    f"controller {n} is cut off from etcd",
                    partial(place.cut, at, NODES),
                    partial(place.mend, at),
                    FAULT_S,
                ),
            ]
        faults.append(
            (
                "two etcd are paused",
                partial(_each, nodes[:2], Node.pause),
                partial(_each, nodes[:2], Node.resume),
                FAULT_S,
            )
        )
        random.Random(5).shuffle(faults)  # noqa: S311 -- no secret
        for what, breaks, mends, lasts_s in faults:
            began_s = time.monotonic()
            await asyncio.to_thread(breaks)
            await asyncio.sleep(lasts_s)
            await asyncio.to_thread(mends)
            self.history.faults.append(Fault(what, began_s, time.monotonic()))
            await asyncio.to_thread(eventually, place.is_healthy, "", 30.0, 0.2)
            await asyncio.to_thread(eventually, lambda: a.answers() and b.answers(), "", 20.0)
            await asyncio.sleep(CALM_S)


async def until(look: Callable[[], bool]) -> None:
    """The caller says how long it may take."""
    while not look():  # noqa: ASYNC110 -- what others do to plain data has no event
        await asyncio.sleep(0.05)


def _each(nodes: list[Node], what: Callable[[Node], None]) -> None:
    for node in nodes:
        what(node)


async def _put(client: AsyncClient, name: str, spec: dict[str, Any], if_match: int | None = None) -> int:
    return (await client.put(name, spec, if_match=if_match)).revision


async def _delete(client: AsyncClient, name: str) -> int:
    changes = await client.apply((), [name])
    return changes.revision


async def test_one_history_explains_whatever_was_seen_while_things_broke(tmp_path: Path) -> None:
    with place(tmp_path) as where, where.clients():
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
        await asyncio.to_thread(judged, scene.history, log)  # whatever comes of the rest
        async with asyncio.timeout(PATIENCE_S):
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
    # Feeds and watches were at controllers that went away, and went on at the others.
    assert {f"host {h}" for h in HOSTS} <= {move.who for move in scene.history.moves}
    assert any(move.who.startswith("watcher") for move in scene.history.moves)


def judged(history: History, log: list[Batch]) -> list[Finding]:
    seen = {host: {revision for revision, _ in told} for host, told in history.fed.items()}
    findings = judge(history, log, fed(log, seen))
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

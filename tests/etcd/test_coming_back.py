"""Both controllers are gone, and 500 hosts come back to them at once: how long it takes, and what it costs, is bounded.

The hosts are the agents' own side of the feed, with its own patience, over real sockets. What it took is left in
build/coming-back.md.
"""

from __future__ import annotations

import asyncio
import random
import re
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from etcd.controllers import Controller, controllers, etcd_url
from etcd_nodes import Cluster, cluster
from polling import becomes
from weft.client import ApiError, AsyncClient
from weft.feed.log import Gone
from weft.feed.reflector import Batch, Connected, Lost, Reflector, follow
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Retry

pytestmark = pytest.mark.xdist_group("etcd")

HOSTS, DOMAINS, PORTS_OF_HOST = 500, 10, 4
REPORT = Path(__file__).parents[2] / "build" / "coming-back.md"
# Everything of a domain is in memory once, as bytes, however many hosts are sent it.
MOST_MIB = 150.0
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@contextmanager
def many_files() -> Iterator[None]:
    """For this process and those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Fleet:
    """Hosts as controllers see them."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.in_sync: set[int] = set()
        self.tries = 0
        self.deletes = 0
        self.rows: dict[int, int] = {}

    async def host(self, number: int) -> None:
        dice = random.Random(number)  # noqa: S311 -- jitter, as an agent has it
        urls = dice.sample(self.urls, len(self.urls))
        reflector = Reflector(host=f"hosts/h{number}")
        async with AsyncClient(",".join(urls)) as client:

            async def connect(revision: int | None) -> AsyncIterator[bytes]:
                self.tries += 1
                try:
                    async for chunk in client.feed(f"hosts/h{number}", revision, reflector.history):
                        yield chunk
                except ApiError as error:
                    raise (Gone if error.status == 410 else Retry)(str(error)) from error

            async with aclosing(follow(reflector, connect, MonotonicClock(), dice)) as events:
                async for event in events:
                    match event:
                        case Batch() if event.synced:
                            self.in_sync.add(number)
                            self.deletes += len(event.delta.deletes)
                            self.rows[number] = len(reflector.tables)
                        case Lost():
                            self.in_sync.discard(number)
                        case Connected() | _:
                            pass


def intent() -> list[tuple[str, dict[str, object]]]:
    domain = "tenants/blue/routing-domains/d{}"
    port = {"virtual_subnet": "", "host": ""}
    return [
        ("provider-networks/dc1", {"pools": [{"prefix": "100.64.0.0/16"}]}),
        *((f"hosts/h{n}", {"uplinks": [{"interface": "eth0", "provider_network": "dc1"}]}) for n in range(HOSTS)),
        ("tenants/blue", {}),
        *((domain.format(n), {}) for n in range(DOMAINS)),
        *((f"{domain.format(n)}/virtual-subnets/s", {"prefixes": ["10.0.0.0/16"]}) for n in range(DOMAINS)),
        *(
            (
                f"tenants/blue/ports/p{n}",
                {**port, "virtual_subnet": f"d{n % HOSTS % DOMAINS}/s", "host": f"h{n % HOSTS}"},
            )
            for n in range(HOSTS * PORTS_OF_HOST)
        ),
    ]


def memory_mib(of: Controller, what: str) -> float:
    """VmRSS, or VmHWM: the most there ever was."""
    assert of.process is not None
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{of.process.pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


async def test_500_hosts_come_back_in_bounded_time_and_memory_and_lose_nothing(nodes: Cluster, tmp_path: Path) -> None:
    with many_files(), controllers(etcd_url(nodes), tmp_path) as (a, b):
        async with AsyncClient(a.url) as client:
            await client.apply(intent())
        fleet = Fleet([a.url, b.url])
        hosts = [asyncio.ensure_future(fleet.host(number)) for number in range(HOSTS)]
        await becomes(lambda: len(fleet.in_sync) == HOSTS, "all are there", within_s=PATIENCE_S)
        rows = dict(fleet.rows)
        for each in (a, b):
            each.kill()
        await becomes(lambda: not fleet.in_sync, "all have noticed", within_s=PATIENCE_S)
        # They try, each in its own time, and find nobody; then there is somebody.
        tries = fleet.tries
        await becomes(lambda: fleet.tries > tries + HOSTS, "they try again", within_s=PATIENCE_S)
        began_s = time.monotonic()
        for each in (a, b):
            each.start()
        await becomes(lambda: a.answers() or b.answers(), "one of them is there", within_s=PATIENCE_S)
        served_s = time.monotonic() - began_s
        await becomes(lambda: a.answers() and b.answers(), "both are there", within_s=PATIENCE_S)
        most = [memory_mib(each, "VmRSS") for each in (a, b)]
        await becomes(lambda: len(fleet.in_sync) == HOSTS, "all are in sync", within_s=PATIENCE_S)
        back_s = time.monotonic() - began_s
        grown = [memory_mib(each, "VmHWM") - before for each, before in zip((a, b), most, strict=True)]
        for task in hosts:
            task.cancel()
        await asyncio.gather(*hosts, return_exceptions=True)
    REPORT.parent.mkdir(exist_ok=True)
    figures = {
        "from their start until one serves": f"{served_s:.1f} s",
        "until all hosts are in sync": f"{back_s:.1f} s",
        "the most memory that it cost a controller": f"{max(grown):.0f} MiB",
    }
    about = f"{HOSTS * PORTS_OF_HOST} ports in {DOMAINS} routing domains, over etcd; all of it on one machine."
    lines = [f"# {HOSTS} hosts come back to two controllers", "", about, "", "| | |", "|---|---|"]
    REPORT.write_text("\n".join([*lines, *(f"| {what} | {figure} |" for what, figure in figures.items())]) + "\n")
    assert fleet.rows == rows
    assert fleet.deletes == 0
    assert max(grown) < MOST_MIB

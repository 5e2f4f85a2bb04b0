"""fleet: 22,500 ports on 500 simulated hosts: one port more, until every host that needs it has it; and a controller
that comes back to all of them. Over SQLite, and over three etcd nodes.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.context import Context
from bench.controller import UnixConnection, body, hosts
from bench.domain import Counting
from bench.pairs import percentile
from bench.report import AtMost, Figure, ReportOnly
from weft.feed.reflector import BACKOFF_FIRST_S, BACKOFF_MOST_S

PORTS_OF_DOMAIN = 450
PORTS_OF_HOST = 45
BATCH = 1_000
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many there are."""

    hosts: int
    ports: int

    @property
    def domains(self) -> int:
        return -(-self.ports // PORTS_OF_DOMAIN)


def run(context: Context) -> list[Figure]:
    settings = context.settings
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    fleet = Fleet(settings.domain_hosts, settings.domain_hosts * PORTS_OF_HOST)
    figures: list[Figure] = []
    with processes.directory() as at:
        figures += _over(context, fleet, at, str(at / "controller.db"), "sqlite")
    with processes.directory() as at, etcd(at) as store:
        figures += _over(context, fleet, at, store, "etcd")
    return figures


def _over(context: Context, fleet: Fleet, at: Path, store: str, name: str) -> list[Figure]:
    figures: list[Figure] = []
    with serving(at, store) as process:
        context.progress(f"fleet, {name}: {fleet.ports:,} ports are made")
        began = time.perf_counter()
        _fill(at / "controller.sock", fleet)
        filled_s = time.perf_counter() - began
        times = asyncio.run(_added(at / "controller.sock", fleet, context.settings.requests))
        memory = processes.memory_peak_bytes(process.pid)
    programmed = sorted(after for _, after in times)
    whole = sorted(map(sum, times))
    answered = sorted(answer for answer, _ in times)
    median_ms, most_ms = percentile(programmed, 0.5), percentile(programmed, 0.99)
    context.progress(f"fleet, {name}: {median_ms:.1f} ms, 99 %: {most_ms:.1f} ms")
    detail = (
        f"{len(times)} ports, one at a time, beside {fleet.ports:,} on {fleet.hosts} hosts; from the answer until all "
        f"{min(PORTS_OF_DOMAIN, fleet.hosts)} hosts of its routing domain have its rows and the bookmark behind them"
    )
    figures += [
        Figure(f"fleet_{name}_programmed_p50", median_ms, "ms", AtMost(184, "18.4"), detail),
        Figure(f"fleet_{name}_programmed_p99", most_ms, "ms", AtMost(576, "57.6"), detail),
        Figure(
            f"fleet_{name}_whole_p50", percentile(whole, 0.5), "ms", ReportOnly("from the request to the last host")
        ),
        Figure(f"fleet_{name}_answer_p50", percentile(answered, 0.5), "ms", ReportOnly("from the PUT to its answer")),
        Figure(f"fleet_{name}_filled", fleet.ports / filled_s, "ports/s", ReportOnly(f"in batches of {BATCH:,}")),
        Figure(f"fleet_{name}_rss", memory / 2**20, "MiB", ReportOnly("the controller's VmHWM so far")),
    ]
    return [*figures, *_restarted(context, fleet, at, store, name)]


def _restarted(context: Context, fleet: Fleet, at: Path, store: str, name: str) -> list[Figure]:
    """Every host has lost it, and asks for everything as soon as it is back."""
    began = time.perf_counter()
    with serving(at, store) as process:
        serves_s = time.perf_counter() - began
        synced_s, received = asyncio.run(_returned(at / "controller.sock", fleet))
        memory = processes.memory_peak_bytes(process.pid)
    context.progress(f"fleet, {name}: serves after {serves_s:.2f} s, all hosts are in sync after {synced_s:.2f} s more")
    detail = (
        f"{fleet.hosts} hosts come back within {BACKOFF_MOST_S:g} s of each other at the most and get everything anew: "
        f"{received / 1e9:.2f} GB of rows on this machine; the controller's VmHWM was {memory / 2**20:,.0f} MiB"
    )
    return [
        Figure(f"fleet_{name}_restart_serves", serves_s, "s", AtMost(10), "from its start to its first answer"),
        Figure(f"fleet_{name}_restart_synced", synced_s, "s", AtMost(60), detail),
        Figure(f"fleet_{name}_restart_rss", memory / 2**20, "MiB", ReportOnly("with everything sent to every host")),
    ]


@contextmanager
def serving(at: Path, store: str) -> Iterator[subprocess.Popen[bytes]]:
    words = ["controller", "--listen", f"unix://{at / 'controller.sock'}", "--store", store]
    with processes.weft(at / "controller.log", words) as process:

        def healthy() -> bool:
            if process.poll() is not None:
                raise RuntimeError("the controller has ended")
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(at / "controller.sock"))
                except OSError:
                    return False
                probe.settimeout(PATIENCE_S)
                probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return b" 200 " in probe.recv(100)

        processes.wait(healthy, "the controller answers", PATIENCE_S)
        yield process


def _fill(path: Path, fleet: Fleet) -> None:
    connection = UnixConnection(path)
    connection.apply(body(hosts(fleet.hosts)))
    for domain in range(fleet.domains):
        connection.apply(
            body(
                [
                    (f"tenants/t{domain}", {}),
                    (f"tenants/t{domain}/routing-domains/d", {}),
                    (f"tenants/t{domain}/routing-domains/d/virtual-subnets/s", {"prefixes": ["10.0.0.0/16"]}),
                ]
            )
        )
    puts = [
        (
            f"tenants/t{number // PORTS_OF_DOMAIN}/ports/p{number % PORTS_OF_DOMAIN}",
            {"virtual_subnet": "d/s", "host": f"h{number % fleet.hosts}"},
        )
        for number in range(fleet.ports)
    ]
    for first in range(0, len(puts), BATCH):
        connection.apply(body(puts[first : first + BATCH]))
    connection.close()


def _needed(fleet: Fleet, domain: int) -> set[int]:
    first = domain * PORTS_OF_DOMAIN
    return {number % fleet.hosts for number in range(first, min(first + PORTS_OF_DOMAIN, fleet.ports))}


async def _added(path: Path, fleet: Fleet, count: int) -> list[tuple[float, float]]:
    """(to the answer, from it to the last host), in ms."""
    listening = [await _listen(path, number) for number in range(fleet.hosts)]
    connection = UnixConnection(path)
    pause = random.Random(1)  # noqa: S311 - no secret: so that no request meets the same beat of anything
    times = []
    try:
        for number in range(count):
            await asyncio.sleep(0.01 + pause.random() * 0.02)
            domain = number % fleet.domains
            wanted = sorted(_needed(fleet, domain))
            spec = {"virtual_subnet": "d/s", "host": f"h{wanted[number % len(wanted)]}"}
            began = time.perf_counter()
            revision, answered = await asyncio.to_thread(_put, connection, f"tenants/t{domain}/ports/x{number}", spec)
            async with asyncio.timeout(PATIENCE_S):
                for host in wanted:
                    await listening[host][0].holds(revision)
            times.append(((answered - began) * 1e3, max(0.0, time.perf_counter() - answered) * 1e3))
    finally:
        connection.close()
        for _, transport in listening:
            transport.close()
    return times


async def _listen(path: Path, number: int) -> tuple[Counting, asyncio.BaseTransport]:
    connected = asyncio.Event()
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(
        lambda: Counting(f"hosts/h{number}", connected), str(path)
    )
    await connected.wait()
    return protocol, transport


async def _returned(path: Path, fleet: Fleet) -> tuple[float, int]:
    """(until the last host has everything, bytes); each comes after a while of its own, as agents do."""
    jitter = random.Random(2)  # noqa: S311 - no secret
    # They have been trying for a while.
    waits = [jitter.random() * min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**5) for _ in range(fleet.hosts)]

    async def come(number: int) -> int:
        await asyncio.sleep(waits[number])
        protocol, transport = await _listen(path, number)
        transport.close()
        return protocol.bytes

    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        received = await asyncio.gather(*(come(number) for number in range(fleet.hosts)))
    return time.perf_counter() - began, sum(received)


def _put(connection: UnixConnection, name: str, spec: dict[str, str]) -> tuple[int, float]:
    connection.request("PUT", f"/v1/{name}", json.dumps({"spec": spec}), {"content-type": "application/json"})
    answer = connection.getresponse()
    answered = time.perf_counter()
    content = answer.read()
    if answer.status != 201:
        raise RuntimeError(f"the controller refused {name} with {answer.status}: {content[:500]!r}")
    return int(json.loads(content)["revision"]), answered


@contextmanager
def etcd(at: Path, size: int = 3) -> Iterator[str]:
    """A cluster on the loopback, on the disk; the store's URL."""
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * size)]
    numbers = [each.getsockname()[1] for each in bound]
    for each in bound:
        each.close()
    clients = [f"http://127.0.0.1:{number}" for number in numbers[:size]]
    peers = [f"http://127.0.0.1:{number}" for number in numbers[size:]]
    members = ",".join(f"e{number}={peer}" for number, peer in enumerate(peers))
    nodes = []
    try:
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            with (at / f"etcd{number}.log").open("wb") as log:
                nodes.append(
                    subprocess.Popen(
                        [
                            "etcd", "--name", f"e{number}", "--data-dir", str(at / f"etcd{number}"),
                            "--listen-client-urls", client, "--advertise-client-urls", client,
                            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                            "--initial-cluster", members, "--logger", "zap", "--log-level", "error",
                        ],
                        stdout=log, stderr=log,
                    )
                )  # fmt: skip
        processes.wait(lambda: _answers(clients[0]), "etcd answers", 60.0)
        yield "etcd://" + ",".join(client.removeprefix("http://") for client in clients) + "/weft"
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def _answers(url: str) -> bool:
    request = urllib.request.Request(f"{url}/v3/kv/range", data=b'{"key":"YQ=="}')  # noqa: S310 - http, and ours
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310 - the same
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False

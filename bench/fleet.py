"""fleet: 22,500 ports on 500 simulated hosts: one port more, until every host that needs it has it; and a controller
that comes back to all of them. Over SQLite, over three etcd nodes, and over SQLite with mutual TLS.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import processes
from bench.context import Context
from bench.controller import Connection, SecuredConnection, body, hosts
from bench.domain import Counting
from bench.free_ports import free_port, free_ports
from bench.pairs import percentile
from bench.report import AtMost, Figure, ReportOnly
from weft.feed.reflector import BACKOFF_FIRST_S, BACKOFF_MOST_S
from weft.tls.authority import Authority
from weft.tls.contexts import ClientTls, Files
from weft.tls.identity import Identity, Role

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

    @property
    def needing(self) -> int:
        """Hosts of a routing domain."""
        return min(PORTS_OF_DOMAIN, self.hosts)


def run(context: Context) -> list[Figure]:
    settings = context.settings
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    fleet = Fleet(settings.domain_hosts, settings.domain_hosts * PORTS_OF_HOST)
    with processes.directory() as at:
        plain = _over(context, fleet, at, str(at / "controller.db"), Way.free(), "sqlite")
    with processes.directory() as at, etcd(at) as store:
        over_etcd = _over(context, fleet, at, store, Way.free(), "etcd")
    with processes.directory() as at:
        way = Way.free(authority(at / "ca", fleet))
        secured = _over(context, fleet, at, str(at / "controller.db"), way, "tls")
    return [*plain.figures(), *over_etcd.figures(), *secured.figures(), *_beside(plain, secured)]


@dataclass(frozen=True, slots=True)
class Added:
    """Ports one at a time: (to the answer, from it to the last host) of each, in ms; and what the controller used.

    cpu_ms: of a port. bytes_of_host: what the feed of a host has added to what is resident.
    """

    times: list[tuple[float, float]]
    cpu_ms: float
    bytes_of_host: float

    @property
    def programmed(self) -> list[float]:
        return sorted(after for _, after in self.times)

    @property
    def whole(self) -> list[float]:
        return sorted(map(sum, self.times))


@dataclass(frozen=True, slots=True)
class Measured:
    """One deployment."""

    name: str
    fleet: Fleet
    filled_s: float
    fill_cpu_s: float
    added: Added
    rss: int
    serves_s: float
    synced_s: float
    received: int
    restart_cpu_s: float
    restart_rss: int

    def figures(self) -> list[Figure]:
        fleet, prefix, added = self.fleet, f"fleet_{self.name}", self.added
        asked = (
            f"{len(added.times)} ports, one at a time, beside {fleet.ports:,} on {fleet.hosts} hosts; from the answer "
            f"until all {fleet.needing} hosts of its routing domain have its rows and the bookmark behind them"
        )
        back = (
            f"{fleet.hosts} hosts come back within {BACKOFF_MOST_S:g} s of each other at the most and get everything "
            f"anew: {self.received / 1e9:.2f} GB of rows on this machine; {self.restart_cpu_s:.1f} s of the "
            f"controller's CPU; its VmHWM was {self.restart_rss / 2**20:,.0f} MiB"
        )
        answered = sorted(answer for answer, _ in added.times)
        per_host = f"of it, {added.cpu_ms * 1e3 / fleet.needing:.0f} us for each of the {fleet.needing} hosts told"
        return [
            Figure(f"{prefix}_programmed_p50", percentile(added.programmed, 0.5), "ms", AtMost(184, "18.4"), asked),
            Figure(f"{prefix}_programmed_p99", percentile(added.programmed, 0.99), "ms", AtMost(576, "57.6"), asked),
            Figure(f"{prefix}_whole_p50", percentile(added.whole, 0.5), "ms", ReportOnly("from request to last host")),
            Figure(f"{prefix}_answer_p50", percentile(answered, 0.5), "ms", ReportOnly("from the PUT to its answer")),
            Figure(
                f"{prefix}_filled",
                fleet.ports / self.filled_s,
                "ports/s",
                ReportOnly(f"in batches of {BATCH:,}"),
                f"{fleet.ports:,} ports; {self.fill_cpu_s * 1e6 / fleet.ports:.0f} us of the controller's CPU a port",
            ),
            Figure(f"{prefix}_cpu_a_change", added.cpu_ms, "ms", ReportOnly("of the controller's CPU"), per_host),
            Figure(
                f"{prefix}_memory_a_host",
                added.bytes_of_host / 1024,
                "KiB",
                ReportOnly("of the controller's memory"),
                f"what {fleet.hosts} open feeds, each in sync, add to what is resident, of one of them",
            ),
            Figure(f"{prefix}_rss", self.rss / 2**20, "MiB", ReportOnly("the controller's VmHWM so far")),
            Figure(f"{prefix}_restart_serves", self.serves_s, "s", AtMost(10), "from its start to its first answer"),
            Figure(f"{prefix}_restart_synced", self.synced_s, "s", AtMost(60), back),
            Figure(
                f"{prefix}_restart_rss", self.restart_rss / 2**20, "MiB", ReportOnly("everything sent to every host")
            ),
        ]


def _beside(plain: Measured, secured: Measured) -> list[Figure]:
    """What mutual TLS costs, both ends of it on this machine."""

    def of(name: str, unit: str, value: Callable[[Measured], float]) -> Figure:
        ours, theirs = value(secured), value(plain)
        detail = f"mutual TLS {ours:,.4g}, plain {theirs:,.4g} {unit}; hosts that decrypt share the machine"
        return Figure(f"fleet_tls_vs_plain_{name}", ours / theirs, "ratio", ReportOnly("TLS : plain"), detail)

    return [
        of("programmed_p50", "ms", lambda each: percentile(each.added.programmed, 0.5)),
        of("programmed_p99", "ms", lambda each: percentile(each.added.programmed, 0.99)),
        of("filled", "ports/s", lambda each: each.fleet.ports / each.filled_s),
        of("cpu_a_change", "ms", lambda each: each.added.cpu_ms),
        of("restart_synced", "s", lambda each: each.synced_s),
        of("restart_rss", "MiB", lambda each: each.restart_rss / 2**20),
    ]


def _over(context: Context, fleet: Fleet, at: Path, store: str, way: Way, name: str) -> Measured:
    with serving(at, store, way) as process:
        context.progress(f"fleet, {name}: {fleet.ports:,} ports are made")
        used = processes.cpu_seconds(process.pid)
        began = time.perf_counter()
        fill(way, fleet)
        filled_s = time.perf_counter() - began
        fill_cpu_s = processes.cpu_seconds(process.pid) - used
        found = asyncio.run(added(way, fleet, context.settings.requests, process.pid))
        rss = processes.memory_peak_bytes(process.pid)
    median_ms, most_ms = percentile(found.programmed, 0.5), percentile(found.programmed, 0.99)
    context.progress(f"fleet, {name}: {median_ms:.1f} ms, 99 %: {most_ms:.1f} ms")
    # Every host has lost it, and asks for everything as soon as it is back.
    began = time.perf_counter()
    with serving(at, store, way) as process:
        serves_s = time.perf_counter() - began
        synced_s, received = asyncio.run(_returned(way, fleet))
        restart_cpu_s, restart_rss = processes.cpu_seconds(process.pid), processes.memory_peak_bytes(process.pid)
    context.progress(f"fleet, {name}: serves after {serves_s:.2f} s, all hosts are in sync after {synced_s:.2f} s more")
    return Measured(
        name, fleet, filled_s, fill_cpu_s, found, rss, serves_s, synced_s, received, restart_cpu_s, restart_rss
    )


@dataclass(frozen=True, slots=True)
class Way:
    """How hosts and operators come to the controller: over TCP on the loopback, plain or by mutual TLS."""

    port: int
    authority: Authority | None = None

    @classmethod
    def free(cls, authority: Authority | None = None) -> Way:
        """To a TCP port that nobody has."""
        return cls(free_port(), authority)

    def words(self) -> list[str]:
        """Of the controller's command line."""
        if self.authority is None:
            return ["--listen", f"http://127.0.0.1:{self.port}"]
        at = self.authority.directory / "controllers" / "c1.crt"
        files = ["--certificate", str(at), "--key", str(at.with_suffix(".key")), "--ca", str(self.authority.ca)]
        return ["--listen", f"https://127.0.0.1:{self.port}", *files]

    def operator(self) -> Connection:
        if self.authority is None:
            return Connection("127.0.0.1", self.port)
        return SecuredConnection("127.0.0.1", self.port, self._context(Identity(Role.ADMIN, "bench")))

    async def listen(self, number: int) -> tuple[Counting, asyncio.BaseTransport]:
        """A host that is in sync."""
        connected = asyncio.Event()
        transport, protocol = await asyncio.get_running_loop().create_connection(
            lambda: Counting(f"hosts/h{number}", connected),
            "127.0.0.1",
            self.port,
            ssl=None if self.authority is None else self._context(Identity(Role.HOST, f"h{number}")),
        )
        await connected.wait()
        await protocol.holds(0)
        return protocol, transport

    def _context(self, identity: Identity) -> ssl.SSLContext:
        assert self.authority is not None
        at = self.authority.directory / f"{identity.role.value}s" / f"{identity.label}.crt"
        return ClientTls(Files(at, at.with_suffix(".key"), self.authority.ca)).context


def authority(directory: Path, fleet: Fleet) -> Authority:
    """A deployment's certificates: of the controller, the operator and every host."""
    now = datetime.now(UTC)
    made = Authority.make(directory, "bench", now)
    made.issue(Identity(Role.CONTROLLER, "c1"), ["127.0.0.1"], now)
    for identity in (Identity(Role.ADMIN, "bench"), *(Identity(Role.HOST, f"h{each}") for each in range(fleet.hosts))):
        made.issue(identity, [], now)
    return made


@contextmanager
def serving(at: Path, store: str, way: Way | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """On its unix socket, and the way that hosts come."""
    words = ["controller", "--listen", f"unix://{at / 'controller.sock'}", "--store", store]
    with processes.weft(at / "controller.log", [*words, *(way.words() if way else ())]) as process:
        processes.await_answer(process, at / "controller.sock", PATIENCE_S)
        yield process


def fill(way: Way, fleet: Fleet) -> None:
    connection = way.operator()
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


def needed(fleet: Fleet, domain: int) -> set[int]:
    """The hosts that have ports in a routing domain."""
    first = domain * PORTS_OF_DOMAIN
    return {number % fleet.hosts for number in range(first, min(first + PORTS_OF_DOMAIN, fleet.ports))}


async def added(way: Way, fleet: Fleet, count: int, pid: int) -> Added:
    """pid: the controller's."""
    before = processes.memory_bytes(pid)
    listening = [await way.listen(number) for number in range(fleet.hosts)]
    bytes_of_host = (processes.memory_bytes(pid) - before) / fleet.hosts
    connection = way.operator()
    pause = random.Random(1)  # noqa: S311 - no secret: so that no request meets the same beat of anything
    times = []
    used = processes.cpu_seconds(pid)
    try:
        for number in range(count):
            await asyncio.sleep(0.01 + pause.random() * 0.02)
            domain = number % fleet.domains
            wanted = sorted(needed(fleet, domain))
            spec = {"virtual_subnet": "d/s", "host": f"h{wanted[number % len(wanted)]}"}
            began = time.perf_counter()
            revision, answered = await asyncio.to_thread(put, connection, f"tenants/t{domain}/ports/x{number}", spec)
            async with asyncio.timeout(PATIENCE_S):
                for host in wanted:
                    await listening[host][0].holds(revision)
            times.append(((answered - began) * 1e3, max(0.0, time.perf_counter() - answered) * 1e3))
        cpu_ms = (processes.cpu_seconds(pid) - used) * 1e3 / count
    finally:
        connection.close()
        for protocol, transport in listening:
            transport.close()
            await protocol.hung_up()
    return Added(times, cpu_ms, bytes_of_host)


async def _returned(way: Way, fleet: Fleet) -> tuple[float, int]:
    """(until the last host has everything, bytes); each comes after a while of its own, as agents do."""
    jitter = random.Random(2)  # noqa: S311 - no secret
    # They have been trying for a while.
    waits = [jitter.random() * min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**5) for _ in range(fleet.hosts)]

    async def come(number: int) -> Counting:
        await asyncio.sleep(waits[number])
        protocol, transport = await way.listen(number)
        transport.close()
        return protocol

    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        came = await asyncio.gather(*(come(number) for number in range(fleet.hosts)))
        took_s = time.perf_counter() - began
        for each in came:
            await each.hung_up()
    return took_s, sum(each.bytes for each in came)


def put(connection: Connection, name: str, spec: Mapping[str, Any]) -> tuple[int, float]:
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
    numbers = free_ports(2 * size)
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

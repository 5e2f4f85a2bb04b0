"""security: security groups' rules compiled for a large deployment, and one member more of a group that many hosts use.

What a data plane makes of rules, packet by packet, is measured with traffic: see network.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import processes
from bench.context import Context
from bench.controller import PORTS_OF_SUBNET, UnixConnection, body, domain, hosts
from bench.domain import DECODING, PATIENCE_S, Counting, Decoding
from bench.pairs import percentile
from bench.report import AtMost, Figure, ReportOnly
from weft.client import AsyncClient
from weft.compiler.compiler import Compiler
from weft.model import drafts
from weft.model.catalog import Catalog
from weft.model.features import ABILITIES, Feature
from weft.policy.rows import Record, SecurityGroup

RULES = 100  # of one group
HOSTS = 500
GROUPS_OF_PORT = 2
MEMBERS = 10_000
GROUP = "tenants/bench/security-groups/large"


def run(context: Context) -> list[Figure]:
    settings = context.settings
    return [*_compiled(context), *_member(context, MEMBERS if not settings.quick else 200)]


# Compiling


def _compiled(context: Context) -> list[Figure]:
    quick = context.settings.quick
    rules, ports = (800, 1_000) if quick else (75_000, 100_000)
    runs = []
    for _ in range(1 if quick else 3):
        words = [sys.executable, "-c", f"from bench import security; security.compiled({rules}, {ports})"]
        runs.append(json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout))
        context.progress(f"security: compiled in {runs[-1]['full_s']:.2f} s, {runs[-1]['bytes'] / 2**30:.2f} GiB")
    best = sorted(runs, key=lambda each: each["full_s"])[len(runs) // 2]
    detail = (
        f"{rules:,} rules of {rules // RULES} groups, {ports:,} ports with {GROUPS_OF_PORT} groups each on {HOSTS} "
        f"hosts, a process of its own; {best['rows']:,} rows; median of {len(runs)}"
    )
    return [
        Figure("security_compiled", best["full_s"], "s", AtMost(6), f"every row of every scope from objects; {detail}"),
        Figure(
            "security_compiled_memory",
            best["bytes"] / 2**30,
            "GiB",
            AtMost(1.6),
            "the most that was resident: objects, indexes and rows",
        ),
        Figure(
            "security_admitted",
            best["admitted_s"],
            "s",
            ReportOnly("before that: judged, numbers and addresses chosen"),
        ),
        Figure(
            "security_one_rule", best["rule_ms"], "ms", ReportOnly("one rule more, judged and compiled, all rows kept")
        ),
    ]


def compiled(rules: int, ports: int) -> None:
    """In a process of its own: says in JSON how long it took and how much memory."""
    able = {kind: type(of)(of.features | {Feature.SECURITY_GROUPS}, of.max_pas) for kind, of in ABILITIES.items()}
    catalog = Catalog(able)
    began = time.perf_counter()
    made = [*_ground(ports), *_groups(rules), *_ports(ports, rules // RULES)]
    for start in range(0, len(made), 5_000):
        catalog.apply(made[start : start + 5_000])
    admitted = time.perf_counter()
    compiler = Compiler(catalog)
    rows = 0
    told: set[str] = set()
    for host in catalog.hosts:
        for scope in compiler.scopes_of(host) - told:
            told.add(scope)
            rows += len(compiler.rows(scope))
    full = time.perf_counter()
    _check(compiler, catalog, told, rules, ports)
    singles = []
    for number in range(100):
        one = drafts.SecurityGroupRule(
            f"{_group(number % (rules // RULES))}/rules/more{number}", "ingress", protocol="tcp"
        )
        start_s = time.perf_counter()
        compiler.apply(catalog.apply([one]))
        singles.append(time.perf_counter() - start_s)
    outcome = {
        "admitted_s": admitted - began,
        "full_s": full - admitted,
        "rows": rows,
        "bytes": processes.memory_peak_bytes(os.getpid()),
        "rule_ms": statistics.median(singles) * 1000,
    }
    print(json.dumps(outcome))


def _check(compiler: Compiler, catalog: Catalog, told: set[str], rules: int, ports: int) -> None:
    every = [row for scope in told for row in compiler.rows(scope).values()]
    seen = sum(len(row.rules) for row in every if isinstance(row, SecurityGroup))
    records = [row for row in every if isinstance(row, Record)]
    if seen != rules or len(records) != ports or any(len(row.groups) != GROUPS_OF_PORT for row in records):
        raise RuntimeError(f"{seen} rules and {len(records)} records, of {rules} and {len(catalog.ports)}")


def _group(number: int) -> str:
    return f"tenants/bench/security-groups/g{number}"


def _ground(ports: int) -> Iterator[drafts.Draft]:
    yield drafts.ProviderNetwork("provider-networks/fabric", (drafts.Pool("100.64.0.0/16"),))
    for each in range(HOSTS):
        yield drafts.Host(f"hosts/h{each}", (drafts.Uplink("eth0", "fabric"),))
    yield drafts.Tenant("tenants/bench", limits={"records": 1_000_000, "macs": 1_000_000})
    for each in range(-(-ports // PORTS_OF_SUBNET)):
        home = f"tenants/bench/routing-domains/d{each}"
        yield drafts.RoutingDomain(home)
        yield drafts.VirtualSubnet(f"{home}/virtual-subnets/s", ("10.0.0.0/16",))


def _groups(rules: int) -> Iterator[drafts.Draft]:
    """Ports open to prefixes, to other groups and to everybody, in and out, as tenants write them."""
    count = rules // RULES
    yield from (drafts.SecurityGroup(_group(group)) for group in range(count))
    for group in range(count):
        for rule in range(RULES):
            prefix = f"192.0.{rule}.0/24" if rule % 3 == 0 else None
            other = f"g{(group + rule) % count}" if rule % 3 == 1 else None
            yield drafts.SecurityGroupRule(
                f"{_group(group)}/rules/r{rule}",
                "egress" if rule % 4 == 0 else "ingress",
                protocol="tcp" if rule % 2 else "udp",
                port_min=1_000 + rule,
                port_max=1_000 + rule + rule % 7,
                remote_prefix=prefix,
                remote_group=other,
            )


def _ports(count: int, groups: int) -> Iterator[drafts.Draft]:
    for each in range(count):
        yield drafts.Port(
            f"tenants/bench/ports/p{each}",
            f"d{each // PORTS_OF_SUBNET}/s",
            host=f"h{each % HOSTS}",
            security_groups=tuple(f"g{(each + step) % groups}" for step in range(GROUPS_OF_PORT)),
        )


# One member more


def _member(context: Context, members: int) -> list[Figure]:
    settings = context.settings
    host_count = 20 if settings.quick else HOSTS
    with processes.directory() as at, processes.controller(at):
        times, whole = asyncio.run(_added(at / "controller.sock", members, host_count, settings.requests))
    context.progress(
        f"security: one member more, median {statistics.median(times):.1f} ms, at most {max(times):.1f} ms"
    )
    detail = (
        f"{members:,} members on {host_count} hosts, each with ports whose rules name the group; "
        f"{settings.requests} ports, one at a time; from the API's answer until every host has the record and its "
        f"bookmark; {DECODING} hosts decode and keep their rows; controller and hosts share this machine"
    )
    ordered = sorted(times)
    from_put = percentile(sorted(whole), 0.99)
    return [
        Figure("security_member_everywhere_p50", percentile(ordered, 0.5), "ms", ReportOnly("see p99"), detail),
        Figure("security_member_everywhere_p99", percentile(ordered, 0.99), "ms", AtMost(100), detail),
        Figure("security_member_from_put_p99", from_put, "ms", ReportOnly("the same from the request's beginning")),
    ]


async def _added(path: Path, members: int, host_count: int, count: int) -> tuple[list[float], list[float]]:
    connection = UnixConnection(path)
    await asyncio.to_thread(_set_up, connection, members, host_count)
    times, whole = [], []
    async with (
        asyncio.timeout(PATIENCE_S + count),
        asyncio.TaskGroup() as tasks,
        AsyncClient(f"unix://{path}") as client,
    ):
        loop = asyncio.get_running_loop()
        decoding = [Decoding(f"hosts/h{each}") for each in range(DECODING)]
        following, transports = [], []
        counting: list[Counting] = []
        for each in decoding:
            connected = asyncio.Event()
            following.append(tasks.create_task(each.follow(client, connected)))
            await connected.wait()
        for number in range(DECODING, host_count):
            connected = asyncio.Event()
            protocol = Counting(f"hosts/h{number}", connected)
            transport, _ = await loop.create_unix_connection(lambda protocol=protocol: protocol, str(path))  # type: ignore[misc]
            transports.append(transport)
            await connected.wait()
            counting.append(protocol)
        connection.close()  # it has been idle for so long that the controller has let go of it
        for number in range(count):
            name, spec = _port(members + number, host_count)
            revision, asked, answered = await asyncio.to_thread(_put, connection, name, spec)
            for counted in counting:
                await counted.holds(revision)
            for decoded in decoding:
                await decoded.holds(revision)
            now = time.perf_counter()
            times.append((now - answered) * 1000)
            whole.append((now - asked) * 1000)
            await asyncio.sleep(0.02)
        for task in following:
            task.cancel()
        for transport in transports:
            transport.close()
    connection.close()
    for host in decoding:
        records = [row for row in host.rows() if isinstance(row, Record)]
        if len(records) != members + count or not all(row.groups for row in records):
            raise RuntimeError(
                f"{host.host} holds {len(records)} records, and should hold {members + count} with groups"
            )
    return times, whole


def _put(connection: UnixConnection, name: str, spec: dict[str, Any]) -> tuple[int, float, float]:
    """The revision, and when it was asked for and answered. In a thread: who reads 500 feeds reads no answer soon."""
    asked = time.perf_counter()
    connection.request("PUT", f"/v1/{name}", json.dumps({"spec": spec}), {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    answered = time.perf_counter()
    if answer.status != 201:
        raise RuntimeError(f"the controller refused {name} with {answer.status}: {content[:500]!r}")
    return json.loads(content)["revision"], asked, answered


def _set_up(connection: UnixConnection, members: int, host_count: int) -> None:
    ingress: dict[str, Any] = {"direction": "ingress", "remote_group": "large"}
    connection.apply(body([*hosts(host_count), *domain("main", members + 4_000)]))
    connection.apply(
        body([(GROUP, {}), (f"{GROUP}/rules/out", {"direction": "egress"}), (f"{GROUP}/rules/in", ingress)])
    )
    made = [_port(each, host_count) for each in range(members)]
    for start in range(0, members, 1_000):
        connection.apply(body(made[start : start + 1_000]))


def _port(number: int, host_count: int) -> tuple[str, dict[str, Any]]:
    return (
        f"tenants/bench/ports/main-{number}",
        {
            "virtual_subnet": f"main/s{number // PORTS_OF_SUBNET}",
            "host": f"hosts/h{number % host_count}",
            "security_groups": ["large"],
        },
    )

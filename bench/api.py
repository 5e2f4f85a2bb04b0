"""api: from the API's answer to the packet's path: a controller, three agents, one port at a time."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.context import Context
from bench.pairs import percentile
from bench.report import AtMost, Figure, ReportOnly
from weft.client import Client
from weft.dataplane.ebpf import layout, libbpf, maps
from weft.lab import lab, plan, shell
from weft.policy.rows import Record

HOSTS = ("h1", "h2", "h3")
VSID = 5_001
PATIENCE_S = 10.0
#: Looked for this often: often enough for the bar, and seldom enough to leave the CPUs to those who are measured.
POLL_S = 0.0002

_LAB = """
lab: {name}
hosts: [h1, h2, h3]
objects:
  - name: tenants/bench
  - name: tenants/bench/routing-domains/main
  - name: tenants/bench/routing-domains/main/virtual-subnets/web
    spec: {{vsid: 5001, prefixes: [10.0.0.0/16]}}
  - {{name: tenants/bench/ports/first-1, spec: {{virtual_subnet: main/web, host: h1, addresses: [10.0.0.11]}}}}
  - {{name: tenants/bench/ports/first-2, spec: {{virtual_subnet: main/web, host: h2, addresses: [10.0.0.12]}}}}
  - {{name: tenants/bench/ports/first-3, spec: {{virtual_subnet: main/web, host: h3, addresses: [10.0.0.13]}}}}
"""


@dataclass(frozen=True, slots=True)
class NewPort:
    number: int
    host: str
    ifindex: int

    @property
    def label(self) -> str:
        return f"p{self.number:05d}"

    @property
    def ca(self) -> str:
        return f"10.0.{1 + self.number // 250}.{1 + self.number % 250}"

    @property
    def mac(self) -> str:
        return bytes((0x02, 0x20, *self.number.to_bytes(4, "big"))).hex(":")


def run(context: Context) -> list[Figure]:
    count = context.settings.requests
    with processes.directory() as at, _lab(context, at) as up, _kernel(up) as kernel:
        ports = _interfaces(up, count)
        answers_ms, programmed_ms = [], []
        pause = random.Random(1)  # noqa: S311 - no secret: so that no request meets the same beat of anything
        with Client(up.paths.controller_url) as client:
            for port in ports:
                time.sleep(0.02 + pause.random() * 0.02)
                answered_s, programmed_s = _one(client, kernel, port)
                answers_ms.append(answered_s * 1000)
                programmed_ms.append(programmed_s * 1000)
                if (port.number + 1) % 50 == 0:
                    context.progress(f"api {port.number + 1}/{count}: median {statistics.median(programmed_ms):.1f} ms")
    programmed_ms.sort()
    answers_ms.sort()
    detail = (
        f"{count} ports, one at a time; until the record is in the maps of {len(HOSTS)} hosts, and the port and its "
        f"source in its own host's; at most {programmed_ms[-1]:.1f} ms"
    )
    return [
        Figure("api_to_programmed_p50", percentile(programmed_ms, 0.5), "ms", AtMost(20), detail),
        Figure("api_to_programmed_p99", percentile(programmed_ms, 0.99), "ms", AtMost(100), detail),
        Figure("api_answer_p50", percentile(answers_ms, 0.5), "ms", ReportOnly("from the PUT to its answer, durable")),
    ]


def _one(client: Client, kernel: dict[str, dict[str, libbpf.Map]], port: NewPort) -> tuple[float, float]:
    spec = {"virtual_subnet": "main/web", "host": port.host, "mac": port.mac, "addresses": [port.ca]}
    record, _ = layout.record(Record(VSID, port.ca, "100.64.1.2", port.mac))
    source = layout.SOURCE_KEY.pack(
        layout.SOURCE_BITS + 128, port.ifindex, layout.mac(port.mac), layout.FAMILY4, layout.address(port.ca)
    )
    own = kernel[port.host]
    waiting: list[Callable[[], bytes | None]] = [
        *(lambda of=of: of["records"].lookup(record) for of in kernel.values()),
        lambda: own["ports"].lookup(layout.NUMBER.pack(port.ifindex)),
        lambda: own["sources"].lookup(source),
    ]
    began = time.perf_counter()
    client.put(f"tenants/bench/ports/{port.label}", spec, create_only=True)
    answered = time.perf_counter()
    while waiting:
        waiting = [look for look in waiting if look() is None]
        if waiting:
            if time.perf_counter() - answered > PATIENCE_S:
                raise RuntimeError(f"port {port.label} was not programmed within {PATIENCE_S:g} s of the API's answer")
            time.sleep(POLL_S)
    return answered - began, time.perf_counter() - answered


@contextmanager
def _lab(context: Context, at: Path) -> Iterator[lab.Lab]:
    _sweep()
    name = f"{processes.PREFIX}{os.getpid()}"
    file = at / "lab.yaml"
    file.write_text(_LAB.format(name=name), encoding="utf-8")
    context.progress("api: a lab of three hosts")
    try:
        yield lab.Lab.up(file)
    finally:
        lab.Lab.down(name)


def _sweep() -> None:
    """Labs of benches that were killed."""
    for name in lab.labs():
        if name.startswith(processes.PREFIX) and not processes.alive(name):
            lab.Lab.down(name)


@contextmanager
def _kernel(up: lab.Lab) -> Iterator[dict[str, dict[str, libbpf.Map]]]:
    """The hosts' maps, by name: what is programmed is asked of the kernel, not of an agent."""
    opened: dict[str, dict[str, libbpf.Map]] = {}
    try:
        for host in HOSTS:
            (generation,) = maps.generations(up.paths.pins / host)
            opened[host] = {
                name: libbpf.Map.of(name, libbpf.pinned(generation / name)) for name in ("records", "ports", "sources")
            }
        yield opened
    finally:
        for each in opened.values():
            libbpf.close_all(each)


def _interfaces(up: lab.Lab, count: int) -> list[NewPort]:
    """The interfaces that the ports' guests would have, up before the ports are: an agent binds them by their names."""
    fabric = plan.fabric_namespace(up.spec.name)
    labels = [(number, HOSTS[number % len(HOSTS)], f"p{number:05d}") for number in range(count)]
    ports = []
    for host in HOSTS:
        namespace = plan.host_namespace(up.spec.name, host)
        mine = [(number, label) for number, its, label in labels if its == host]
        shell.ip_batch(
            f"link add name tap{label} netns {namespace} type veth peer name peer{label} netns {fabric}"
            for _, label in mine
        )
        shell.ip_batch((f"link set tap{label} up" for _, label in mine), namespace)
        shown = subprocess.run(
            ["ip", "-n", namespace, "-json", "link", "show"], capture_output=True, text=True, check=True
        )
        indexes = {each["ifname"]: each["ifindex"] for each in json.loads(shown.stdout)}
        ports += [NewPort(number, host, indexes[f"tap{label}"]) for number, label in mine]
    return sorted(ports, key=lambda port: port.number)

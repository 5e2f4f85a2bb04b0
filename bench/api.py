"""api: from the API's answer to the packet's path: a controller, three agents, one port at a time."""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
#: The guest asks again when it has heard nothing for so long.
ASK_AGAIN_S = 0.001
ARP = 0x0806

#: The address of a port that is there from the beginning.
FIRST = socket.inet_aton("10.0.0.11")

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
    """attached: its interface was given to the agent beforehand; else the agent finds it by its name."""

    number: int
    host: str
    ifindex: int
    attached: bool

    @property
    def label(self) -> str:
        return label_of(self.number)

    @property
    def ca(self) -> str:
        return f"10.0.{1 + self.number // 250}.{1 + self.number % 250}"

    @property
    def mac(self) -> str:
        return bytes((0x02, 0x20, *self.number.to_bytes(4, "big"))).hex(":")

    @property
    def asks(self) -> bytes:
        """The frame by which its guest asks for the first port's MAC."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        request = bytes.fromhex("0001080006040001") + mac + socket.inet_aton(self.ca) + bytes(6) + FIRST
        return b"\xff" * 6 + mac + ARP.to_bytes(2, "big") + request

    def is_answer(self, frame: bytes) -> bool:
        return frame[:6].hex(":") == self.mac and frame[12:14] == ARP.to_bytes(2, "big") and frame[28:32] == FIRST


def run(context: Context) -> list[Figure]:
    count = context.settings.requests
    answers_ms: list[float] = []
    programmed_ms: dict[bool, list[float]] = {True: [], False: []}
    with processes.directory() as at, _lab(context, at) as up, _kernel(up) as kernel:
        ports = _interfaces(up, 2 * count)
        pause = random.Random(1)  # noqa: S311 - no secret: so that no request meets the same beat of anything
        with Client(up.paths.controller_url) as client:
            for port in ports:
                with _guest(up, port) as guest:
                    time.sleep(0.02 + pause.random() * 0.02)
                    answered_s, programmed_s = _one(up, client, kernel, port, guest)
                answers_ms.append(answered_s * 1000)
                programmed_ms[port.attached].append(programmed_s * 1000)
                if (port.number + 1) % 50 == 0:
                    medians = {each: statistics.median(times) for each, times in programmed_ms.items()}
                    context.progress(
                        f"api {port.number + 1}/{2 * count}: median {medians[True]:.1f} ms, "
                        f"and {medians[False]:.1f} ms with the interface found by its name"
                    )
    figures = []
    for attached, name in ((True, "api_to_programmed"), (False, "api_to_programmed_by_name")):
        times = sorted(programmed_ms[attached])
        detail = (
            f"{count} ports, one at a time, the interface {'attached' if attached else 'there'} before; until the "
            f"record is in the maps of {len(HOSTS)} hosts, and the port and its source in its own host's, and then its "
            f"guest's ARP is answered; at most {times[-1]:.1f} ms"
        )
        figures += [
            Figure(f"{name}_p50", percentile(times, 0.5), "ms", AtMost(20), detail),
            Figure(f"{name}_p99", percentile(times, 0.99), "ms", AtMost(100), detail),
        ]
    answered = percentile(sorted(answers_ms), 0.5)
    return [*figures, Figure("api_answer_p50", answered, "ms", ReportOnly("from the PUT to its answer, durable"))]


def _one(
    up: lab.Lab, client: Client, kernel: dict[str, dict[str, libbpf.Map]], port: NewPort, guest: socket.socket
) -> tuple[float, float]:
    spec = {"virtual_subnet": "main/web", "host": port.host, "mac": port.mac, "addresses": [port.ca]}
    record, _ = layout.record(Record(VSID, port.ca, "100.64.1.2", port.mac))
    source = layout.SOURCE_KEY.pack(
        layout.SOURCE_BITS + 128, port.ifindex, layout.mac(port.mac), 0, layout.FAMILY4, layout.address(port.ca)
    )
    own = kernel[port.host]
    waiting: dict[str, Callable[[], bytes | None]] = {
        **{f"its record on {host}": partial(of["records"].lookup, record) for host, of in kernel.items()},
        f"its port on {port.host}": lambda: own["ports"].lookup(layout.Seat(port.ifindex).key),
        f"its source on {port.host}": lambda: own["sources"].lookup(source),
    }
    began = time.perf_counter()
    client.put(f"tenants/bench/ports/{port.label}", spec, create_only=True)
    answered = time.perf_counter()
    while waiting:
        waiting = {what: look for what, look in waiting.items() if look() is None}
        if waiting:
            if time.perf_counter() - answered > PATIENCE_S:
                said = up.ask_agent(port.host, "GET", "/status")["ports"].get(f"tenants/bench/ports/{port.label}")
                raise RuntimeError(
                    f"{PATIENCE_S:g} s after the API's answer port {port.label}, "
                    f"{'attached' if port.attached else 'found by name'}, lacks {', '.join(waiting)}; "
                    f"its agent says {said}"
                )
            time.sleep(POLL_S)
    while not _is_answered(guest, port):
        if time.perf_counter() - answered > PATIENCE_S:
            raise RuntimeError(f"{PATIENCE_S:g} s after the API's answer nobody answers the guest of port {port.label}")
    return answered - began, time.perf_counter() - answered


def _is_answered(guest: socket.socket, port: NewPort) -> bool:
    guest.send(port.asks)
    try:
        while not port.is_answer(guest.recv(2048)):
            pass
    except TimeoutError:
        return False
    return True


@contextmanager
def _guest(up: lab.Lab, port: NewPort) -> Iterator[socket.socket]:
    """What the port's guest would see of its interface."""

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP))
        made.bind((f"peer{port.number}", ARP))
        made.settimeout(ASK_AGAIN_S)
        return made

    with shell.within(plan.fabric_namespace(up.spec.name), opened) as guest:
        yield guest


def label_of(number: int) -> str:
    return f"p{number:05d}"


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
    """The interfaces that the ports' guests would have, up before the ports are. Half of them are attached."""
    fabric = plan.fabric_namespace(up.spec.name)
    ports = []
    for turn, host in enumerate(HOSTS):
        namespace = plan.host_namespace(up.spec.name, host)
        # In pairs: neither way of binding is always at the same host.
        names = {
            number: f"{'nic' if number % 2 else 'tap'}{label_of(number)}"
            for number in range(count)
            if number // 2 % len(HOSTS) == turn
        }
        shell.ip_batch(
            f"link add name {name} netns {namespace} type veth peer name peer{number} netns {fabric}"
            for number, name in names.items()
        )
        shell.ip_batch((f"link set {name} up" for name in names.values()), namespace)
        shell.ip_batch((f"link set peer{number} up" for number in names), fabric)
        shown = subprocess.run(
            ["ip", "-n", namespace, "-json", "link", "show"], capture_output=True, text=True, check=True
        )
        indexes = {each["ifname"]: each["ifindex"] for each in json.loads(shown.stdout)}
        for number, name in names.items():
            port = NewPort(number, host, indexes[name], name.startswith("nic"))
            if port.attached:
                up.ask_agent(host, "POST", "/attach", {"port": f"tenants/bench/ports/{port.label}", "interface": name})
            ports.append(port)
    return sorted(ports, key=lambda port: port.number)

"""controller: ports created through batch apply, each batch durable before its answer."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import processes
from bench.context import Context
from bench.report import AtLeast, Figure, ReportOnly

BATCH = 1_000
HOSTS = 100
PORTS_OF_SUBNET = 4_000


class Connection(http.client.HTTPConnection):
    """HTTP with bodies ready made: the client's own work is not the controller's."""

    def __init__(self, host: str, port: int | None = None) -> None:
        super().__init__(host, port, timeout=300)

    def apply(self, body: bytes) -> bytes:
        self.request("POST", "/v1/apply", body, {"content-type": "application/json"})
        answer = self.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the controller refused a batch with {answer.status}: {content[:500]!r}")
        return content


class UnixConnection(Connection):
    """Over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("weft")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class SecuredConnection(Connection):
    """Over TLS, with a certificate of the caller's."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port)
        self._context = context

    def connect(self) -> None:
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)


def body(puts: list[tuple[str, dict[str, Any]]]) -> bytes:
    return json.dumps({"puts": [{"name": name, "spec": spec} for name, spec in puts]}).encode()


def hosts(count: int) -> list[tuple[str, dict[str, Any]]]:
    """A provider network and hosts on it, whose PAs the controller draws."""
    uplink = {"interface": "eth0", "provider_network": "provider-networks/fabric"}
    return [
        ("provider-networks/fabric", {"pools": [{"prefix": "100.64.0.0/16"}]}),
        *((f"hosts/h{each}", {"uplinks": [uplink]}) for each in range(count)),
    ]


def domain(name: str, ports: int) -> list[tuple[str, dict[str, Any]]]:
    """A routing domain with room for so many ports."""
    subnets = -(-ports // PORTS_OF_SUBNET)
    return [
        ("tenants/bench", {"limits": {"records": 1_000_000, "macs": 1_000_000}}),  # all runs are this tenant's
        (f"tenants/bench/routing-domains/{name}", {}),
        *(
            (f"tenants/bench/routing-domains/{name}/virtual-subnets/s{each}", {"prefixes": [f"10.{each}.0.0/16"]})
            for each in range(subnets)
        ),
    ]


def ports(name: str, count: int, host_count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """As a cloud management system creates them: MAC and address are the controller's to choose."""
    for each in range(count):
        yield (
            f"tenants/bench/ports/{name}-{each}",
            {"virtual_subnet": f"{name}/s{each // PORTS_OF_SUBNET}", "host": f"hosts/h{each % host_count}"},
        )


def run(context: Context) -> list[Figure]:
    settings = context.settings
    rates = []
    with processes.directory() as at, processes.controller(at):
        connection = UnixConnection(at / "controller.sock")
        connection.apply(body(hosts(HOSTS)))
        for number in range(settings.repeats):
            name = f"d{number}"
            connection.apply(body(domain(name, settings.ports)))
            made = list(ports(name, settings.ports, HOSTS))
            batches = [body(made[start : start + BATCH]) for start in range(0, len(made), BATCH)]
            began = time.perf_counter()
            for each in batches:
                connection.apply(each)
            rates.append(settings.ports / (time.perf_counter() - began))
            context.progress(f"controller {number + 1}/{settings.repeats}: {rates[-1]:,.0f} ports/s")
        connection.close()
        single = _single(at / "controller.sock", settings.requests)
    return [
        Figure(
            "controller_ports_created",
            statistics.median(rates),
            "ports/s",
            AtLeast(5_000),
            f"batches of {BATCH:,}, {settings.ports:,} ports a run, {len(rates)} runs into one controller, "
            f"{min(rates):,.0f}..{max(rates):,.0f}; SQLite on disk, synchronous=FULL",
        ),
        Figure("controller_single_put", single, "ports/s", ReportOnly("one PUT after the other, one client")),
    ]


def _single(path: Path, count: int) -> float:
    connection = UnixConnection(path)
    connection.apply(body(domain("single", count)))
    bodies = [(name, json.dumps({"spec": spec})) for name, spec in ports("single", count, HOSTS)]
    began = time.perf_counter()
    for name, each in bodies:
        connection.request("PUT", f"/v1/{name}", each, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 201:
            raise RuntimeError(f"the controller refused {name} with {answer.status}: {content[:500]!r}")
    took_s = time.perf_counter() - began
    connection.close()
    return count / took_s

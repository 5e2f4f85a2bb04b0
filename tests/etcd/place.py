"""A network of its own: a switch, and each controller and each etcd node on a machine (a namespace) of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebpf.harness import Netns
from etcd.controllers import Controller
from etcd_nodes import Cluster, Node, memory_directory
from polling import PATIENCE_S, eventually

NODES = tuple(f"10.99.0.{n + 1}" for n in range(3))
CONTROLLERS = tuple(f"10.99.0.{n + 11}" for n in range(2))
CLIENTS = "10.99.0.100"

PROBE = """
import sys, urllib.request
for url in sys.argv[1:]:
    urllib.request.urlopen(urllib.request.Request(url + "/v3/kv/range", data=b'{"key":"YQ=="}'), timeout=2)
"""


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE_S)


@dataclass
class Place:
    """hub: the namespace of the switch, where clients are. Others are named after it and the end of their address."""

    hub: str
    cluster: Cluster
    controllers: list[Controller]

    def machine(self, address: str) -> str:
        return f"{self.hub}-{address.rpartition('.')[2]}"

    def cut(self, address: str, others: Sequence[str] = ()) -> None:
        """Whatever goes in or out is dropped, and nobody is told. others: only what is from or to them."""
        which = (
            ("", "") if not others else (f"ip saddr {{ {', '.join(others)} }}", f"ip daddr {{ {', '.join(others)} }}")
        )
        nft = "add table ip cut; add chain ip cut in { type filter hook input priority 0; policy accept; };"
        nft += "add chain ip cut out { type filter hook output priority 0; policy accept; };"
        nft += f'add rule ip cut in iifname "eth0" {which[0]} drop; add rule ip cut out oifname "eth0" {which[1]} drop'
        run("ip", "netns", "exec", self.machine(address), "nft", nft)

    def mend(self, address: str) -> None:
        run("ip", "netns", "exec", self.machine(address), "nft", "delete table ip cut")

    def clients(self) -> contextlib.AbstractContextManager[None]:
        """This thread, and threads that it makes, are at the switch."""
        return Netns(self.hub).enter()

    def is_healthy(self) -> bool:
        """Whether each node answers a linearizable read."""
        return self.python(PROBE, *self.cluster.endpoints).returncode == 0

    def python(self, code: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Where clients are: from elsewhere nothing is reached."""
        return subprocess.run(
            ["ip", "netns", "exec", self.hub, sys.executable, "-c", code, *words],
            check=False,
            capture_output=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )


@contextlib.contextmanager
def _machines(hub: str) -> Iterator[None]:
    numbers = [address.rpartition(".")[2] for address in (*NODES, *CONTROLLERS)]
    names = [hub, *(f"{hub}-{number}" for number in numbers)]
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", hub, "addr", "add", f"{CLIENTS}/24", "dev", "br0")
        run("ip", "-n", hub, "link", "set", "br0", "up")
        for n in numbers:
            there = f"{hub}-{n}"
            run("ip", "-n", hub, "link", "add", f"v{n}", "type", "veth", "peer", "name", "eth0", "netns", there)
            run("ip", "-n", hub, "link", "set", f"v{n}", "master", "br0", "up")
            run("ip", "-n", there, "addr", "add", f"10.99.0.{n}/24", "dev", "eth0")
            run("ip", "-n", there, "link", "set", "eth0", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=PATIENCE_S)


@contextlib.contextmanager
def place(directory: Path) -> Iterator[Place]:
    hub = f"whist{os.getpid()}"
    state = memory_directory()

    def there(address: str) -> Sequence[str]:
        return ("ip", "netns", "exec", f"{hub}-{address.rpartition('.')[2]}")

    with _machines(hub):
        nodes = [
            Node(f"n{n}", f"http://{at}:2379", f"http://{at}:2380", state, wrapper=there(at))
            for n, at in enumerate(NODES)
        ]
        cluster = Cluster(nodes, state)
        store = f"etcd://{','.join(f'{at}:2379' for at in NODES)}/weft"
        controllers = [
            Controller(store, (f"http://{at}:8640",), directory / f"{n}.log", there(at), insecure=True)
            for n, at in enumerate(CONTROLLERS)
        ]
        made = Place(hub, cluster, controllers)
        try:
            cluster.start()
            eventually(made.is_healthy, "the etcd cluster answers", every_s=0.1)
            for each in controllers:
                each.start()
            for each in controllers:
                eventually(each.answers)
            yield made
        finally:
            for each in controllers:
                each.stop()
            cluster.stop()

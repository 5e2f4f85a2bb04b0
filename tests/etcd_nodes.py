"""A real etcd cluster on the loopback, or in namespaces, for tests: started, killed, paused and stopped by pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from bench.free_ports import free_ports

from polling import eventually


@dataclass
class Node:
    """One etcd. wrapper: words before the command, such as ip netns exec NAME."""

    name: str
    client: str
    peer: str
    directory: Path
    arguments: Sequence[str] = ()
    wrapper: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self, members: str) -> None:
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.wrapper, "etcd", "--name", self.name, "--data-dir", str(self.directory / self.name),
                    "--listen-client-urls", self.client, "--advertise-client-urls", self.client,
                    "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
                    "--initial-cluster", members, "--initial-cluster-state", "new",
                    "--heartbeat-interval", "100", "--election-timeout", "500",
                    "--logger", "zap", "--log-level", "error", *self.arguments,
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


@dataclass
class Cluster:
    nodes: list[Node]
    directory: Path
    _prefixes: int = 0
    _extra: list[str] = field(default_factory=list)

    @property
    def members(self) -> str:
        return ",".join(f"{node.name}={node.peer}" for node in self.nodes)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(node.client for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start(self.members)

    def is_healthy(self) -> bool:
        """Whether a linearizable read is answered, by each node."""
        for node in self.nodes:
            try:
                answer = httpx2.post(f"{node.client}/v3/kv/range", content=b'{"key":"YQ=="}', timeout=2, verify=False)
            except httpx2.HTTPError:
                return False
            if answer.status_code != 200:
                return False
        return True

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def fresh_prefix(self) -> str:
        self._prefixes += 1
        return f"/t{os.getpid()}-{self._prefixes}"


def memory_directory() -> Path:
    """In memory where there is such a place: a cluster's speed is then not the disk's."""
    return Path(tempfile.mkdtemp(prefix="weft-etcd-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))


@contextlib.contextmanager
def cluster(size: int = 3, arguments: Sequence[str] = ()) -> Iterator[Cluster]:
    directory = memory_directory()
    ports = free_ports(2 * size)
    nodes = [
        Node(f"n{n}", f"http://127.0.0.1:{ports[2 * n]}", f"http://127.0.0.1:{ports[2 * n + 1]}", directory, arguments)
        for n in range(size)
    ]
    made = Cluster(nodes, directory)
    try:
        made.start()
        eventually(made.is_healthy, "the etcd cluster answers", every_s=0.1)
        yield made
    finally:
        made.stop()

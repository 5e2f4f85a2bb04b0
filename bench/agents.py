"""Real agents on a deployment's controller: each with its eBPF data plane in a network namespace. Decides nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes, topology
from weft.dataplane.ebpf import layout, libbpf, maps
from weft.lab import shell
from weft.policy.rows import Record

PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Agent:
    """records: the kernel's map, since what is programmed is asked of the kernel, not of the agent."""

    pid: int
    records: libbpf.Map

    def count(self) -> int:
        return sum(count for _, _, count in self.records.chunks())

    def has(self, vsid: int, ca: str) -> bool:
        key, _ = layout.record(Record(vsid, ca, "100.64.0.1", "02:00:00:00:00:01"))
        return self.records.lookup(key) is not None


@contextmanager
def agent(at: Path, host: str, records: int) -> Iterator[Agent]:
    """Of a controller whose socket is in ``at``; has programmed so many records."""
    name = f"{processes.PREFIX}{os.getpid()}-{host}"
    pins, home = shell.BPF_FILESYSTEM / name, at / f"agent-{host}"
    topology.sweep()
    shell.mount_bpf_filesystem()
    home.mkdir()
    with ExitStack() as stack:
        stack.callback(shell.remove_tree, pins)
        stack.callback(shell.delete_namespaces, [name])
        shell.ip_batch([f"netns add {name}"])
        shell.ip_batch(
            ["link set lo up", "link add eth0 type veth peer name fabric", "link set eth0 up", "link set fabric up"],
            name,
        )
        words = [
            "agent", "--host", host, "--controller", f"unix://{at / 'controller.sock'}", "--state", str(home),
            "--run", str(home), "--pins", str(pins),
        ]  # fmt: skip
        process = stack.enter_context(processes.weft(at / f"agent-{host}.log", words, shell.inside(name, [])))

        def begun() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"the agent of {host} has ended with {process.returncode}")
            return pins.is_dir() and any((each / "records").exists() for each in maps.generations(pins))

        processes.wait(begun, f"the agent of {host} has its maps", PATIENCE_S)
        (generation,) = maps.generations(pins)
        found = Agent(process.pid, libbpf.Map.of("records", libbpf.pinned(generation / "records")))
        stack.callback(found.records.close)
        processes.wait(lambda: found.count() >= records, f"{host} has {records:,} records", PATIENCE_S, 0.2)
        yield found

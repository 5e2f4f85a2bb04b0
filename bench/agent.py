"""agent: a real agent process, a million rows from a real feed, until it says that all of them are programmed."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes, rows, topology
from bench.context import Context
from bench.report import AtMost, Figure
from weft.dataplane.ebpf import libbpf, maps
from weft.feed.log import FeedLog, Limits
from weft.lab import shell
from weft.policy.rows import Row, domain_scope, host_scope

HOST = "hosts/bench"
REVISION = 7
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Programmed:
    seconds: float  # from the agent's request to its report
    since_start_s: float  # from the process's start to its report
    memory_bytes: int


def run(context: Context) -> list[Figure]:
    count = context.settings.records
    figures = []
    for name, records, macs in (("ports", count // 2, count // 2), ("records", count, 0)):
        what = f"{records:,} records" + (f" and {macs:,} MAC records" if macs else "")
        context.progress(f"agent: encoding {what}")
        feed = _feed(records, macs)
        runs = []
        for number in range(context.settings.repeats):
            runs.append(_once(feed, records, macs))
            context.progress(
                f"agent, {what} {number + 1}/{context.settings.repeats}: "
                f"{runs[-1].seconds:.2f} s, {runs[-1].memory_bytes / 2**30:.2f} GiB"
            )
        seconds = [each.seconds for each in runs]
        memory = max(each.memory_bytes for each in runs)
        start = statistics.median(each.since_start_s - each.seconds for each in runs)
        figures += [
            Figure(
                f"agent_{name}_seconds",
                statistics.median(seconds),
                "s",
                AtMost(10),
                f"{what}: {min(seconds):.2f}..{max(seconds):.2f} s in {len(seconds)} runs; "
                f"{start:.2f} s more from the process's start to its request",
            ),
            Figure(f"agent_{name}_rss", memory / 2**30, "GiB", AtMost(1.2), f"{what}: the highest VmHWM of the runs"),
        ]
    return figures


def _feed(records: int, macs: int) -> FeedLog:
    """The log that a controller serves from, with everything encoded once, as for the second host that asks."""
    scopes: dict[str, list[Row]] = {
        host_scope(HOST): rows.host(HOST),
        domain_scope(rows.RDID): [
            *rows.subnets(records),
            *rows.records(records),
            *rows.macs(macs),
            *rows.routes(records),
        ],
    }
    limits = Limits(snapshot_rows=2 * (records + macs) + 10_000)
    log = FeedLog(lambda scope: scopes[scope], lambda _: frozenset(scopes), REVISION, limits=limits)

    async def encode() -> None:
        stream = log.stream(HOST)
        async for chunk in stream:
            if chunk.endswith(b"true}\n") and b'"synced"' in chunk[-40:]:
                break
        await stream.aclose()

    asyncio.run(encode())
    scopes.clear()  # what is encoded is kept by the log
    scopes.update({host_scope(HOST): [], domain_scope(rows.RDID): []})
    return log


def _once(feed: FeedLog, records: int, macs: int) -> Programmed:
    name = f"{processes.PREFIX}{os.getpid()}-agent"
    pins = shell.BPF_FILESYSTEM / name
    topology.sweep()
    shell.mount_bpf_filesystem()
    server = _Server(feed)
    with processes.directory() as at, _namespace(name), _removed(pins), server.serving(at / "feed.sock"):
        words = [
            "agent", "--host", "bench", "--controller", f"unix://{at / 'feed.sock'}", "--state", str(at),
            "--run", str(at), "--pins", str(pins), "--size", f"records={records + 1000}",
            "--size", f"macs={macs + 1000}",
        ]  # fmt: skip
        began = time.monotonic()
        with processes.weft(at / "agent.log", words, shell.inside(name, [])) as process:
            while not server.reported.wait(0.2):
                if process.poll() is not None:
                    raise RuntimeError(f"the agent has ended with {process.returncode}")
                if time.monotonic() > began + PATIENCE_S:
                    raise RuntimeError(f"the agent did not report revision {REVISION} within {PATIENCE_S:g} s")
            found = Programmed(
                server.reported_at - server.asked_at,
                server.reported_at - began,
                processes.memory_peak_bytes(process.pid),
            )
            _check(pins, records, macs)
    return found


def _check(pins: Path, records: int, macs: int) -> None:
    """That it is there is asked of the kernel, not of the agent."""
    (generation,) = maps.generations(pins)
    for table, expected in (("records", records), ("macs", macs)):
        of = libbpf.Map.of(table, libbpf.pinned(generation / table))
        try:
            there = sum(count for _, _, count in of.chunks())
        finally:
            of.close()
        if there != expected:
            raise RuntimeError(f"the agent said that all is programmed; there are {there} of {expected} {table}")


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    """With an uplink, as the Host row wants one."""
    shell.ip_batch([f"netns add {name}"])
    try:
        shell.ip_batch(
            ["link set lo up", "link add eth0 type veth peer name fabric", "link set eth0 up", "link set fabric up"],
            name,
        )
        yield
    finally:
        shell.delete_namespaces([name])


@contextmanager
def _removed(pins: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shell.remove_tree(pins)


@dataclass(slots=True)
class _Server:
    """As much of a controller as an agent asks for: its feed, and an ear for its report."""

    feed: FeedLog
    reported: threading.Event = field(default_factory=threading.Event)
    asked_at: float = 0.0
    reported_at: float = 0.0

    @contextmanager
    def serving(self, path: Path) -> Iterator[None]:
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        ready = threading.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(self._serve(path, stop, ready),))
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()

    async def _serve(self, path: Path, stop: asyncio.Event, ready: threading.Event) -> None:
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._answer(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_unix_server(connected, path)
        ready.set()
        await stop.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # what they cancelled in turn ends as well

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    length = 0
                    for line in head.split("\r\n"):
                        key, _, value = line.partition(":")
                        if key.lower() == "content-length":
                            length = int(value)
                    body = await reader.readexactly(length)
                    if head.startswith("GET") and "/feed" in head:
                        await self._send(writer)
                    else:
                        self._heard(body)
                        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        finally:
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        self.asked_at = time.monotonic()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
        async with aclosing(self.feed.stream(HOST)) as chunks:
            async for chunk in chunks:
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()

    def _heard(self, body: bytes) -> None:
        if json.loads(body or b"{}").get("revision") == REVISION and not self.reported.is_set():
            self.reported_at = time.monotonic()
            self.reported.set()

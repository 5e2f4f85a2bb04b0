"""records: how fast records go into the kernel's map, through the eBPF data plane."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench import processes, rows, topology
from bench.context import Context
from bench.report import AtLeast, Figure, ReportOnly
from weft.dataplane.ebpf import layout
from weft.dataplane.ebpf.libbpf import Map
from weft.dataplane.ebpf.maps import Sizes
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.lab import shell
from weft.policy.rows import Record

_BATCH = 16_384


def run(context: Context) -> list[Figure]:
    count = context.settings.records
    context.progress(f"records: making {count:,} rows")
    typed = list(rows.records(count))
    batches = list(_encoded(typed))
    with _plane(count) as plane:
        of: Map = plane._records.records.map  # noqa: SLF001 - below update(): what the kernel takes, without our own checks
        bare = _repeated(context, "encoded", count, lambda: _put(of, batches), lambda: _clear(of, batches))
        whole = _repeated(context, "rows", count, lambda: _update(plane, typed), lambda: _delete(plane, typed))
        again = _repeated(context, "unchanged rows", count, lambda: _update(plane, typed), lambda: None, fill=True)
    return [
        Figure(
            "records_into_kernel",
            statistics.median(bare),
            "records/s",
            AtLeast(1_000_000, "aim higher"),
            f"encoded records, batches of {_BATCH:,}, {_range(bare)}",
        ),
        Figure(
            "records_through_update",
            statistics.median(whole),
            "records/s",
            ReportOnly("typed rows: encoded, compared with what was told, put"),
            _range(whole),
        ),
        Figure(
            "records_unchanged_through_update",
            statistics.median(again),
            "records/s",
            ReportOnly("typed rows that are programmed already"),
            _range(again),
        ),
    ]


@contextmanager
def _plane(count: int) -> Iterator[EbpfDataPlane]:
    """Maps and programs of a host, attached to nothing."""
    topology.sweep()
    shell.mount_bpf_filesystem()
    pins = shell.BPF_FILESYSTEM / f"{processes.PREFIX}{os.getpid()}-records"
    plane = EbpfDataPlane(pins, Sizes(records=count + 100_000))
    try:
        yield plane
    finally:
        plane.remove()


def _encoded(typed: list[Record]) -> Iterator[tuple[bytes, bytes, int]]:
    for start in range(0, len(typed), _BATCH):
        entries = [layout.record(row) for row in typed[start : start + _BATCH]]
        yield b"".join(key for key, _ in entries), b"".join(value for _, value in entries), len(entries)


def _repeated(
    context: Context, what: str, count: int, put: Callable[[], None], clear: Callable[[], None], *, fill: bool = False
) -> list[float]:
    if fill:
        put()
    rates = []
    for number in range(context.settings.repeats):
        began = time.perf_counter()
        put()
        rates.append(count / (time.perf_counter() - began))
        clear()
        context.progress(f"records, {what} {number + 1}/{context.settings.repeats}: {rates[-1]:,.0f}/s")
    return rates


def _put(of: Map, batches: list[tuple[bytes, bytes, int]]) -> None:
    for keys, values, count in batches:
        result = of.update_batch(keys, values, count)
        if result.done != count:
            raise RuntimeError(f"the kernel took {result.done} of {count} records: {os.strerror(result.errno)}")


def _clear(of: Map, batches: list[tuple[bytes, bytes, int]]) -> None:
    for keys, _, count in batches:
        of.delete_batch(keys, count)


def _update(plane: EbpfDataPlane, typed: list[Record]) -> None:
    failures = plane.update(typed)
    if failures:
        raise RuntimeError(f"{len(failures)} records were refused; the first: {failures[0]}")


def _delete(plane: EbpfDataPlane, typed: list[Record]) -> None:
    plane.delete(row.key for row in typed)


def _range(rates: list[float]) -> str:
    return f"{min(rates):,.0f}..{max(rates):,.0f} in {len(rates)} runs"

"""growth: what ports cost, at ten times the last step each: to create, to hold, to start again with. And the plot.

Up to 1,000,000 ports, in one controller over SQLite and over etcd.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.context import Context
from bench.controller import UnixConnection, body, hosts
from bench.fleet import etcd, serving
from bench.report import AtMost, Figure, ReportOnly

PLOT = "growth.svg"
HOSTS = 500
PORTS_OF_SUBNET = 4_000
SUBNETS_OF_TENANT = 5
BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """created_cpu_s: of the controller. rss: its VmHWM after it was started with so many ports, in bytes."""

    ports: int
    created_s: float
    created_cpu_s: float
    start_s: float
    rss: int


def run(context: Context) -> list[Figure]:
    last_power = round(math.log10(context.settings.growth_ports))
    steps = [10**power for power in range(min(3, last_power - 1), last_power + 1)]
    found: dict[str, list[Step]] = {}
    for name in ("sqlite", "etcd"):
        found[name] = []
        for ports in steps:
            found[name].append(_step(name, ports))
            last = found[name][-1]
            context.progress(
                f"growth, {name}, {ports:,} ports: {ports / last.created_s:,.0f} a second, "
                f"started in {last.start_s:.1f} s, {last.rss / 2**20:,.0f} MiB"
            )
    context.build.mkdir(exist_ok=True)
    (context.build / PLOT).write_text(plot(found), encoding="utf-8")
    figures: list[Figure] = []
    for name, measured in found.items():
        first, last = measured[0], measured[-1]
        detail = "; ".join(f"{each.ports:,}: {each.ports / each.created_s:,.0f} ports/s" for each in measured)
        slope = (last.rss - first.rss) / (last.ports - first.ports)
        figures += [
            Figure(f"growth_{name}_created", last.created_s, "s", ReportOnly(f"{last.ports:,} ports"), detail),
            Figure(
                f"growth_{name}_slowdown",
                (last.created_s / last.ports) / (measured[-2].created_s / measured[-2].ports),
                "ratio",
                AtMost(1.5),
                f"a port's cost at {last.ports:,} : at {measured[-2].ports:,}; plotted in {PLOT}",
            ),
            Figure(
                f"growth_{name}_cpu_a_port",
                last.created_cpu_s * 1e6 / last.ports,
                "us",
                ReportOnly("of the controller's CPU, to create it"),
                "; ".join(f"{each.ports:,}: {each.created_cpu_s * 1e6 / each.ports:.0f} us" for each in measured),
            ),
            Figure(
                f"growth_{name}_start",
                last.start_s,
                "s",
                ReportOnly(f"a start with {last.ports:,} ports"),
                "; ".join(f"{each.ports:,}: {each.start_s:.1f} s" for each in measured),
            ),
            Figure(
                f"growth_{name}_bytes_a_port",
                slope,
                "bytes",
                ReportOnly("of the controller's memory"),
                "; ".join(f"{each.ports:,}: {each.rss / 2**20:,.0f} MiB" for each in measured),
            ),
        ]
    return figures


def _step(name: str, ports: int) -> Step:
    with processes.directory() as at:
        if name == "etcd":
            with etcd(at) as store:
                return _measure(at, store, ports)
        return _measure(at, str(at / "controller.db"), ports)


def _measure(at: Path, store: str, ports: int) -> Step:
    with serving(at, store) as process:
        used = processes.cpu_seconds(process.pid)
        created_s = _create(at / "controller.sock", ports)
        cpu_s = processes.cpu_seconds(process.pid) - used
    began = time.perf_counter()
    with serving(at, store) as process:
        start_s = time.perf_counter() - began
        return Step(ports, created_s, cpu_s, start_s, processes.memory_peak_bytes(process.pid))


def _create(path: Path, ports: int) -> float:
    connection = UnixConnection(path)
    connection.apply(body(hosts(HOSTS)))
    of_tenant = PORTS_OF_SUBNET * SUBNETS_OF_TENANT
    for tenant in range(-(-ports // of_tenant)):
        domain = f"tenants/t{tenant}/routing-domains/d"
        subnets = [
            (f"{domain}/virtual-subnets/s{n}", {"prefixes": [f"10.{n}.0.0/16"]}) for n in range(SUBNETS_OF_TENANT)
        ]
        connection.apply(body([(f"tenants/t{tenant}", {}), (domain, {}), *subnets]))
    took_s = 0.0
    for first in range(0, ports, BATCH):
        # Made one by one: a million of them would cost the bench more memory than the controller.
        made = body(
            [
                (
                    f"tenants/t{number // of_tenant}/ports/p{number % of_tenant}",
                    {"virtual_subnet": f"d/s{number % of_tenant // PORTS_OF_SUBNET}", "host": f"h{number % HOSTS}"},
                )
                for number in range(first, min(first + BATCH, ports))
            ]
        )
        began = time.perf_counter()
        connection.apply(made)
        took_s += time.perf_counter() - began
    connection.close()
    return took_s


# The plot: small ones side by side, both axes by powers of ten

_WIDTH, _HEIGHT = 270, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 44, 52
_COLOURS = {"sqlite": "#1f6feb", "etcd": "#d1242f"}


def plot(found: dict[str, list[Step]]) -> str:
    """SVG. found: steps by store."""
    wanted: Sequence[tuple[str, Callable[[Step], float]]] = (
        ("created, s", lambda step: step.created_s),
        ("CPU to create one, us", lambda step: step.created_cpu_s * 1e6 / step.ports),
        ("started again, s", lambda step: step.start_s),
        ("memory, MiB", lambda step: step.rss / 2**20),
    )
    drawn = "".join(_panel(rank, title, of, found) for rank, (title, of) in enumerate(wanted))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{len(wanted) * _WIDTH}" height="{_HEIGHT}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>{drawn}</svg>\n'
    )


def _panel(rank: int, title: str, of: Callable[[Step], float], found: dict[str, list[Step]]) -> str:
    steps = [step for each in found.values() for step in each]
    xs = [math.log10(step.ports) for step in steps]
    ys = [math.log10(max(of(step), 1e-3)) for step in steps]
    left, right, low, high = min(xs), max(xs), math.floor(min(ys)), math.ceil(max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1)
        up = (y - low) / ((high - low) or 1)
        return (
            rank * _WIDTH + _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    middle = rank * _WIDTH + (_WIDTH + _LEFT - _RIGHT) / 2
    parts = [
        f'<text x="{middle:.0f}" y="18" text-anchor="middle" font-weight="bold">{title}</text>',
        f'<text x="{middle:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">ports</text>',
    ]
    for power in range(low, high + 1):
        (x1, y), (x2, _) = at(left, power), at(right, power)
        parts.append(f'<line x1="{x1:.0f}" y1="{y:.0f}" x2="{x2:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x1 - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{_short(10.0**power)}</text>')
    for power in range(math.ceil(left), math.floor(right) + 1):
        x, y = at(power, low)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{_short(10**power)}</text>')
    for row, (name, measured) in enumerate(found.items()):
        points = [at(math.log10(step.ports), math.log10(max(of(step), 1e-3))) for step in measured]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{_COLOURS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_COLOURS[name]}"/>' for x, y in points]
        x, _ = at(left, high)
        parts.append(f'<text x="{x + 50 * row:.0f}" y="34" fill="{_COLOURS[name]}">{name}</text>')
    return "".join(parts)


def _short(value: float) -> str:
    """10k, 1M: what fits under an axis."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"

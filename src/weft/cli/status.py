"""weft status: is all well? The controller, its hosts, how far each has got, and its ports. Changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from weft.cli import references, session, show
from weft.cli.session import Output
from weft.model.names import Kind

if TYPE_CHECKING:
    from weft.client import Item


@click.command()
@session.with_output(Output.YAML)
@session.with_controller
def status(output: Output, url: str) -> None:
    """Show the controller, the hosts, how many ports are active, and what was dropped.

    \b
    weft status -o json
    """
    with session.controller(url) as client, session.busy("asking the controller"):
        health = client.health()
        hosts = list(client.list(references.collection(Kind.HOST), limit=1000))
        ports = list(client.list(references.collection(Kind.PORT), limit=1000))
    summary = summarize(health, hosts, ports, url)
    show.as_asked(summary, output, lambda: show_summary(summary))


def summarize(health: dict[str, Any], hosts: list[Item], ports: list[Item], url: str) -> dict[str, Any]:
    """lag: how many revisions a host has yet to apply; None when it never reported."""
    revision = health.get("revision")
    counted: dict[str, Counter[str]] = {host.name: Counter() for host in hosts}
    for port in ports:
        place = port.spec.get("host")
        if place is not None and place in counted:
            counted[place][port.status.get("state", "unknown")] += 1
    rows = []
    for host in hosts:
        applied = host.status.get("applied_revision")
        lag = None if applied is None or revision is None else max(0, revision - applied)
        rows.append({
            "host": host.name, "state": host.status.get("state", "unknown"), "applied_revision": applied, "lag": lag,
            "ports": dict(counted[host.name]), "failures": host.status.get("failures", []),
            "drops": host.status.get("drops", {}),
        })  # fmt: skip
    states = Counter(port.status.get("state", "unknown") for port in ports if port.spec.get("host"))
    faults = [
        {"port": port.name, "state": port.status.get("state", "unknown"), "reason": port.status.get("reason", "")}
        for port in ports
        if port.spec.get("host") and port.status.get("state", "unknown") not in {"active", "down"}
    ]
    return {"controller": {"url": url, **health}, "hosts": rows, "ports": dict(states), "not_active": faults}


#: A table of a thousand sick ports helps nobody; --output json has them all.
MOST_FAULTS = 20


def show_summary(summary: dict[str, Any]) -> None:
    """For people."""
    facts = " ".join(f"{key} {value}" for key, value in summary["controller"].items() if key != "url")
    click.echo(f"controller {summary['controller']['url']}  {facts}")
    rows = []
    for host in summary["hosts"]:
        active, total = host["ports"].get("active", 0), sum(host["ports"].values())
        rows.append([
            references.short(host["host"]), host["state"], host["applied_revision"], host["lag"], f"{active}/{total}",
            len(host["failures"]), sum(host["drops"].values()),
        ])  # fmt: skip
    columns = ["host", "state", "applied", "lag", "ports active", "failures", "drops"]
    show.table(columns, rows, nothing="no hosts")
    for host in summary["hosts"]:
        if host["drops"]:
            most = sorted(host["drops"].items(), key=lambda each: -each[1])
            counts = ", ".join(f"{reason} {count}" for reason, count in most)
            click.echo(f"{references.short(host['host'])} has dropped: {counts}")
    for host in summary["hosts"]:
        for failure in host["failures"][:MOST_FAULTS]:
            click.echo(f"{references.short(host['host'])}: {_what(failure['key'])}{failure['reason']}")
    if faults := summary["not_active"]:
        rows = [[references.short(each["port"]), each["state"], each["reason"]] for each in faults[:MOST_FAULTS]]
        show.table(["port", "state", "reason"], rows)
        if len(faults) > MOST_FAULTS:
            click.echo(f"and {len(faults) - MOST_FAULTS} more")


def _what(key: list[str | int]) -> str:
    """Of a host's failure: which row, unless that is the host's own."""
    return "" if key[0] == "hosts" else f"{'/'.join(map(str, key))}: "

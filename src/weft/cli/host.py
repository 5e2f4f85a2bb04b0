"""weft attach, detach, counters, hits, denials and heard: asked of the agent of this host. Needs no controller."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from weft.cli import agent_socket, references, session, show
from weft.cli.session import Output
from weft.model.names import Kind


@click.command()
@click.argument("port")
@click.argument("interface")
@session.with_output()
@agent_socket.with_agent
def attach(port: str, interface: str, output: Output, agent: str) -> None:
    """Tell this host's agent which interface is a port's.

    \b
    weft attach blue/web-1 vnet7
    """
    name = references.full(port, Kind.PORT)
    agent_socket.ask(agent, "POST", "/attach", {"port": name, "interface": interface})
    facts = {"port": name, "interface": interface}
    show.as_said(facts, f"{references.short(name)} is attached to {interface}", output)


@click.command()
@click.argument("port")
@session.with_output()
@agent_socket.with_agent
def detach(port: str, output: Output, agent: str) -> None:
    """Take back an attachment made by hand.

    \b
    weft detach blue/web-1
    """
    name = references.full(port, Kind.PORT)
    agent_socket.ask(agent, "POST", "/detach", {"port": name})
    show.as_said({"port": name}, f"{references.short(name)} is detached", output)


@click.command()
@session.with_output(Output.YAML)
@agent_socket.with_agent
def counters(output: Output, agent: str) -> None:
    """Show this host's traffic by port and uplink, and its drops by reason."""
    found: dict[str, dict[str, Any]] = agent_socket.ask(agent, "GET", "/counters") or {}

    def drawn() -> None:
        rows = [
            [
                references.short(name),
                *(traffic.get(key, 0) for key in _TRAFFIC),
                [f"{reason} {count}" for reason, count in traffic.get("drops", {}).items() if count],
            ]
            for name, traffic in sorted(found.items())
        ]
        show.table(["port", *(key.replace("_", " ") for key in _TRAFFIC), "drops"], rows)

    show.as_asked(found, output, drawn)


@click.command()
@session.with_output(Output.YAML)
@agent_socket.with_agent
def heard(output: Output, agent: str) -> None:
    """Show the machines that this host has heard in VLANs behind its uplinks."""
    found: dict[str, Any] = agent_socket.ask(agent, "GET", "/heard")

    def drawn() -> None:
        rows = [[each[key] for key in _HEARD] for each in found["learned"]]
        show.table(
            ["vsid", "mac", "uplink", "seconds ago"],
            rows,
            nothing="nobody was heard: this host has no subnet of rule vlan, or none behind the switch has spoken",
        )

    show.as_asked(found, output, drawn)


@click.command()
@session.with_output(Output.YAML)
@agent_socket.with_agent
def hits(output: Output, agent: str) -> None:
    """Show how often each rule of a security group has decided on this host.

    A packet of a connection that is known asks no rule: of stateful groups it is connections that count.
    """
    found: dict[str, int] = agent_socket.ask(agent, "GET", "/rules") or {}

    def drawn() -> None:
        denied: Counter[str] = Counter()
        for by_rule in (agent_socket.ask(agent, "GET", "/denials") or {}).values():
            denied.update(by_rule)
        rows = [[references.short(name), count, denied[name]] for name, count in found.items()]
        show.table(
            ["rule", "hits", "packets denied"], rows, nothing="no port on this host has a security group with rules"
        )

    show.as_asked(found, output, drawn)


@click.command()
@session.with_output(Output.YAML)
@agent_socket.with_agent
def denials(output: Output, agent: str) -> None:
    """Show what security groups have not let pass on this host, and by which rule.

    What no rule allows is under the empty name in JSON and YAML.
    """
    found: dict[str, dict[str, int]] = agent_socket.ask(agent, "GET", "/denials") or {}

    def drawn() -> None:
        rows = [
            [references.short(port), references.short(rule) if rule else "(no rule allows them)", count]
            for port, by_rule in found.items()
            for rule, count in by_rule.items()
        ]
        show.table(
            ["port", "rule", "packets denied"],
            rows,
            nothing="security groups have let every packet pass on this host",
        )

    show.as_asked(found, output, drawn)


_HEARD = ("vsid", "mac", "interface", "age_s")
_TRAFFIC = ("received_packets", "received_bytes", "sent_packets", "sent_bytes")

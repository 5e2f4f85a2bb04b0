"""weft conntrack list, flush and watch: the connections of this host's ports, from its agent. Needs no controller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import click

from weft.cli import agent_socket, references, session, show
from weft.cli.ends import ends
from weft.cli.session import Output
from weft.kit.errors import Retry
from weft.model.names import Kind, label_of

if TYPE_CHECKING:
    from weft.wire.listed import Connections

F = TypeVar("F", bound=Callable[..., Any])

#: A restart takes an agent seconds; an upgrade some more.
_PATIENCE_S = 60.0
_POLL_S = 0.2


def _filtered(command: F) -> F:
    for option in (
        click.option("--state", help="In this state: established, syn_sent, udp_replied, expected (of FTP)..."),
        click.option("--protocol", help="Of this one: tcp, udp, icmp, icmpv6, sctp, or a number."),
        click.option("--address", help="Of the guest, or of whom it talks to."),
        click.option("--port", help="Of this port, such as blue/web-1."),
        click.option("--tenant", help="Of this tenant's ports, such as blue."),
    ):
        command = option(command)
    return command


def _query(**given: str | None) -> str:
    if given.get("port") is not None:
        given["port"] = references.full(str(given["port"]), Kind.PORT)
    if given.get("tenant") is not None:
        given["tenant"] = label_of(references.full(str(given["tenant"]), Kind.TENANT))
    asked = {name: value for name, value in given.items() if value is not None}
    return f"?{urlencode(asked)}" if asked else ""


@click.group(cls=session.Commands)
def conntrack() -> None:
    """Connections of this host's ports: list, flush, watch."""


@conntrack.command("list")
@_filtered
@session.with_output(Output.YAML)
@agent_socket.with_agent
def list_(output: Output, agent: str, **filters: str | None) -> None:
    """Show connections: who talks to whom, in which state, how much, and by which rule.

    \b
    weft conntrack list --port blue/web-1 --state established
    """
    from weft.wire.listed import MOST_OF_HOST

    found: list[dict[str, Any]] = agent_socket.ask(agent, "GET", f"/connections{_query(**filters)}") or []
    asked = any(each is not None for each in filters.values())
    _print(found, output, "no connections like that now" if asked else "no connections")
    if len(found) >= MOST_OF_HOST:
        click.echo(
            f"no more than {MOST_OF_HOST} are listed: there may be others; --port, --address... narrow it", err=True
        )


def print_listed(listed: Connections, output: Output) -> None:
    """What the controller was told by a port's host."""
    import msgspec

    _print(msgspec.to_builtins(listed.connections), output, "no connections of it now")
    if output not in (Output.JSON, Output.YAML) and listed.total > len(listed.connections):
        click.echo(f"and {listed.total - len(listed.connections)} more")


def _print(found: list[dict[str, Any]], output: Output, none: str) -> None:
    def drawn() -> None:
        nothing = f"{none}: only those of ports with security groups are kept"
        rows = [[*_row(each), int(each["expires_s"]), _rule(each)] for each in found]
        show.table(list(_COLUMNS), rows, nothing=nothing)

    show.as_asked(found, output, drawn)


_COLUMNS = ("port", "protocol", "state", "guest", "", "other", "sent", "received", "expires s", "rule")


_ENDS = ("protocol", "state", "begun_by", "local", "local_port", "remote", "remote_port")


def _row(of: dict[str, Any]) -> list[Any]:
    return [
        references.short(of["port"]) if of["port"] else "",
        of["protocol"],
        f"{of['state']}{', refused' if of['refused'] else ''}",
        *ends(**{field: of[field] for field in _ENDS}),
        f"{of['sent']['packets']} ({of['sent']['bytes']} B)",
        f"{of['received']['packets']} ({of['received']['bytes']} B)",
    ]


def _rule(of: dict[str, Any]) -> str:
    return references.short(of["rule_name"]) if of.get("rule_name") else str(of["rule"] or "")


@conntrack.command()
@_filtered
@session.with_output()
@agent_socket.with_agent
def flush(output: Output, agent: str, **filters: str | None) -> None:
    """Forget connections: what goes on of them must be let begin again by the rules. Without a filter: all of them.

    \b
    weft conntrack flush --port blue/web-1
    """
    done = agent_socket.ask(agent, "POST", f"/connections/flush{_query(**filters)}")
    show.as_said(done, _forgotten(done["forgotten"]), output)


def _forgotten(count: int) -> str:
    return "1 connection is forgotten" if count == 1 else f"{count} connections are forgotten"


@conntrack.command()
@_filtered
@session.with_output()
@agent_socket.with_agent
def watch(output: Output, agent: str, **filters: str | None) -> None:
    """Show what becomes of connections, as it happens: new, established, expects (FTP), destroyed.

    When the agent is restarted it goes on once that is back, and says so. `missed`: more came than could be told.

    \b
    weft conntrack watch --protocol tcp
    """
    for event in _events(agent, f"/connections/events{_query(**filters)}"):
        if output is Output.JSON:
            show.as_json_line(event)
        elif event["event"] == "missed":
            how_many = "some events" if event["count"] is None else f"{event['count']} events"
            click.echo(f"{'missed':<12} {how_many}")
        else:
            click.echo(f"{event['event']:<12} {'  '.join(map(str, [*_row(event), _rule(event)]))}")


def _events(agent: str, target: str) -> Iterator[dict[str, Any]]:
    """Of this agent, and of the next in its place. Raises Retry when there is none, or it is away for too long."""
    followed = False
    while True:
        try:
            for event in agent_socket.follow(agent, target):
                if event is not None:
                    yield event
                elif not followed:
                    click.echo("watching the connections of this host", err=True)
                else:
                    click.echo("it is back; what has happened meanwhile is not known", err=True)
                    yield {"event": "missed", "count": None}
                followed = True
        except Retry as gone:
            if not followed:
                raise
            click.echo(f"{gone}; waiting for it to come back", err=True)
            _await_agent(agent)


def _await_agent(agent: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not _answers(agent, deadline_s):
        time.sleep(_POLL_S)


def _answers(agent: str, deadline_s: float) -> bool:
    try:
        agent_socket.ask(agent, "GET", "/healthz")
    except Retry as gone:
        if time.monotonic() > deadline_s:
            raise Retry(f"{gone}, for {_PATIENCE_S:.0f} s by now") from gone
        return False
    return True

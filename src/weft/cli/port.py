"""weft port move: a port goes to another host, with nothing lost that is on its way to it. Moves no guest itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weft.cli import complete, references, session, show
from weft.cli.session import Commands, ExitCode, Failed, Output
from weft.kit.errors import Rejected, Retry
from weft.model.names import Kind

if TYPE_CHECKING:
    from weft.client import ApiError, Client, Item


@click.group(cls=Commands)
def port() -> None:
    """Ports: move them from host to host, see their connections."""


@port.command()
@click.argument("name", metavar="PORT", shell_complete=complete.ports)
@click.argument("host", required=False)
@click.option(
    "--begin", "step", flag_value="begin", help="Only make both hosts ready; then move the guest, and --finish."
)
@click.option("--finish", "step", flag_value="finish", help="The guest runs on the new host: end the move.")
@click.option("--cancel", "step", flag_value="cancel", help="The guest stays where it is: end the move.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until every host has followed.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds until it must be ready.",
)
@click.option(
    "--patience", "patience_s", type=click.FloatRange(0), default=10.0, show_default=True,
    help="Seconds to wait for hosts that have no connected agent.",
)  # fmt: skip
@session.with_output()
@session.with_controller
def move(
    name: str,
    host: str | None,
    step: str | None,
    wait: bool,
    timeout_s: float,
    patience_s: float,
    output: Output,
    url: str,
) -> None:
    """Move a port to another host: both are made ready, then it is there.

    Packets for the port go to both hosts in between, so none is lost. A virtual machine moves in two steps:
    `weft port move blue/web-1 h2 --begin`, then its migration, then `weft port move blue/web-1 --finish`; what is not
    ready in time is taken back. --no-wait: what is under way meanwhile may be lost.

    \b
    weft port move blue/web-1 h2 --begin
    weft port move blue/web-1 --finish
    """
    from weft.client import moves

    full = references.full(name, Kind.PORT)
    if (host is None) != (step in ("finish", "cancel")):
        raise click.UsageError(
            f"--{step} needs no host: the move knows it" if host else "to which host? weft port move blue/web-1 h2"
        )
    with session.controller(url) as client:
        to = None if host is None else references.full(host, Kind.HOST)
        if to is not None:
            ours = _begun(client, full, to)
            if wait:
                _await_ready(client, full, to, timeout_s, patience_s, ours=ours)
        match step:
            case "begin":
                item = client.get(full)
            case "cancel":
                item = moves.cancel(client, full)
            case _:
                item = _finish(client, full, to)
                if wait:
                    item = moves.await_arrived(client, full, timeout_s=timeout_s)
    _print(item, output)


@port.command()
@click.argument("name", metavar="PORT", shell_complete=complete.ports)
@session.with_output(Output.YAML)
@session.with_controller
def connections(name: str, output: Output, url: str) -> None:
    """Show a port's connections, wherever it is: as weft conntrack list does on its host.

    Only ports with security groups have connections that are known.

    \b
    weft port connections blue/web-1
    """
    from weft.cli import conntrack
    from weft.wire.listed import Connections

    with session.controller(url) as client:
        full = references.full(name, Kind.PORT)
        found = client.ask("GET", f"/v1/{full}/connections", Connections)
    conntrack.print_listed(found, output)


def _unanswered(error: Retry | ApiError) -> bool:
    """Whether what was asked for may have been done all the same, or would be when it is asked for again."""
    return isinstance(error, Retry) or error.status >= 500


def _begun(client: Client, name: str, to: str) -> bool:
    """Whether the move was begun here. Or it is said how things are: whoever was not answered does not know."""
    from weft.client import ApiError, moves

    try:
        return moves.begun(client, name, to)[1]
    except (Retry, ApiError) as error:
        if not _unanswered(error):
            raise
        short = references.short(name)
        raise Failed(
            f"{error}. The port may be on its way to {references.short(to)}, or not: weft describe {short} says it; "
            f"weft port move {short} --cancel takes it back",
            ExitCode.UNREACHABLE,
        ) from error


def _finish(client: Client, name: str, to: str | None) -> Item:
    """Or it is said how things are: whoever was not answered does not know."""
    from weft.client import ApiError, moves

    try:
        return moves.finish(client, name, to=to)
    except (Retry, ApiError) as error:
        if not _unanswered(error):
            raise
        short = references.short(name)
        again = f"weft port move {short} --finish says that it is not moving if the move has ended all the same"
        raise Failed(
            f"{error}. Both hosts hold the port until then, and nothing is lost: {again}", ExitCode.UNREACHABLE
        ) from error


def _await_ready(client: Client, name: str, to: str, timeout_s: float, patience_s: float, *, ours: bool) -> None:
    """Or nothing has happened. ours: it was begun by this command, and is its to take back."""
    from weft.client import ApiError, moves

    try:
        with session.busy("waiting for hosts") as say:
            passed_over = moves.await_ready(client, name, to=to, timeout_s=timeout_s, patience_s=patience_s, say=say)
    except BaseException as error:
        short = references.short(name)
        try:
            left = moves.cancel(client, name, to=to) if ours else client.get(name)
            after = f"The port is on {references.short(left.spec.get('host') or 'no host')}"
            if (now := left.spec.get("destination")) is not None:
                after += (
                    f", and on its way to {references.short(now)} as before: that was begun by another command, whose "
                    f"guest may be changing over; if not: weft port move {short} --cancel"
                )
        except (Retry, Rejected, ApiError) as further:  # the first fault is the one to tell
            after = f"The move could not be taken back ({further}): weft port move {short} --cancel"
        match error:
            case Retry():
                raise Failed(f"{error}. {after}", ExitCode.UNREACHABLE) from error
            case Rejected():
                raise Failed(f"{error}. {after}", ExitCode.REFUSED) from error
            case _:
                click.echo(after, err=True)
                raise
    move = client.get(name).status.get("move") or {}
    if note := move.get("reason"):
        click.echo(f"{references.short(name)}: {note}", err=True)
    for each in passed_over:
        click.echo(f"{references.short(each)} has no agent, and has not followed: what it sends may be lost", err=True)


def _print(item: Item, output: Output) -> None:
    if output is Output.JSON:
        show.as_json({"name": item.name, "revision": item.revision, "spec": item.spec, "status": item.status})
        return
    host, destination = item.spec.get("host"), item.spec.get("destination")
    moving = f", moving to {references.short(destination)}" if destination else ""
    click.echo(f"{references.short(item.name)} is on {references.short(host or 'no host')}{moving}")

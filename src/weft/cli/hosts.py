"""weft host: how hosts are let into a deployment, and out again. Never touches a host itself."""

from __future__ import annotations

import click

from weft.cli import references, session, show
from weft.cli.access import seconds
from weft.cli.session import Commands, Output
from weft.model.names import Kind, label_of


@click.group(cls=Commands)
def host() -> None:
    """Let hosts join, and call back their certificates."""


@host.command()
@click.argument("name")
@click.option("--expires", default="1h", show_default=True, help="When it ends: 1h, 30m, 2d.")
@session.with_controller
@session.with_output()
def token(name: str, expires: str, url: str, output: Output) -> None:
    """Make a token by which one host joins, once: `weft agent --join TOKEN` there.

    \b
    weft host token node-a
    """
    from weft.client import access

    with session.controller(url) as client:
        made = access.make_join_token(client, label_of(references.full(name, Kind.HOST)), seconds(expires))
    show.as_said({"host": made.host, "token": made.token, "expires": made.expires}, made.token, output)


@host.command()
@click.argument("name")
@session.with_controller
@session.with_output()
def revoke(name: str, url: str, output: Output) -> None:
    """Call back every certificate that a host has; it may join again with a new token.

    \b
    weft host revoke node-a
    """
    from weft.client import access

    label = label_of(references.full(name, Kind.HOST))
    with session.controller(url) as client:
        access.revoke(client, f"host/{label}")
    show.as_said({"host": f"hosts/{label}"}, f"the certificates of {label} are not good any more", output)

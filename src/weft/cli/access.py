"""weft token, quota, audit and whoami: who may do what at a controller, and who did it."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from weft.cli import references, session, show
from weft.cli.session import Commands, Output
from weft.kit.errors import Rejected, Retry
from weft.model.names import PATTERNS, Kind, label_of

# After a connection broke; while nobody answers it is tried again and again.
_AGAIN_S = 0.2

# What a tenant has of its own; the controller knows better, should one be left out.
_LIMITED = tuple(references.plural(each) for each in Kind if PATTERNS[each].startswith("tenants/T/"))

_ROLES = ("admin", "operator", "tenant-admin", "tenant-reader")


@click.command()
@session.with_controller
@session.with_output()
def whoami(url: str, output: Output) -> None:
    """Show who you are to the controller."""
    from weft.client import access

    with session.controller(url) as client:
        found = access.whoami(client)
    of = f" of {found['of']}" if found["of"] else ""
    show.as_said(found, f"{found['name']}: {found['role']}{of}, from {found['where'] or 'here'}", output)


@click.group(cls=Commands)
def token() -> None:
    """Tokens by which users show who they are."""


@token.command()
@click.option("--user", required=True, help="Whose it is: the audit log has the name.")
@click.option("--role", required=True, type=click.Choice(_ROLES), help="What its holder may do.")
@click.option("--tenant", help="Of the tenant roles: of which tenant.")
@click.option("--expires", default="90d", show_default=True, help="When it ends: 90d, 12h, 30m.")
@click.option("--description", default="", help="What it is for.")
@session.with_controller
@session.with_output()
def create(user: str, role: Any, tenant: str | None, expires: str, description: str, url: str, output: Output) -> None:
    """Make a token and print it. It is not shown again.

    \b
    weft token create --user ann --role tenant-admin --tenant blue
    """
    from weft.client import access
    from weft.wire.access import NewToken

    wanted = NewToken(
        user=user, role=role, tenant=tenant and tenant.removeprefix("tenants/"), expires_s=seconds(expires),
        description=description,
    )  # fmt: skip
    with session.controller(url) as client:
        made = access.make_token(client, wanted)
    show.as_said(_plain(made), made.secret, output)


@token.command(name="list")
@session.with_controller
@session.with_output()
def list_tokens(url: str, output: Output) -> None:
    """List the tokens that are good."""
    from weft.client import access

    with session.controller(url) as client:
        found = access.tokens(client)
    if output is Output.JSON:
        show.as_json([_plain(each) for each in found])
        return
    show.table(
        ["id", "user", "role", "tenant", "expires", "description"],
        [
            [each.id, each.user, each.role, references.short(each.tenant or ""), each.expires, each.description]
            for each in found
        ],
        nothing="there are no tokens",
    )


@token.command()
@click.argument("id_", metavar="ID")
@session.with_controller
@session.with_output()
def revoke(id_: str, url: str, output: Output) -> None:
    """End a token now."""
    from weft.client import access

    if not id_.isalnum():
        raise Rejected(f"{id_!r} is not the id of a token; `weft token list` lists them")
    with session.controller(url) as client:
        access.revoke_token(client, id_)
    show.as_said({"id": id_}, f"the token {id_} is not good any more", output)


@click.group(cls=Commands)
def quota() -> None:
    """How many objects a tenant may have."""


@quota.command(name="set")
@click.argument("tenant")
@click.argument("limits", nargs=-1, metavar="KIND=NUMBER...")
@session.with_controller
@session.with_output()
def set_(tenant: str, limits: tuple[str, ...], url: str, output: Output) -> None:
    """Say how many of each KIND a tenant may have; a kind that is left out has no limit. None at all: no quota.

    \b
    weft quota set blue ports=500 virtual-subnets=20
    """
    from weft.client import access

    said: dict[str, int] = {}
    for each in limits:
        word, _, number = each.partition("=")
        kind = references.kind(word)
        if kind is None or not number.isdecimal():
            raise Rejected(f"{each!r} is not a limit such as ports=100; there are limits of {', '.join(_LIMITED)}")
        said[kind.value] = int(number)
    with session.controller(url) as client:
        _quotas([access.set_quota(client, _label(tenant), said)], output)


@quota.command(name="get")
@click.argument("tenant", required=False)
@session.with_controller
@session.with_output()
def get_(tenant: str | None, url: str, output: Output) -> None:
    """Show what a tenant, or each one that has a quota, may have and has."""
    from weft.client import access

    with session.controller(url) as client:
        _quotas(access.quotas(client) if tenant is None else [access.quota(client, _label(tenant))], output)


def _quotas(found: list[Any], output: Output) -> None:
    if output is Output.JSON:
        show.as_json([_plain(each) for each in found])
        return
    show.table(
        ["tenant", "kind", "used", "limit"],
        [
            [label_of(each.tenant), kind, used, each.limits.get(kind, "-")]
            for each in found
            for kind, used in each.used.items()
        ],
        nothing="no tenant has a quota",
    )


@click.group(cls=Commands)
def audit() -> None:
    """Who did what, from where."""


@audit.command(name="list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="The newest so many.")
@session.with_controller
@session.with_output()
def list_audit(limit: int, url: str, output: Output) -> None:
    """List what was done last."""
    from weft.client import access

    with session.controller(url) as client:
        entries, _ = access.audited(client, limit)
    if output is Output.JSON:
        show.as_json(entries)
        return
    show.table(
        ["at", "who", "role", "from", "what"],
        [[each["at"], each["who"], each["role"], each["where"], _what(each)] for each in entries],
        nothing="nothing was done yet",
    )


@audit.command()
@click.option("--revision", type=click.IntRange(0), help="From after this revision; by default from now.")
@session.with_controller
@session.with_output()
def follow(revision: int | None, url: str, output: Output) -> None:
    """Print what is done as it is done, an entry a line, until interrupted.

    A connection that breaks is made again, at another controller if there are several, and nothing is left out.
    """
    from weft.client import access

    with session.controller(url) as client:
        heard = False
        while True:
            try:
                for at, entries in access.follow_audit(client, revision):
                    revision, heard = at, True
                    for each in entries:
                        if output is Output.JSON:
                            click.echo(json.dumps(each, ensure_ascii=False))
                        else:
                            click.echo(f"{each['at']}  {each['who']}  {each['where']}  {_what(each)}")
                broke = "the controller has ended it"
            except Retry as error:
                if not heard:
                    raise
                broke = str(error)
            click.echo(f"{broke}; going on", err=True)
            time.sleep(_AGAIN_S)


def _what(entry: dict[str, Any]) -> str:
    changes = entry["changes"]
    first = ", ".join(f"{each['action']} {each['name']}" for each in changes[:3])
    return first if len(changes) <= 3 else f"{first} and {len(changes) - 3} more"


def _label(tenant: str) -> str:
    return label_of(references.full(tenant, Kind.TENANT))


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def seconds(text: str) -> int:
    """``90d``, ``12h``, ``30m``: a time that something is good for."""
    units = {"d": 86_400, "h": 3_600, "m": 60}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isdecimal() or not int(number):
        raise Rejected(f"{text!r} is not a time such as 90d, 12h or 30m")
    return int(number) * units[unit]

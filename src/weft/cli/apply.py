"""weft apply and weft delete: many objects at once, all or nothing. Never changes half of what was asked for."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from weft.cli import complete, references, session, show
from weft.cli.ends import ends
from weft.cli.session import ExitCode, Failed, Output
from weft.kit.errors import Rejected
from weft.model.names import Kind, find_kind

if TYPE_CHECKING:
    from weft.cli.manifests import Manifest
    from weft.client import Applied, Change, Client
    from weft.wire.cuts import Cut, Cuts


_POLL_S = 0.2


@click.command()
@click.option(
    "-f", "--file", "files", multiple=True, required=True, metavar="FILE",
    help="YAML of objects; a directory of such files; - for stdin. May be given again.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--delete", "removal", is_flag=True, help="Delete the objects that the files name.")
@click.option("--ignore-missing", is_flag=True, help="With --delete: what is not there is no error.")
@click.option("--wait", is_flag=True, help="Wait until the hosts of subnets whose rule changed have gone over to it.")
@session.with_output(Output.NAME)
@session.with_controller
def apply(
    files: tuple[str, ...], dry_run: bool, removal: bool, ignore_missing: bool, wait: bool, output: Output, url: str
) -> None:
    """Make objects as files say: create and update, all or nothing.

    A file holds YAML documents, each one object `{name, spec}` or a list of them. What the spec leaves out is chosen by
    the controller, or stays as it was chosen. Order does not matter.

    \b
    weft apply -f objects.yaml --dry-run
    weft apply -f objects.yaml
    """
    from weft.cli import manifests

    found = manifests.read_files(files, sys.stdin.read() if "-" in files else None)
    if not found:
        raise Rejected("the files hold no object")
    with session.controller(url) as client, session.busy(f"applying {len(found)} objects"):
        if removal:
            names = _present(client, [each.name for each in found]) if ignore_missing else [each.name for each in found]
            answer = _told(client, (), names, dry_run, found)
        else:
            answer = _told(client, [(each.name, each.spec) for each in found], (), dry_run, found)
    if wait and not dry_run:
        _await_rules(url, [each.name for each in found if find_kind(each.name) is Kind.VIRTUAL_SUBNET])
    _print(answer, dry_run, output, {each.name: each.spec for each in found})


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="[KIND] NAME...", shell_complete=complete.kinds_and_names)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--ignore-missing", is_flag=True, help="What is not there is no error.")
@session.with_output(Output.NAME)
@session.with_controller
def delete(names: tuple[str, ...], dry_run: bool, ignore_missing: bool, output: Output, url: str) -> None:
    """Delete objects by name, all or nothing.

    What others still refer to is refused.

    \b
    weft delete blue/web-1
    weft delete subnet blue/prod/web
    weft delete tenants/blue hosts/h1 --dry-run
    """
    kind = references.kind(names[0])
    if kind is not None and len(names) == 1:
        raise click.UsageError(f"which {kind.value}? Give its name.")
    wanted = [references.full(name, kind) for name in (names[1:] if kind else names)]
    with session.controller(url) as client:
        answer = _told(client, (), _present(client, wanted) if ignore_missing else wanted, dry_run, ())
    _print(answer, dry_run, output, {})


def _await_rules(url: str, subnets: Iterable[str]) -> None:
    """Until each subnet's hosts carry it by its rule, and by no other."""
    with session.controller(url) as client, session.busy("waiting for hosts") as say:
        for name in subnets:
            while (item := client.get(name)).spec.get("rule_change"):
                say(f"{references.short(name)}: {'; '.join(item.status.get('waiting_for', [])) or 'nearly there'}")
                time.sleep(_POLL_S)


def _present(client: Client, names: Iterable[str]) -> list[str]:
    from weft.client import ApiError

    found = []
    for name in names:
        try:
            client.get(name)
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            found.append(name)
    return found


_INDEX = re.compile(r"(puts|deletes)\[(\d+)\]\.?")


def _told(
    client: Client, puts: Sequence[tuple[str, dict[str, Any]]], deletes: Sequence[str], dry_run: bool,
    written: Sequence[Manifest],
) -> Applied:  # fmt: skip
    """The controller's answer; an error of the n-th object names the object, and the file and line it stands at."""
    from weft.client import ApiError

    try:
        try:
            return client.apply(puts, deletes, dry_run=dry_run, connections=dry_run)
        except ApiError as error:
            if not dry_run or error.field != "connections":
                raise
        # A controller of the release before does not know of them.
        return client.apply(puts, deletes, dry_run=True)
    except ApiError as error:
        match = _INDEX.match(error.field)
        names = [name for name, _ in puts] if match and match[1] == "puts" else deletes
        if match is None or int(match[2]) >= len(names):
            raise
        index = int(match[2])
        place = f"{written[index].place}: " if index < len(written) else ""
        field = error.field[match.end() :]
        detail = error.detail or error.title
        name = "" if not field and detail.startswith(names[index]) else names[index]
        code = ExitCode.NOT_FOUND if error.status == 404 else ExitCode.REFUSED
        raise Failed(place + ": ".join(part for part in (name, field, detail) if part), code) from error


def _print(answer: Applied, dry_run: bool, output: Output, written: Mapping[str, Mapping[str, Any]]) -> None:
    changes = answer.changes
    match output:
        case Output.JSON:
            import msgspec

            show.as_json({**msgspec.to_builtins(answer), "dry_run": dry_run})
        case Output.NAME:
            for change in changes:
                click.echo(change.name)
        case _:
            if changes:
                show.table(
                    ["action", "name", "fields"],
                    [[each.action, each.name, _difference(each, written.get(each.name, {}))] for each in changes],
                )
            would = "would change" if dry_run else "changed"
            objects = "object" if len(changes) == 1 else "objects"
            click.echo(f"{len(changes)} {objects} {would}" if changes else "nothing to change")
            if answer.cut:
                _print_cuts(answer.cut)


def _print_cuts(cuts: Cuts) -> None:
    """The connections that are there now, and would be cut; and of whose nothing is known."""
    if cuts.connections:
        click.echo()
        show.table(
            ["port", "protocol", "state", "guest", "", "other", "let in by", "why"],
            [
                [
                    references.short(each.port),
                    each.protocol,
                    each.state,
                    *_ends(each),
                    references.short(each.rule or ""),
                    each.why,
                ]
                for each in cuts.connections
            ],
        )
    if cuts.total > len(cuts.connections):
        click.echo(f"and {cuts.total - len(cuts.connections)} more")
    if cuts.looked_at or cuts.unanswered:
        click.echo(f"{cuts.total} of {cuts.looked_at} connections of ports whose rules change would be cut")
    if cuts.unjudged:
        click.echo(f"of {cuts.unjudged} it was not found out in time", err=True)
    for each in cuts.unanswered:
        of = ", ".join(map(references.short, each.ports[:5])) + (", ..." if len(each.ports) > 5 else "")
        click.echo(f"of connections of {of} nothing is known: {each.reason}", err=True)


def _ends(of: Cut) -> tuple[str, str, str]:
    return ends(
        protocol=of.protocol, state=of.state, begun_by=of.begun_by,
        local=of.local, local_port=of.local_port, remote=of.remote, remote_port=of.remote_port,
    )  # fmt: skip


def _difference(change: Change, written: Mapping[str, Any]) -> str:
    """What an update changes, as ``field: before -> after``; of a new object what the controller chose for it."""
    before, after = change.before or {}, change.after or {}
    if change.action == "create":
        chosen = {
            field: value for field, value in after.items() if field not in written and value not in (None, [], "")
        }
        return "; ".join(f"{field}: {show.cell(value)}" for field, value in chosen.items())
    if change.action == "delete":
        return ""
    fields = [field for field in {**before, **after} if before.get(field) != after.get(field)]
    return "; ".join(f"{field}: {show.cell(before.get(field))} -> {show.cell(after.get(field))}" for field in fields)

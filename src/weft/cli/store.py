"""weft store: backups of what controllers keep, and moves from one kind of store to another. Needs no controller."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import click

from weft.cli import session, show
from weft.kit.errors import Missing, Rejected

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from weft.contracts.store import Store

T = TypeVar("T")

_STORE = click.option(
    "--store",
    "url",
    envvar="WEFT_STORE",
    show_envvar=True,
    default="sqlite:///var/lib/weft/controller.db",
    show_default=True,
    help="As of weft controller: sqlite:///PATH, a path alone, or etcd://HOST:PORT,HOST:PORT/PREFIX.",
)
_DROP = click.option("--drop", is_flag=True, help="Leave out what the older schema version cannot say.")
_FILE = click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="-")


@click.group(cls=session.Commands)
def store() -> None:
    """Back up a store, restore it, and move from SQLite to etcd and back.

    A backup is lines of JSON, of one revision. In SQLite's case the controller has to be stopped; in etcd's it goes on.
    """


@store.command("export")
@_STORE
@click.option("--schema", type=click.IntRange(1), help="For a Weft of the release before: the version that it reads.")
@_DROP
@_FILE
def export_(url: str, schema: int | None, drop: bool, file: Path) -> None:
    """Write all of a store to FILE (-: standard output).

    \b
    weft store export --store /var/lib/weft-controller/controller.db all.ndjson
    """
    from weft.store import backup

    _refuse_absent(url)
    with _writing(file) as out:
        count = _with_store(url, lambda it: backup.export(it, out.write, schema, drop=drop))
    click.echo(f"{count} objects", err=True)


@store.command("import")
@_STORE
@_FILE
def import_(url: str, file: Path) -> None:
    """Fill an empty store from FILE (-: standard input), all or nothing.

    \b
    weft store import --store etcd://10.255.0.1:2379/weft all.ndjson
    """
    from weft.store import backup

    with contextlib.ExitStack() as closing:
        try:
            lines = sys.stdin.buffer if str(file) == "-" else closing.enter_context(file.open("rb"))
        except OSError as error:
            raise Rejected(f"the backup {file} cannot be read: {error.strerror}", "FILE") from error
        count = _with_store(url, lambda it: backup.restore(it, lines))
    click.echo(f"{count} objects", err=True)


@store.command("migrate")
@_STORE
@click.option("--to", type=click.IntRange(1), help="The schema version; this Weft's own unless said.")
@_DROP
@click.option("--leave-behind", is_flag=True, help="Though controllers that are running could not go on with it.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")
@session.with_output()
def migrate_(url: str, to: int | None, drop: bool, leave_behind: bool, dry_run: bool, output: session.Output) -> None:
    """Take a store to a schema version: forward when an upgrade is over, back before one is taken back.

    An etcd's is taken while controllers run. Nothing, or all of it, is done. What the older version cannot say is named
    and refused, unless it may be dropped.

    \b
    weft store migrate --store etcd://10.255.0.1:2379/weft --dry-run
    """
    from weft.contracts.store import SCHEMA
    from weft.store.address import open_cluster, shown
    from weft.store.migration import Migrated, migrate

    wanted = SCHEMA if to is None else to
    _refuse_absent(url)

    async def work(opened: Store) -> tuple[Migrated, bool]:
        cluster = open_cluster(url, "")
        try:
            if not (leave_behind or dry_run) and (left := await cluster.left_behind_by(wanted)):
                raise Rejected(
                    f"controllers of an older release serve this store and would have to stop: {', '.join(left)}."
                    " Upgrade them first, or say --leave-behind",
                    "to",
                )
        finally:
            await cluster.close()
        done = await migrate(opened, wanted, drop=drop, dry_run=dry_run)
        return done, not (await opened.snapshot()).objects

    done, empty = _with_store(url, work)
    if empty:
        # etcd has a store wherever one is asked for: a mistyped prefix looks like an upgrade that is over.
        click.echo(f"there is nothing in the store at {shown(url)}: is that the one that controllers serve?", err=True)
    if output is session.Output.JSON:
        show.as_json(
            {
                "before": done.before,
                "after": done.after,
                "written": done.written,
                "dropped": [{"name": each.name, "field": each.field, "given": each.given} for each in done.dropped],
                "dry_run": dry_run,
            }
        )
        return
    for each in done.dropped:
        click.echo(f"{'would drop' if dry_run else 'dropped'} {each}", err=True)
    if done.before == done.after:
        click.echo(f"it has schema version {done.after} already", err=True)
        return
    did = "would be written anew" if dry_run else "written anew"
    click.echo(f"schema version {done.before} -> {done.after}: {done.written} objects {did}", err=True)


def _refuse_absent(url: str) -> None:
    """A file that is opened is made; where one is to be there already, its name is mistyped."""
    from weft.store import address

    if not address.is_etcd(url) and not (file := address.sqlite_path(url)).exists():
        raise Missing(f"there is no store at {file}", "store")


def _with_store(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    from weft.store.address import open_store

    async def run() -> T:
        opened = open_store(url)
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(run())


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[BinaryIO]:
    """A file that is whole or not there, readable by its owner: a store holds what proves who somebody is."""
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = file.with_name(f".{file.name}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise Rejected(f"{file} cannot be written: {error.strerror}", "FILE") from error
    try:
        with os.fdopen(fd, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)

"""weft ca: the certificates of a deployment of one's own, in a directory. Speaks to nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.cli import session, show
from weft.cli.session import Output

if TYPE_CHECKING:
    from weft.tls.authority import Held

_DIRECTORY = click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
_DAYS = "Days that it is good for."


@click.group(cls=session.Commands)
def ca() -> None:
    """Make and renew the certificates of a deployment.

    DIRECTORY holds everything, the root's key as well: keep it where only you can read it, and take to each machine
    what is its own. Names are roles with a name: controller/c1, host/node-a, admin/alice, operator/bob,
    etcd-server/e1, etcd-client/c1.
    """


@ca.command()
@_DIRECTORY
@click.option("--name", default="Weft", show_default=True, help="What the authority is called.")
@session.with_output()
def init(directory: Path, name: str, output: Output) -> None:
    """Make the authorities: the root, that of hosts, and etcd's.

    \b
    weft ca init ca
    """
    from weft.tls.authority import Authority

    _list(Authority.make(directory, name, datetime.now(UTC)).held(), output)


@ca.command()
@_DIRECTORY
@click.argument("name")
@click.option("--address", "addresses", multiple=True, help="Where it is found: a DNS name or an IP address.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help=_DAYS)
@session.with_output()
def issue(directory: Path, name: str, addresses: tuple[str, ...], days: int, output: Output) -> None:
    """Make a key and a certificate: of admin/alice, DIRECTORY/admins/alice.crt and .key.

    NAME says the role, too: admin/, operator/, controller/, etcd-server/ or etcd-client/.

    \b
    weft ca issue ca controller/c1 --address 10.255.0.1
    weft ca issue ca admin/alice
    """
    from weft.tls.authority import Authority
    from weft.tls.identity import parse_holder

    held = Authority(directory).issue(parse_holder(name), addresses, datetime.now(UTC), timedelta(days=days))
    _list([held], output)


@ca.command()
@_DIRECTORY
@click.argument("names", nargs=-1)
@click.option("--within-days", type=click.IntRange(0), default=30, show_default=True, help="What ends within them.")
@session.with_output()
def renew(directory: Path, names: tuple[str, ...], within_days: int, output: Output) -> None:
    """Renew what is about to end, or the certificates of these NAMES. Authorities keep their keys.

    \b
    weft ca renew ca
    weft ca renew ca controller/c1
    """
    from weft.tls.authority import Authority

    renewed = Authority(directory).renew(datetime.now(UTC), timedelta(days=within_days), names)
    _list(renewed, output, nothing=f"no certificate ends within {within_days} days: nothing was renewed")


@ca.command(name="list")
@_DIRECTORY
@session.with_output()
def list_(directory: Path, output: Output) -> None:
    """List the certificates, and when they end."""
    from weft.tls.authority import Authority

    _list(Authority(directory).held(), output)


def _list(held: list[Held], output: Output, *, nothing: str = "there are no certificates") -> None:
    now = datetime.now(UTC)
    if output is Output.JSON:
        show.as_json([
            {
                "name": each.name,
                "path": str(each.path),
                "not_after": each.certificate.not_after.isoformat(),
                "addresses": list(each.certificate.addresses),
                "fingerprint": each.certificate.fingerprint,
            }
            for each in held
        ])  # fmt: skip
        return
    show.table(
        ["name", "ends", "days left", "addresses", "file"],
        [
            [
                each.name,
                each.certificate.not_after.date().isoformat(),
                (each.certificate.not_after - now).days,
                list(each.certificate.addresses),
                str(each.path),
            ]
            for each in held
        ],
        nothing=nothing,
    )

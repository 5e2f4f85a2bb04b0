"""`weft controller` and `weft agent` as commands: options in, a process that serves. Decides nothing itself."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.session import credentials, with_controller

FILE = click.Path(dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--listen",
    multiple=True,
    envvar="WEFT_LISTEN",
    show_envvar=True,
    default=("http://127.0.0.1:8640", "unix:///run/weft/controller.sock"),
    show_default=True,
    help="Where to listen: https://ADDRESS:PORT, unix:///PATH or http://LOOPBACK:PORT. May be given again.",
)
@click.option(
    "--store",
    envvar="WEFT_STORE",
    show_envvar=True,
    default="sqlite:///var/lib/weft/controller.db",
    show_default=True,
    help="Where intent is kept: sqlite:///PATH, a path alone, or etcd://HOST:PORT,HOST:PORT/PREFIX for several of us.",
)
@click.option("--certificate", type=FILE, envvar="WEFT_CERTIFICATE", show_envvar=True, help="Of https: a file in PEM.")
@click.option(
    "--key", type=FILE, envvar="WEFT_KEY", show_envvar=True, help="Its key.  [default: in the certificate's file]"
)
@click.option(
    "--ca",
    type=FILE,
    envvar="WEFT_CA",
    show_envvar=True,
    help="The authorities that callers' certificates have to be of.",
)
@click.option(
    "--issuer-certificate",
    type=FILE,
    envvar="WEFT_ISSUER_CERTIFICATE",
    show_envvar=True,
    help="To let hosts join with.",
)
@click.option("--issuer-key", type=FILE, envvar="WEFT_ISSUER_KEY", show_envvar=True, help="Its key.")
@click.option(
    "--oidc",
    type=FILE,
    envvar="WEFT_OIDC",
    show_envvar=True,
    help="Whose users to believe in (docs/design/security.md).",
)
@click.option(
    "--insecure", is_flag=True, envvar="WEFT_INSECURE", show_envvar=True, help="Serve plain HTTP off the loopback, too."
)
@click.option(
    "--advertise",
    envvar="WEFT_ADVERTISE",
    show_envvar=True,
    metavar="URL",
    help="Where the other controllers of the store reach this one.  [default: the first --listen]",
)
def controller(
    listen: tuple[str, ...],
    store: str,
    certificate: Path | None,
    key: Path | None,
    ca: Path | None,
    issuer_certificate: Path | None,
    issuer_key: Path | None,
    oidc: Path | None,
    insecure: bool,
    advertise: str | None,
) -> None:
    """Run the controller.

    \b
    weft controller --store /var/lib/weft/controller.db
    """
    from weft.apps.controller import Security, run
    from weft.tls.contexts import Files

    if (issuer_certificate is None) != (issuer_key is None):
        raise click.UsageError("--issuer-certificate and --issuer-key go together")
    issuer = (issuer_certificate, issuer_key) if issuer_certificate and issuer_key else None
    run(store, listen, Security(Files(certificate, key, ca), insecure, issuer, oidc), advertise)


@click.command()
@click.option("--host", required=True, envvar="WEFT_HOST", show_envvar=True, help="This host's name, as in hosts/NAME.")
@with_controller
@click.option(
    "--state",
    type=DIRECTORY,
    envvar="WEFT_STATE",
    show_envvar=True,
    default="/var/lib/weft/agent",
    show_default=True,
    help="Where the last policy and the attachments are kept.",
)
@click.option(
    "--run", "run_directory", type=DIRECTORY, envvar="WEFT_RUN", show_envvar=True, default="/run/weft",
    show_default=True, help="Where the agent's socket is.",
)  # fmt: skip
@click.option(
    "--pins", type=DIRECTORY, envvar="WEFT_PINS", show_envvar=True, metavar="DIRECTORY",
    help="Where programs and maps are pinned.  [default: /sys/fs/bpf/weft/HOST]",
)  # fmt: skip
@click.option(
    "--size", "sizes", multiple=True, envvar="WEFT_SIZE", show_envvar=True, metavar="TABLE=ENTRIES",
    help="Room in a map of the data plane, such as records=1000000. May be given again.",
)  # fmt: skip
@click.option(
    "--learned-age", "learned_age_s", type=click.IntRange(1, 1_000_000), envvar="WEFT_LEARNED_AGE",
    show_envvar=True, default=300, show_default=True, metavar="SECONDS",
    help="How long a machine heard in a VLAN behind an uplink is remembered.",
)  # fmt: skip
@click.option(
    "--conntrack", "tracking", multiple=True, envvar="WEFT_CONNTRACK", show_envvar=True, metavar="STATE=SECONDS",
    help="How long connections are remembered, such as established=3600; most=N and most-of-port=N: how many; ftp=PORT"
    " (21): of servers whose data connections pass with what they belong to, or ftp=off.",
)  # fmt: skip
@click.option(
    "--join", default="", envvar="WEFT_JOIN", show_envvar=True, metavar="TOKEN",
    help="Get a certificate by this token (weft host token), where there is none yet.",
)  # fmt: skip
def agent(
    host: str,
    url: str,
    state: Path,
    run_directory: Path,
    pins: Path | None,
    sizes: tuple[str, ...],
    learned_age_s: int,
    tracking: tuple[str, ...],
    join: str,
) -> None:
    """Run the agent of a host.

    \b
    weft agent --host node-a --controller https://10.255.0.1:8640
    """
    from weft.apps.agent import parse_sizes, parse_tracking, run

    run(
        host=host, controller=url, state=state, run=run_directory, pins=pins, sizes=parse_sizes(sizes),
        credentials=credentials(), join=join, learned_age_s=learned_age_s, tracking=parse_tracking(tracking),
    )  # fmt: skip

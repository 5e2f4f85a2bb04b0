"""weft lab: up, down, status, exec, move. Prints and parses; lab.py does the work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli import session, show
from weft.cli.session import Commands, Output

if TYPE_CHECKING:
    from weft.lab.lab import Lab


@click.group(cls=Commands)
def lab() -> None:
    """A whole data centre on this machine, in network namespaces.

    Labs have names, and several run side by side. State is in /run/weft-lab (WEFT_LAB_DIR).
    """


@lab.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="A name for the lab, instead of the file's.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds until it must run.",
)
@session.with_output()
def up(file: Path, name: str | None, timeout_s: float, output: Output) -> None:
    """Build the lab of a YAML file; returns when every port is active.

    \b
    weft lab up examples/demo.yaml
    """
    from weft.lab.lab import Lab

    with session.busy("lab") as progress:
        built = Lab.up(file, progress, name=name, timeout_s=timeout_s)
    if output is Output.JSON:
        show.as_json(_facts(built))
        return
    click.echo(f"the lab {built.spec.name} is up: {len(built.spec.hosts)} hosts, {len(built.guests)} guests")
    click.echo(f"  export WEFT_CONTROLLER={built.paths.controller_url}")
    if built.guests:
        guest = _short(next(iter(built.guests)))
        click.echo(f"  weft status; weft lab exec {built.spec.name} {guest} -- ip address")


@lab.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--all", "everything", is_flag=True, help="Every lab that is there.")
@session.with_output()
def down(names: tuple[str, ...], everything: bool, output: Output) -> None:
    """Take a lab away without a trace, also a half-built one. The only lab there is needs no name."""
    from weft.lab.lab import Lab, labs

    found = labs()
    if not names and not everything and len(found) > 1:
        raise click.UsageError(f"which one? There are {', '.join(found)}; or --all")
    gone = []
    with session.busy("lab") as progress:
        for name in names or found:
            progress(f"taking {name} away")
            if Lab.down(name):
                gone.append(name)
    if output is Output.JSON:
        show.as_json({"down": gone})
    else:
        click.echo(f"down: {', '.join(gone)}" if gone else "nothing was there")


@lab.command()
@click.argument("name", required=False)
@session.with_output(Output.YAML)
def status(name: str | None, output: Output) -> None:
    """Show a lab's hosts, guests and processes; without a name, of every lab."""
    from weft.kit.errors import Missing
    from weft.lab.lab import Lab, labs

    found = []
    for each in [name] if name else labs():
        try:
            found.append(_facts(Lab.load(each)))
        except Missing:
            if name:
                raise
            found.append({"lab": each, "hosts": [], "guests": [], "processes": {}})  # half built
    match output:
        case Output.JSON:
            show.as_json({"labs": found})
        case Output.YAML:
            show.as_yaml({"labs": found})
        case _:
            if not found:
                click.echo("no lab is up", err=True)
            for facts in found:
                _print(facts)


@lab.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("guest")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(name: str, guest: str, command: tuple[str, ...]) -> None:  # noqa: A001  # the command's name
    """Run a command in a guest (blue/web-1) or a host (h1).

    \b
    weft lab exec demo blue/web-1 -- ping 10.0.1.5
    """
    from weft.lab.lab import Lab

    there = Lab.load(name)
    argv = there.command(guest, command)
    os.execvpe(argv[0], argv, there.environment())  # noqa: S606  # no shell: the words are the user's own


@lab.command()
@click.argument("name")
@click.argument("guest")
@click.argument("host")
@session.with_output()
def move(name: str, guest: str, host: str, output: Output) -> None:
    """Move a guest to another host, as live migration would.

    \b
    weft lab move demo blue/web-1 h3
    """
    from weft.lab.lab import Lab

    with session.busy(f"moving {guest}"):
        moved = Lab.load(name).move(guest, host)
    if output is Output.JSON:
        show.as_json({"port": moved.port, "host": moved.host, "interface": moved.interface})
    else:
        click.echo(f"{_short(moved.port)} is on {moved.host} now")


def _facts(there: Lab) -> dict[str, Any]:
    from weft.lab import plan, processes

    name = there.spec.name
    return {
        "lab": name,
        "controller": there.paths.controller_url,
        "directory": str(there.paths.directory),
        "hosts": [
            {
                "host": host.name, "pa": host.pa, "subnet": host.subnet,
                "namespace": plan.host_namespace(name, host.name), "agent": str(there.paths.agent_socket(host.name)),
            }
            for host in there.spec.hosts
        ],
        "guests": [
            {
                "port": guest.port, "host": guest.host, "namespace": guest.namespace, "interface": guest.interface,
                "mac": guest.mac, "addresses": list(guest.addresses), "mtu_bytes": guest.mtu_bytes,
            }
            for guest in there.guests.values()
        ],
        "processes": {each.name: each.pid for each in processes.find(there.paths.directory) if each.name},
    }  # fmt: skip


def _print(facts: dict[str, Any]) -> None:
    running = ", ".join(f"{name} ({pid})" for name, pid in facts["processes"].items())
    click.echo(click.style(f"lab {facts['lab']}", bold=True) + f"  {facts.get('controller', 'half built')}")
    click.echo(f"running: {running or 'nothing'}\n")
    show.table(["host", "pa", "namespace"], [[each["host"], each["pa"], each["namespace"]] for each in facts["hosts"]])
    rows = [
        [_short(each["port"]), each["host"], each["interface"], each["mac"], each["addresses"]]
        for each in facts["guests"]
    ]
    click.echo()
    show.table(["guest", "host", "interface", "mac", "addresses"], rows)


def _short(port: str) -> str:
    _, tenant, _, name = port.split("/")
    return f"{tenant}/{name}"

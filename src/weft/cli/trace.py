"""weft trace: what would become of a packet, step by step across hosts. Sends none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weft.cli import complete, references, session, show
from weft.cli.session import ExitCode, Output
from weft.kit.errors import Rejected
from weft.model.names import Kind

if TYPE_CHECKING:
    from weft.client import Traced


@click.command()
@click.option(
    "--from", "source", required=True, metavar="PORT", shell_complete=complete.ports,
    help="The port that sends, such as blue/web-1.",
)  # fmt: skip
@click.option("--to", metavar="ADDRESS", help="The address to reach.")
@click.option("--protocol", type=click.Choice(["icmp", "tcp", "udp"]), default="icmp", show_default=True, help="Of it.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where to, with tcp and udp.  [default: 80]")
@click.option("--frame", metavar="HEX", help="A whole Ethernet frame instead, in hex.")
@session.with_output(Output.YAML)
@session.with_controller
def trace(
    source: str, to: str | None, protocol: str, port: int | None, frame: str | None, output: Output, url: str
) -> None:
    """Follow a packet from a port to its end, or to its drop reason.

    \b
    weft trace --from blue/web-1 --to 10.0.1.5
    weft trace --from blue/web-1 --to fd00:0:0:b::5 --protocol tcp --port 443

    Exits with 5 when the packet would not arrive.
    """
    if (to is None) == (frame is None):
        raise click.UsageError("give one of --to and --frame")
    if port is not None and (to is None or protocol == "icmp"):
        raise click.UsageError("--port is of --protocol tcp and udp")
    try:
        raw = None if frame is None else bytes.fromhex(frame)
    except ValueError:
        raise Rejected(f"{frame!r} is not a frame in hex such as 0257454654010200...", "--frame") from None
    with session.controller(url) as client:
        answer = client.trace(references.full(source, Kind.PORT), to=to, frame=raw, protocol=protocol, port=port)
    plain = {"steps": [{"host": each.host, "text": each.text} for each in answer.steps], "outcome": answer.outcome}
    show.as_asked(plain, output, lambda: _print(answer))
    if not arrived(answer.outcome):
        click.get_current_context().exit(int(ExitCode.NOT_DELIVERED))


def arrived(outcome: dict[str, Any]) -> bool:
    return outcome.get("verdict") in {"delivered", "answered"}


def _print(answer: Traced) -> None:
    width = max((len(references.short(each.host)) for each in answer.steps), default=0)
    former = ""
    for each in answer.steps:
        host = references.short(each.host)
        click.echo(f"{click.style((host if host != former else '').ljust(width), bold=True)}  {each.text}")
        former = host
    colour = "green" if arrived(answer.outcome) else "red"
    facts = {key: value for key, value in answer.outcome.items() if key not in {"verdict", "frame", "answer"}}
    click.echo(click.style(f"{answer.outcome.get('verdict')}: {show.cell(facts)}", fg=colour, bold=True))

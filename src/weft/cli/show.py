"""Prints: tables drawn by rich on a terminal and plain, uncut columns in a pipe; JSON and YAML everywhere.

Never shortens what a pipe reads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from weft.cli.session import Output


def as_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def as_json_line(value: Any) -> None:
    """One of many, as it comes."""
    click.echo(json.dumps(value))


def as_said(facts: Any, sentence: str, output: Output) -> None:
    """What was done: in JSON for programs, in a sentence for people."""
    if output is Output.JSON:
        as_json(facts)
    else:
        click.echo(sentence)


def as_asked(value: Any, output: Output, drawn: Callable[[], None]) -> None:
    """drawn: what prints it for people."""
    match output:
        case Output.JSON:
            as_json(value)
        case Output.YAML:
            as_yaml(value)
        case _:
            drawn()


def yaml_text(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
    return text


def as_yaml(value: Any) -> None:
    click.echo(yaml_text(value), nl=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str = "nothing found") -> None:
    """nothing: what to say on stderr when there are no rows."""
    lines = [[cell(each) for each in row] for row in rows]
    if not lines:
        click.echo(nothing, err=True)
    elif sys.stdout.isatty():
        _drawn(columns, lines)
    else:
        click.echo("\n".join(plain([[each.upper() for each in columns], *lines])))


def plain(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def cell(value: object) -> str:
    match value:
        case None | "" | [] | ():
            return "-"
        case list() | tuple():
            return ", ".join(cell(each) for each in value)
        case dict():
            return " ".join(f"{key}={cell(each)}" for key, each in value.items())
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _drawn(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for line in lines:
        drawn.add_row(*(Text(text, style=_STYLES.get(text.split(":")[0], "")) for text in line))
    Console().print(drawn)


#: Words that deserve colour wherever they are a whole cell.
_STYLES = {
    "active": "green",
    "connected": "green",
    "delivered": "green",
    "create": "green",
    "update": "yellow",
    "delete": "red",
    "down": "yellow",
    "unknown": "yellow",
    "failed": "red",
    "absent": "red",
    "dropped": "red",
}

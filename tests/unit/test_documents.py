"""What the documents name is there: files, links, options, variables, figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from weft.apps.cli import main
from weft.cli import config

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: What programs and their units say of themselves.
SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for top in ("src", "packaging", "bench")
    for path in sorted((ROOT / top).rglob("*"))
    if path.suffix in {".py", ".h", ".c", ".service", ".conf"}
)

_PATH = re.compile(r"(?<![\w/.-])(?:src|tests|docs|examples|packaging)/[\w./-]*\w")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_COMMAND = re.compile(r"`(weft [^`]+)`|^(weft [^#\n]+)", re.MULTILINE)


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_paths_and_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    paths = [ROOT / each for each in _PATH.findall(text)] + [document.parent / each for each in _LINK.findall(text)]
    # `src/weft/compiler` for a package, `tests/unit/test_rules` for a module; `docs/design/*.md` ends before its star.
    missing = [str(path) for path in paths if not path.exists() and not list(path.parent.glob(f"{path.name}*"))]
    assert not missing


def test_variables_and_figures_are_those_of_the_programs(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = {each.removesuffix("_total") for each in re.findall(r"\bweft_[a-z_]+[a-z]|\bWEFT_[A-Z_]+[A-Z]", text)}
    of_users = {f"WEFT_{key.upper()}" for key in config.Config.__dataclass_fields__}
    assert not {each for each in named - of_users if each not in SOURCE}


def test_commands_and_their_options_are_those_of_the_command_line(document: Path) -> None:
    wrong = []
    for quoted, shown in _COMMAND.findall(document.read_text(encoding="utf-8")):
        said = quoted or shown
        command, options = _found(said.split())
        wrong += [f"{said}: {option}" for option in re.findall(r"(?<=\s)--[a-z][\w-]*", said) if option not in options]
        if command is main:
            wrong.append(said)
    assert not wrong


def _found(words: list[str]) -> tuple[click.Command, set[str]]:
    """The command that the words after `weft` name, as far as they go, and its options."""
    command: click.Command = main
    for word in words[1:]:
        if not isinstance(command, click.Group):
            break
        # `weft conntrack list|flush|watch` names three.
        following = command.get_command(click.Context(command), word.split("|")[0].strip("[];,"))
        if following is None:
            break
        command = following
    return command, set(_options(command))


def _options(command: click.Command) -> Iterator[str]:
    yield "--help"
    yield "--version"
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)

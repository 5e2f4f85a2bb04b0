"""What all commands share: where the controller is, how to print, and what an error's exit code is.

Never imports an HTTP client before one is needed: `weft --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weft.cli import config
from weft.kit.errors import Missing, Rejected, Retry

if TYPE_CHECKING:
    from weft.client import Client
    from weft.client.credentials import Credentials

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_CONTROLLER = "http://127.0.0.1:8640"


class ExitCode(IntEnum):
    """Part of the command line's contract: README and `weft --help` list them."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    NOT_DELIVERED = 5
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.DONE: "done",
    ExitCode.REFUSED: "refused: the input is not valid, or the server says no; nothing was changed",
    ExitCode.USAGE: "wrong usage of the command line",
    ExitCode.UNREACHABLE: "controller or agent not reachable; the same again may work later",
    ExitCode.NOT_FOUND: "what was named does not exist",
    ExitCode.NOT_DELIVERED: "trace: the packet would not arrive",
    ExitCode.INTERRUPTED: "interrupted",
}


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Failed(click.ClickException):
    """Ends the command with a message on stderr and an exit code of the table."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click declares it for the class, reads it of the instance

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('error', fg='red', bold=True, reset=True)}: {self.message}", file=file, err=True)


def failed(error: Exception) -> Failed | None:
    """The exit for an error that says whose turn it is; None for anything else, which is a bug."""
    match error:
        case Missing():
            return Failed(_said(error), ExitCode.NOT_FOUND)
        case Rejected():
            return Failed(_said(error), ExitCode.REFUSED)
        case Retry():
            return Failed(str(error), ExitCode.UNREACHABLE)
    status = getattr(error, "status", None)  # ApiError: its module is not imported here for the sake of start-up
    if isinstance(status, int):
        code = {404: ExitCode.NOT_FOUND, 502: ExitCode.UNREACHABLE, 503: ExitCode.UNREACHABLE}
        return Failed(str(error), code.get(status, ExitCode.REFUSED))
    return None


def _said(error: Rejected) -> str:
    return f"{error.field}: {error.message}" if error.field else error.message


class Commands(click.Group):
    """A group whose commands may raise Weft's own errors; they become messages and exit codes here, in one place."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with the whole of its first sentence, which click cuts off."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in self._listed(ctx)])

    def _listed(self, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
        for name in self.list_commands(ctx):
            if (command := self.get_command(ctx, name)) is not None and not command.hidden:
                yield name, command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            raise Failed("interrupted", ExitCode.INTERRUPTED) from None
        except Exception as error:
            if (known := failed(error)) is None:
                raise
            raise known from error


@contextmanager
def controller(url: str) -> Iterator[Client]:
    from weft.client import Client

    with Client(url, credentials=credentials()) as client:
        yield client


def credentials() -> Credentials:
    """What this user shows to a controller: by the environment, or else by the configuration file."""
    from weft.client.credentials import Credentials
    from weft.tls.contexts import Files

    found = config.read()
    return Credentials(Files(found.certificate, found.key, found.ca), found.token)


def with_controller(command: F) -> F:
    return click.option(
        "--controller",
        "url",
        envvar="WEFT_CONTROLLER",
        default=lambda: config.read().controller or DEFAULT_CONTROLLER,
        show_default=f"as configured, or {DEFAULT_CONTROLLER}",
        show_envvar=True,
        help="The controller: https://HOST:PORT, unix:///PATH or http://HOST:PORT.",
    )(command)


def with_output(*kinds: Output) -> Callable[[F], F]:
    """--output, of the kinds that make sense for the command (table and json always do)."""
    allowed = [each.value for each in (Output.TABLE, Output.JSON, *kinds)]

    def parse(_context: click.Context, _parameter: click.Parameter, value: str) -> Output:
        return Output(value)

    def decorate(command: F) -> F:
        return click.option(
            "-o", "--output", type=click.Choice(allowed), default="table", show_default=True, callback=parse,
            help="How to print.",
        )(command)  # fmt: skip

    return decorate


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Progress of long work on a terminal, by a function that takes what is being done now; silent in a pipe."""
    if not (sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"):
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda text: status.update(f"{what}: {text}")

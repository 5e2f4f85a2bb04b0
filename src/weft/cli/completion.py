"""weft completion: the script that makes a shell complete our commands. Writes to stdout only."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    weft completion bash > /etc/bash_completion.d/weft
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"{shell} is not known here")
    click.echo(found(ctx.find_root().command, {}, "weft", "_WEFT_COMPLETE").source())

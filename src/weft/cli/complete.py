"""What a shell's completion offers for kinds and names. Silent when the controller does not answer at once.

Whoever presses the tab key waits for this, and an error message would end up in the middle of the line.
"""

from __future__ import annotations

from itertools import islice

import click

from weft.cli import config, references
from weft.cli.session import DEFAULT_CONTROLLER, credentials
from weft.kit.errors import Rejected, Retry
from weft.model.names import Kind

TIMEOUT_S = 1.0
#: Nobody reads more; who has more types on.
MOST = 1000


def kinds_and_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For what takes ``[KIND] NAME...``."""
    before = context.params.get(parameter.name or "") or ()
    kind = references.kind(before[0]) if before else None
    if kind is not None:
        return names(context, kind, incomplete)
    if "/" not in incomplete:
        offered = [] if before else [references.plural(each) for each in Kind]
        return [word for word in offered if word.startswith(incomplete)] or names(context, Kind.PORT, incomplete)
    return names(context, Kind.PORT if incomplete.count("/") == 1 else Kind.VIRTUAL_SUBNET, incomplete)


def ports(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return names(context, Kind.PORT, incomplete)


def names(context: click.Context, kind: Kind, incomplete: str) -> list[str]:
    """Short names of the kind's objects that begin so; none when they cannot be had."""
    from weft.client import ApiError, Client

    tenant, slash, _ = incomplete.partition("/")
    try:
        path = references.collection(kind, tenant if slash else None)
        url = context.params.get("url") or config.read().controller or DEFAULT_CONTROLLER
        with Client(url, timeout_s=TIMEOUT_S, credentials=credentials()) as client:
            found = (references.short(item.name) for item in client.list(path, limit=MOST))
            return list(islice((name for name in found if name.startswith(incomplete)), MOST))
    except (Rejected, Retry, ApiError):
        return []

"""Which connections rules would cut: the question to a host, its answer, and what users are told. Judges none."""

from __future__ import annotations

from typing import Annotated

import msgspec

#: In an answer of a host, and in what users are told; beyond it there is a number.
MOST_TOLD = 1000

_Text = Annotated[str, msgspec.Meta(max_length=300)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**32)]


class Question(msgspec.Struct, frozen=True):
    """ports: on the host, whose rules change; gone: those that would not be there any more. frames: rows as they would
    be (wire/feed.py), of all that these ports' rules rest on and that changes.
    """

    ports: list[str]
    gone: list[str] = []
    frames: list[str] = []


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that is there now, and would be cut. rule: what let it begin; by: the rule that would deny it; null:
    no rule would allow it, or its port would not be there.
    """

    port: _Text
    protocol: _Text
    local: _Text
    local_port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    remote: _Text
    remote_port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    state: _Text
    begun_by: _Text  # guest, or other
    rule: _Text | None = None
    by: _Text | None = None
    why: _Text = ""
    host: _Text | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Of a host. cut: the first of them; total: how many; looked_at: of how many; unjudged: what time was short for."""

    cut: Annotated[list[Cut], msgspec.Meta(max_length=MOST_TOLD)] = []
    total: _Count = 0
    looked_at: _Count = 0
    unjudged: _Count = 0


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """Of the connections of these ports nothing is known, and why. host: null for a tenant."""

    ports: list[str]
    reason: str
    host: str | None = None


class Cuts(msgspec.Struct, frozen=True, kw_only=True):
    """What a dry run says of the connections that are established now: as in Answer, of all hosts."""

    connections: list[Cut] = []
    total: int = 0
    looked_at: int = 0
    unjudged: int = 0
    unanswered: list[Unanswered] = []

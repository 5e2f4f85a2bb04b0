"""A port's connections, as its host lists them for users. Knows only their shape."""

from __future__ import annotations

from typing import Annotated

import msgspec

#: In one answer; beyond it there is a number.
MOST_LISTED = 1000
#: In an answer of the agent to whoever is on its host.
MOST_OF_HOST = 10_000

_Text = Annotated[str, msgspec.Meta(max_length=300)]
_Number = Annotated[int, msgspec.Meta(ge=0)]


class Counted(msgspec.Struct, frozen=True):
    packets: _Number
    bytes: _Number


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One, from its guest's side."""

    port: _Text
    protocol: _Text
    local: _Text
    remote: _Text
    local_port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    remote_port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    state: _Text
    begun_by: _Text
    rule: _Number
    rule_name: _Text
    refused: bool
    sent: Counted
    received: Counted
    age_s: float
    expires_s: float


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """The first of them, and how many there are."""

    connections: Annotated[list[Listed], msgspec.Meta(max_length=MOST_LISTED)] = []
    total: _Number = 0

"""What an agent says that it knows, and frames without what it does not. Agents and controllers may be a release apart.

An agent's header names the tables and the kinds of scopes that it takes, and a sum of the fields that its rows have.
It is sent nothing that it would refuse. The revisions that it is told are of what it knows: an agent that is upgraded
knows more, and starts over instead of going on from rows that it could not read whole.
"""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass

import msgspec

from weft.policy import rows
from weft.policy.rows import TABLES

#: The header.
KNOWS = "weft-knows"
SCOPES = ("host:", "rd:", "security-group:", "prefixes:")


def _fields() -> int:
    """Of all rows, and of what is in them, by their types as they are written."""
    types = sorted((name, kind) for name, kind in vars(rows).items() if dataclasses.is_dataclass(kind))
    said = [f"{name}.{field.name}={field.type}" for name, kind in types for field in dataclasses.fields(kind)]
    return zlib.crc32(" ".join(said).encode())


#: What this release knows.
OURS = " ".join([*TABLES, *SCOPES, f"{_fields():08x}"])

#: What the first release knew, which did not say so.
FIRST = (
    "hosts subnets peers rewrites records macs members routes address_groups security_groups ports"
    " host: rd: security-group: prefixes:"
)


class _Frame(msgspec.Struct, omit_defaults=True):
    scope: str | None = None
    puts: dict[str, msgspec.Raw] | None = None
    deletes: dict[str, msgspec.Raw] | None = None
    leave: str | None = None


_decode = msgspec.json.Decoder(_Frame).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Known:
    """everything: there is nothing to leave out."""

    tables: frozenset[str]
    scopes: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, said: str) -> Known:
        words = said.split()
        scopes = tuple(word for word in words if word.endswith(":"))
        return cls(frozenset(words) - frozenset(scopes), scopes, f"~{zlib.crc32(said.encode()):08x}")

    @property
    def everything(self) -> bool:
        return self.tables >= TABLES.keys() and set(self.scopes) >= set(SCOPES)

    def without_the_rest(self, frame: bytes) -> bytes:
        """A frame as the agent can take it; nothing when nothing is left of it."""
        said = _decode(frame)
        scope = said.scope or said.leave
        if scope is None:  # a bookmark, or what a resumed stream begins with
            return frame
        if not scope.startswith(self.scopes):
            return b""
        tables = {*(said.puts or ()), *(said.deletes or ())}
        if tables <= self.tables:
            return frame
        for given in (said.puts, said.deletes):
            for table in tables - self.tables:
                if given is not None:
                    given.pop(table, None)
        if not said.deletes:
            said.deletes = None
        return _encode(said) + b"\n" if said.puts or said.deletes else b""

"""Versions of what stores hold, and the way from each to the next and back. Knows no store.

A version is of names and values, whatever keeps them. A release reads what the release before wrote, and can write
what that one reads: by a backup, which says its version, so that nobody has to guess. What cannot be said in the older
version is refused, and not dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from weft.kit.errors import Rejected

#: Of what this Weft writes.
VERSION = 1

Values: TypeAlias = Mapping[str, bytes]
#: All that is there, in one version, to all that is there in the version beside it. Raises Rejected.
Step: TypeAlias = Callable[[Values], Values]


@dataclass(frozen=True, slots=True)
class Schema:
    """forward: by the version that a step begins at; back: by the version that it begins at, too."""

    version: int = VERSION
    forward: Mapping[int, Step] = field(default_factory=dict)
    back: Mapping[int, Step] = field(default_factory=dict)

    def taken(self, values: Values, version: int) -> Values:
        """What was written in another version, in ours."""
        if version > self.version:
            raise Rejected(
                f"it has schema version {version}, and this Weft knows none after {self.version}: let the newer Weft"
                f" export it with --schema {self.version}",
                "schema",
            )
        while version < self.version:
            step = self.forward.get(version)
            if step is None:
                raise Rejected(
                    f"it has schema version {version}, from which there is no way to {self.version}", "schema"
                )
            values, version = step(values), version + 1
        return values

    def given(self, values: Values, version: int) -> Values:
        """What is ours, as another version has it."""
        if not 1 <= version <= self.version:
            raise Rejected(f"there is no schema version {version}; this Weft writes {self.version}", "schema")
        at = self.version
        while at > version:
            step = self.back.get(at)
            if step is None:
                raise Rejected(f"from schema version {at} there is no way back to {version}", "schema")
            values, at = step(values), at - 1
        return values


#: The first version has none before it.
SCHEMA = Schema()

"""Versions of what stores hold, and the way from each to the next and back. Knows no store.

A version is of names and values, whatever keeps them: a file, etcd, a backup. A release reads and writes its own and
the one before, so that both can serve one store while an upgrade goes on, and an upgrade can be taken back. What cannot
be said in the older version is named; it is dropped only when that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from weft.contracts.store import SCHEMA as VERSION
from weft.kit.errors import Rejected
from weft.store import release_1

Values: TypeAlias = Mapping[str, bytes]

# Faults that a refusal names; it says how many more there are.
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Step:
    """Between a version and the next. forward and back look at one object at a time, whatever else there is.

    forward: a value as the newer version has it. back: what the older can hold of it (None: nothing), and what of it
    that is not. complete: what the newer has beside all that the older had.
    """

    forward: Callable[[str, bytes], bytes]
    back: Callable[[str, bytes], tuple[bytes | None, tuple[Unsayable, ...]]]
    complete: Callable[[Values], Values] = lambda values: values


Unsayable: TypeAlias = release_1.Unsayable


@dataclass(frozen=True, slots=True)
class Given:
    """What there is in an older version. dropped: what it cannot say."""

    values: Values
    dropped: tuple[Unsayable, ...] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """steps: by the older of the two versions that each is between."""

    version: int = VERSION
    steps: Mapping[int, Step] = field(default_factory=dict)

    def check(self, version: int, what: str) -> None:
        """Refuses a version that this Weft cannot read at all."""
        if version > self.version:
            raise Rejected(
                f"{what} has schema version {version}, of a newer Weft; this one knows none after {self.version}: let"
                f" the newer one take it back, by weft store migrate --to {self.version} or weft store export --schema"
                f" {self.version}",
                "schema",
            )
        if any(each not in self.steps for each in range(version, self.version)):
            raise Rejected(
                f"{what} has schema version {version}, from which this Weft knows no way to its own, {self.version}:"
                " go by the releases in between, one after the other",
                "schema",
            )

    def forward(self, values: Values, version: int) -> Values:
        """Each object of another version in ours, and nothing beside."""
        self.check(version, "it")
        for at in range(version, self.version):
            step = self.steps[at].forward
            values = {name: step(name, value) for name, value in values.items()}
        return values

    def taken(self, values: Values, version: int) -> Values:
        """All that was written in another version, in ours."""
        self.check(version, "it")
        for at in range(version, self.version):
            step = self.steps[at]
            values = step.complete({name: step.forward(name, value) for name, value in values.items()})
        return values

    def given(self, values: Values, version: int, *, drop: bool = False) -> Given:
        """What is ours, as an older version has it. Raises Rejected for what that cannot say and may not be dropped."""
        if not 1 <= version <= self.version or any(at not in self.steps for at in range(version, self.version)):
            oldest = min(self.steps, default=self.version)
            raise Rejected(
                f"there is no schema version {version} to be written; this Weft writes {oldest}..{self.version}",
                "schema",
            )
        dropped: list[Unsayable] = []
        for at in range(self.version - 1, version - 1, -1):
            left: dict[str, bytes] = {}
            for name, value in values.items():
                older, lost = self.steps[at].back(name, value)
                dropped += lost
                if older is not None:
                    left[name] = older
            values = left
        stays = [each for each in dropped if not (drop and each.may_go)]
        if stays:
            named = "; ".join(map(str, stays[:_NAMED])) + (
                f"; and {len(stays) - _NAMED} more" if len(stays) > _NAMED else ""
            )
            raise Rejected(f"schema version {version} cannot say: {named}", stays[0].field)
        return Given(values, tuple(dropped))


SCHEMA = Schema(VERSION, {1: Step(release_1.forward, release_1.back, release_1.complete)})

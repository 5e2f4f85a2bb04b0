"""Every object there is. Signatures only, so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from weft.model.drafts import Draft
from weft.model.names import Kind, Name
from weft.model.objects import Object


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one object: old None: it is new; new None: it is gone."""

    name: Name
    old: Object | None
    new: Object | None


class Catalog:
    """Every object, valid as a whole. Never half changed."""

    def apply(self, puts: Iterable[Draft], deletes: Iterable[Name] = ()) -> tuple[Change, ...]:
        raise NotImplementedError

    def revert(self, changes: tuple[Change, ...]) -> None:
        """Undo the last apply; several are undone last first."""
        raise NotImplementedError

    def load(self, objects: Iterable[Object]) -> None:
        """Take objects that a catalog made before, in any order."""
        raise NotImplementedError

    def get(self, name: str) -> Object | None:
        raise NotImplementedError

    def objects(self, kind: Kind) -> Mapping[Name, Object]:
        """By name; in no particular order."""
        raise NotImplementedError

    def names(self, kind: Kind) -> Sequence[Name]:
        """Sorted, for lists that are read page by page."""
        raise NotImplementedError

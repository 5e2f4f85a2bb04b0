"""Where intent is kept. Knows names, bytes and revisions, and nothing of what they mean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from weft.kit.errors import Retry

#: The version of names and values that this Weft writes, when it may (weft.store.schema).
SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as it is kept. revision: of the commit that last wrote it."""

    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """identity: of this store and no other, for ever; revisions of two stores have nothing to do with each other.

    schema: the version that all of it is in.
    """

    objects: Mapping[str, Stored]
    revision: int
    identity: str = field(default="", compare=False)
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Batch:
    """One commit. A watcher sees each, whole, once, in order. schema: the version that it is in."""

    revision: int
    puts: Mapping[str, bytes]
    deletes: Collection[str]
    schema: int = SCHEMA


class Compacted(Exception):
    """The log no longer reaches back to the revision asked for: take a snapshot and start from there."""


class PreconditionFailed(Exception):
    """An object is not at the revision that the commit rests on. Nothing was written."""

    def __init__(self, name: str, expected: int, actual: int) -> None:
        super().__init__(f"{name} is at revision {actual}, not {expected}")
        self.name, self.expected, self.actual = name, expected, actual


class Overtaken(Exception):
    """Somebody has written what a commit was judged against. Nothing was written: catch up, and judge again."""


class OtherSchema(Overtaken):
    """The store has gone over to another schema. Nothing was written: say it in that one."""


class Unsure(Retry):
    """Nobody can tell yet whether the commit was made: it is whole in the log, now or soon, or never will be."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What a commit was judged against: no commit after ``since`` has written anything of ``reads``.

    Marks are words that mean nothing to a store. A commit writes those of ``writes``, and the names that it puts and
    deletes. So whoever is judged by what others wrote needs no lock, only to be told that he was overtaken.
    """

    since: int
    reads: Collection[str] = ()
    writes: Collection[str] = ()


class Store(Protocol):
    """Revisions are positive and grow by one a commit; an empty store is at 0."""

    @property
    def shared(self) -> bool:
        """Whether others may write to it, too."""
        ...

    @property
    def schema(self) -> int:
        """The version that it is in, as far as is known here: of a shared store, from the first snapshot on."""
        ...

    async def snapshot(self) -> Snapshot: ...

    async def head(self) -> int:
        """The revision of the newest commit of all that were made before this was called."""
        ...

    async def commit(
        self,
        preconditions: Mapping[str, int],
        puts: Mapping[str, bytes],
        deletes: Collection[str],
        guard: Guard | None = None,
        schema: int = SCHEMA,
    ) -> int:
        """All or nothing, durable when it returns. preconditions: name -> revision it must be at, 0 for absent.

        Deleting what is absent is no fault. schema: the version of the puts. Raises PreconditionFailed; Overtaken,
        OtherSchema; Retry: it was not made; Unsure.
        """
        ...

    async def migrate(self, at: int, schema: int, puts: Mapping[str, bytes], deletes: Collection[str]) -> int:
        """One commit that takes the store as it is at a revision to another schema, all or nothing.

        Whoever was judged before it is overtaken. Raises Overtaken: it is at another revision; Retry; Unsure.
        """
        ...

    def watch(self, revision: int) -> AsyncGenerator[Batch, None]:
        """Every commit after ``revision``, then those to come; ends when the store is closed.

        Raises Compacted: at the first step, or later when the log overtakes a watcher that is slow to read.
        """
        ...

    async def close(self) -> None: ...

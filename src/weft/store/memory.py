"""The store contract in memory, for tests. Refuses what the real ones refuse, and keeps nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping

from weft.contracts.store import (
    SCHEMA,
    Batch,
    Compacted,
    Guard,
    OtherSchema,
    Overtaken,
    PreconditionFailed,
    Snapshot,
    Stored,
)
from weft.kit.errors import Retry
from weft.store.marks import EVERYTHING, Marks


class MemoryStore:
    """Objects in a dict, the log in a deque of bounded length."""

    def __init__(self, log_commits: int = 10_000, *, shared: bool = False, schema: int = SCHEMA) -> None:
        """shared: as if others could have it, too: several controllers of one test. schema: of another release."""
        self.schema = schema
        self._shared = shared
        self._objects: dict[str, Stored] = {}
        self._log: deque[Batch] = deque(maxlen=log_commits)
        self._revision = 0
        self._identity = uuid.uuid4().hex
        self._marks = Marks(0)
        self._closed = False
        self._moved = asyncio.Event()

    @property
    def shared(self) -> bool:
        return self._shared

    async def snapshot(self) -> Snapshot:
        self._refuse_when_closed()
        return Snapshot(dict(self._objects), self._revision, self._identity, self.schema)

    async def head(self) -> int:
        return self._revision

    async def commit(
        self,
        preconditions: Mapping[str, int],
        puts: Mapping[str, bytes],
        deletes: Collection[str],
        guard: Guard | None = None,
        schema: int = SCHEMA,
    ) -> int:
        self._refuse_when_closed()
        if schema != self.schema:
            raise OtherSchema(f"the store has schema version {self.schema}, not {schema}")
        self._marks.check(guard)
        for name, expected in preconditions.items():
            stored = self._objects.get(name)
            actual = stored.revision if stored else 0
            if actual != expected:
                raise PreconditionFailed(name, expected, actual)
        return self._write(puts, deletes, guard)

    async def migrate(self, at: int, schema: int, puts: Mapping[str, bytes], deletes: Collection[str]) -> int:
        self._refuse_when_closed()
        if at != self._revision:
            raise Overtaken(f"the store is at revision {self._revision}, not {at}")
        self.schema = schema
        return self._write(puts, deletes, Guard(at, (), {EVERYTHING}))

    def _write(self, puts: Mapping[str, bytes], deletes: Collection[str], guard: Guard | None) -> int:
        self._revision += 1
        self._marks.note(self._revision, guard, puts, deletes)
        for name in deletes:
            self._objects.pop(name, None)
        for name, value in puts.items():
            self._objects[name] = Stored(bytes(value), self._revision)
        self._log.append(Batch(self._revision, dict(puts), tuple(deletes), self.schema))
        self._wake()
        return self._revision

    async def watch(self, revision: int) -> AsyncGenerator[Batch, None]:
        while not self._closed:
            oldest = self._log[0].revision if self._log else self._revision + 1
            if not oldest - 1 <= revision <= self._revision:
                raise Compacted(f"the log holds {oldest}..{self._revision} and cannot go on from {revision}")
            moved = self._moved
            # By index: what a slow consumer has not read may leave the log meanwhile.
            if revision < self._revision:
                batch = self._log[revision + 1 - oldest]
                revision = batch.revision
                yield batch
            else:
                await moved.wait()

    async def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Retry("the store is closed")

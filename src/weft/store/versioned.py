"""A store in this Weft's schema, whatever schema it is in: its own, or that of the release before. Migrates nothing.

While an upgrade goes on, controllers of two releases have one store. It stays in the older one's schema until somebody
says that the upgrade is over (weft.store.migration); the newer ones read it as theirs, and write what the older can
read. What that cannot hold is refused. The moment it goes over is a commit like any other, and whoever was judged
before it is overtaken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing

from weft.contracts.store import Batch, Guard, OtherSchema, Snapshot, Store, Stored
from weft.kit.errors import Rejected
from weft.store.schema import SCHEMA, Schema

# Values put in another schema in the event loop; more of them go to a thread.
_INLINE = 1_000


class Versioned:
    """The store contract over a store."""

    def __init__(self, store: Store, schema: Schema = SCHEMA) -> None:
        self._store = store
        self._own = schema

    @property
    def shared(self) -> bool:
        return self._store.shared

    @property
    def schema(self) -> int:
        return self._own.version

    @property
    def stored_as(self) -> int:
        """The schema that the store is in."""
        return self._store.schema

    async def head(self) -> int:
        return await self._store.head()

    async def snapshot(self) -> Snapshot:
        found = await self._store.snapshot()
        if found.schema == self._own.version:
            return found
        self._own.check(found.schema, "the store")
        values = {name: stored.value for name, stored in found.objects.items()}
        ours = await asyncio.to_thread(self._own.forward, values, found.schema)
        objects = {name: Stored(ours[name], stored.revision) for name, stored in found.objects.items()}
        return Snapshot(objects, found.revision, found.identity, self._own.version)

    async def commit(
        self,
        preconditions: Mapping[str, int],
        puts: Mapping[str, bytes],
        deletes: Collection[str],
        guard: Guard | None = None,
    ) -> int:
        """Raises Rejected for what the store cannot hold."""
        while True:
            version = self._store.schema
            try:
                return await self._store.commit(preconditions, await self._as(puts, version), deletes, guard, version)
            except OtherSchema:
                if guard is not None:
                    raise  # it was judged by what was before, too

    async def watch(self, revision: int) -> AsyncGenerator[Batch, None]:
        async with aclosing(self._store.watch(revision)) as batches:
            async for batch in batches:
                if batch.schema == self._own.version:
                    yield batch
                else:
                    puts = self._own.forward(batch.puts, batch.schema)
                    yield Batch(batch.revision, puts, batch.deletes, self._own.version)

    async def close(self) -> None:
        await self._store.close()

    async def refuse(self, puts: Mapping[str, bytes]) -> None:
        """Raises Rejected for what the store cannot hold as it is."""
        await self._as(puts, self._store.schema)

    async def _as(self, puts: Mapping[str, bytes], version: int) -> Mapping[str, bytes]:
        if version == self._own.version:
            return puts
        try:
            if len(puts) <= _INLINE:
                return self._own.given(puts, version).values
            return (await asyncio.to_thread(self._own.given, puts, version)).values
        except Rejected as error:
            raise Rejected(
                f"{error.message}. The store is kept as the release before reads it until the upgrade is over and"
                f" somebody says so: weft store migrate",
                error.field,
            ) from error

"""Takes a store to another schema: one commit, so it is there whole or not at all, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from weft.contracts.store import Overtaken, Store
from weft.kit.errors import Retry
from weft.store.schema import SCHEMA, Schema, Unsayable, Values

# Who writes to it meanwhile makes it begin anew; each time it is quicker to read than to write.
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Migrated:
    """before and after: versions. written: objects that are not as they were, or are no more."""

    before: int
    after: int
    written: int
    dropped: tuple[Unsayable, ...]


async def migrate(
    store: Store, to: int, *, drop: bool = False, dry_run: bool = False, schema: Schema = SCHEMA
) -> Migrated:
    """Raises Rejected where there is no way, or something that the older version cannot say and may not be dropped."""
    for _ in range(_TRIES):
        snapshot = await store.snapshot()
        schema.check(snapshot.schema, "the store")
        had = {name: stored.value for name, stored in snapshot.objects.items()}
        has, dropped = await asyncio.to_thread(_work_out, schema, had, snapshot.schema, to, drop)
        puts = {name: value for name, value in has.items() if had.get(name) != value}
        deletes = [name for name in had if name not in has]
        outcome = Migrated(snapshot.schema, to, len(puts) + len(deletes), dropped)
        if dry_run or snapshot.schema == to:
            return outcome
        try:
            await store.migrate(snapshot.revision, to, puts, deletes)
        except Overtaken:
            continue
        return outcome
    raise Retry("the store is written to all the time; nothing was changed")


def _work_out(
    schema: Schema, had: Mapping[str, bytes], version: int, to: int, drop: bool
) -> tuple[Values, tuple[Unsayable, ...]]:
    if version == to:
        return had, ()
    given = schema.given(schema.taken(had, version), to, drop=drop)
    return given.values, given.dropped

"""What hosts are to have at each revision, worked out from the store's log alone. Asks no controller."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from weft.compiler.compiler import Compiler
from weft.contracts.store import Batch
from weft.model.catalog import Catalog, Change
from weft.model.features import ABILITIES
from weft.model.names import Name
from weft.policy.rows import Row
from weft.wire.objects import load


def digest(rows: Collection[Row]) -> int:
    """Of rows in any order; of this process only."""
    return hash(frozenset(rows))


def fed(log: Sequence[Batch], wanted: Mapping[str, Collection[int]]) -> dict[tuple[str, int], int]:
    """(host, revision) -> digest of the rows that the host is to have then."""
    catalog = Catalog(ABILITIES)
    compiler = Compiler(catalog)
    found: dict[tuple[str, int], int] = {}
    for batch in log:
        values = {Name(name): load(Name(name), value) for name, value in batch.puts.items()}
        changes = [Change(name, catalog.get(name), value) for name, value in values.items()]
        gone = [Name(name) for name in batch.deletes if name not in values]
        changes += [Change(name, old, None) for name in gone if (old := catalog.get(name)) is not None]
        catalog.take(changes)
        compiler.apply(tuple(changes))
        for host, revisions in wanted.items():
            if batch.revision in revisions:
                rows = [row for scope in compiler.scopes_of(host) for row in compiler.rows(scope).values()]
                found[host, batch.revision] = digest(rows)
    return found

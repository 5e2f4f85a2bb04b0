"""The difference between what is and what should be, and the order in which to make it so. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weft.policy.rows import ORDER, TABLES, Key, Row


@dataclass(frozen=True, slots=True)
class Delta:
    """Puts first, in the tables' order; then deletes, in reverse: a record may be moving, not going."""

    puts: tuple[Row, ...] = ()
    deletes: tuple[Key, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes)


_RANKS = {TABLES[table]: rank for table, rank in ORDER.items()}


def _rank(key: Key) -> int:
    return ORDER[key[0]]


def _row_rank(row: Row) -> int:
    return _RANKS[type(row)]  # the key would say it too, but is made anew each time it is asked for


def ordered(puts: Iterable[Row], deletes: Iterable[Key]) -> Delta:
    """Both sides in the order in which a data plane must be told of them."""
    return Delta(
        tuple(sorted(puts, key=_row_rank)),
        tuple(sorted(deletes, key=_rank, reverse=True)),
    )


def between(actual: Mapping[Key, Row], desired: Mapping[Key, Row]) -> Delta:
    """What turns ``actual`` into ``desired``."""
    return ordered(
        (row for key, row in desired.items() if actual.get(key) != row),
        (key for key in actual if key not in desired),
    )


@dataclass(slots=True)
class ScopedDelta:
    """Changes by scope, as the compiler gives them out; a host's memberships are among them.

    entered / left: (host name, scope) pairs: the host now needs, or no longer may have, the scope's rows.
    """

    scopes: dict[str, Delta] = field(default_factory=dict)
    entered: tuple[tuple[str, str], ...] = ()
    left: tuple[tuple[str, str], ...] = ()

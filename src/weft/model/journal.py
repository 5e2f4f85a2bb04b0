"""What was done to dictionaries, so that it can be undone exactly. Knows nothing of what they hold."""

from __future__ import annotations

from typing import Any, Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Final = object()


class Journal:
    """Every change to an index goes through here. Never changes a dictionary by itself but to undo."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        # Any: one journal writes for dictionaries of every type; put and drop hold each call to its own.
        self._entries: list[tuple[dict[Any, Any], Any, object]] = []

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        self._entries.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    def drop(self, table: dict[K, V], key: K) -> None:
        self._entries.append((table, key, table.pop(key)))

    def undo(self) -> None:
        """Take back everything since the last forget."""
        for table, key, value in reversed(self._entries):
            if value is _ABSENT:
                del table[key]
            else:
                table[key] = value
        self._entries.clear()

    def forget(self) -> None:
        """What was done stays done."""
        self._entries.clear()

"""What the store keeps beside intent: tokens, quotas, the audit log. Names that are no object's; knows nothing of them.

It is committed with the write that it belongs to, so it is there exactly when that is; and it comes to every controller
by the same log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from weft.contracts.store import Stored
from weft.model.names import find_kind


def is_intent(name: str) -> bool:
    """Whether a name in the store is an object's."""
    return find_kind(name) is not None


@dataclass(slots=True)
class Extra:
    """What goes with a commit. reads: marks that nobody may have written since it was judged."""

    puts: dict[str, bytes] = field(default_factory=dict)
    deletes: list[str] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)


class Beside:
    """All of it, as it is committed."""

    def __init__(self, stored: Mapping[str, Stored] | None = None) -> None:
        self._stored: dict[str, Stored] = {}
        self._below: dict[str, dict[str, None]] = {}  # by what is before a name's last slash
        self._bytes: Counter[str] = Counter()
        if stored is not None:
            for name in sorted(stored):
                if not is_intent(name):
                    self._put(name, stored[name])

    def get(self, name: str) -> Stored | None:
        return self._stored.get(name)

    def below(self, place: str) -> Iterator[tuple[str, Stored]]:
        """Every (name, value) of a place such as ``access/tokens``, in the order in which they came.

        Not to be held while anything is taken.
        """
        for name in self._below.get(place, ()):
            yield name, self._stored[name]

    def count(self, place: str) -> int:
        return len(self._below.get(place, ()))

    def bytes_of(self, place: str) -> int:
        return self._bytes[place]

    def take(self, revision: int, puts: Mapping[str, bytes], deletes: Collection[str]) -> None:
        """What a commit has written; objects among it are left."""
        for name in deletes:
            self._remove(name)
        for name, value in puts.items():
            if not is_intent(name):
                self._put(name, Stored(bytes(value), revision))

    def start_over(self, stored: Mapping[str, Stored]) -> None:
        for name in [name for name in self._stored if name not in stored]:
            self._remove(name)
        for name in sorted(stored):
            if not is_intent(name) and self._stored.get(name) != stored[name]:
                self._put(name, stored[name])

    def _put(self, name: str, value: Stored) -> None:
        self._remove(name)
        self._stored[name] = value
        self._below.setdefault(_place(name), {})[name] = None
        self._bytes[_place(name)] += len(value.value)

    def _remove(self, name: str) -> None:
        if name in self._stored:
            self._bytes[_place(name)] -= len(self._stored.pop(name).value)
            del self._below[_place(name)][name]


def _place(name: str) -> str:
    return name.rpartition("/")[0]

"""What the judges of every kind share: a put as it comes to them, and how a fault gets its field. Judges nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from weft.kit.errors import Rejected
from weft.model.names import Name

D = TypeVar("D")
O = TypeVar("O")  # noqa: E741 - D, O: a draft and an object
G = TypeVar("G")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Put(Generic[D, O]):
    """The batch's ``rank``-th put. old: the object as it was before the batch, if it was."""

    rank: int
    name: Name
    draft: D
    old: O | None

    @property
    def field(self) -> str:
        return f"puts[{self.rank}]"


def read(field: str, parse: Callable[[G], V], given: G) -> V:
    """Parse one field; a fault is said to be there."""
    try:
        return parse(given)
    except Rejected as fault:
        raise fault.at(field) from None


def humane(name: Name) -> tuple[int, str]:
    """The order in which names choose: web-2 before web-10, and the same whatever the order in a request."""
    return len(name), name

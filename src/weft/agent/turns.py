"""What waits of many tenants, and takes turns: none fills the queue for the others. Knows not what it is that waits."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from weft.policy.rows import tenant_of_port

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """At most so many in all; of them a tenant has no more than it leaves: alone half, beside another a third."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._of: dict[str, deque[_T]] = {}  # whose turn is next is first

    def __len__(self) -> int:
        return self._waiting

    def put(self, port: str, what: _T) -> bool:
        """False: there is no room for it."""
        tenant = tenant_of_port(port)
        queue = self._of.get(tenant)
        if (0 if queue is None else len(queue)) >= self._most - self._waiting:
            return False
        if queue is None:
            queue = self._of[tenant] = deque()
        queue.append(what)
        self._waiting += 1
        return True

    def take(self) -> _T:
        """The oldest of whose turn it is; raises IndexError when nothing waits."""
        if not self._of:
            raise IndexError("nothing waits")
        tenant = next(iter(self._of))
        queue = self._of.pop(tenant)
        what = queue.popleft()
        if queue:
            self._of[tenant] = queue
        self._waiting -= 1
        return what

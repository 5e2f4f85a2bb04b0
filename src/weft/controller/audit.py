"""Who did what, from where, and what it was before and after: kept in the same commit as what was done.

Never holds a secret: of tokens only what everybody may read is said, and a field of an object whose name says that it
is a secret is masked. What hosts report, and the controller's own steps, are not in it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import msgspec

from weft.controller.authorisation import Caller, Role
from weft.controller.beside import Extra
from weft.controller.service import Difference, Service

PLACE = "audit"

#: Whoever's request is being answered. None: the controller's own doing.
CALLER: ContextVar[Caller | None] = ContextVar("weft_caller", default=None)

#: What is kept: beyond either the oldest goes. Who wants more follows it, and keeps it elsewhere.
MOST_ENTRIES = 10_000
MOST_BYTES = 32 << 20

# One entry; a write of more has several. etcd takes values of 1.5 MiB.
_ENTRY_BYTES = 128 << 10
# Of one write, with what was before and after; of the rest of a very large one, names only.
_DETAIL_BYTES = 1 << 20


#: A field that is nobody's to read, by its name: it is masked whatever kind it is of, now or later.
SECRET = re.compile(r"(?:^|_)(?:secrets?|passwords?|passphrase|psk|pre_?shared_key|private_key|credentials?)(?:_|$)")
MASK = "(secret)"
_PERHAPS = re.compile(rb"secret|pass|psk|shared|private|credential")


class _Change(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    action: str
    before: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    after: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    at: str
    who: str
    role: str
    where: str
    changes: list[_Change]
    #: before and after were too much to keep
    shortened: bool = False


class Audit:
    """The log, as far as it is kept."""

    def __init__(self, service: Service, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._beside = service.beside
        self._now_ns = now_ns
        service.record = self.record

    def record(self, extra: Extra, done: Sequence[Difference]) -> None:
        """Adds to a commit that somebody asked for what is to be remembered of it."""
        caller = CALLER.get()
        if caller is None or caller.role is Role.HOST or not done:
            return
        now_ns = self._now_ns()
        at = datetime.fromtimestamp(now_ns / 1e9, UTC).isoformat(timespec="milliseconds")
        # Controllers write beside each other: the random part keeps their entries apart.
        stamp = f"{PLACE}/{now_ns:020d}-{secrets.token_hex(4)}"
        for rank, (changes, shortened) in enumerate(_parts(done)):
            entry = _Entry(at, caller.name, caller.role.value, caller.where, changes, shortened)
            extra.puts[f"{stamp}-{rank:04d}"] = msgspec.json.encode(entry)
        extra.deletes += self._surplus(extra)

    def entries(self, most: int) -> list[msgspec.Raw]:
        """The newest, oldest first."""
        return [msgspec.Raw(stored.value) for _, stored in list(self._beside.below(PLACE))[-most:]]

    def _surplus(self, extra: Extra) -> list[str]:
        count = self._beside.count(PLACE) + len(extra.puts)
        size = self._beside.bytes_of(PLACE) + sum(map(len, extra.puts.values()))
        going: list[str] = []
        for name, stored in self._beside.below(PLACE):
            if count <= MOST_ENTRIES and size <= MOST_BYTES:
                break
            going.append(name)
            count -= 1
            size -= len(stored.value)
        return going


def _parts(done: Iterable[Difference]) -> Iterator[tuple[list[_Change], bool]]:
    changes: list[_Change] = []
    size = total = 0
    for each in done:
        detail = len(each.before or b"") + len(each.after or b"")
        shortened = total + detail > _DETAIL_BYTES
        change = _Change(each.name, each.action) if shortened else _whole(each)
        length = len(each.name) + 40 + (0 if shortened else detail)
        if changes and size + length > _ENTRY_BYTES:
            yield changes, total > _DETAIL_BYTES
            changes, size = [], 0
        changes.append(change)
        size += length
        total += detail
    yield changes, total > _DETAIL_BYTES


def _whole(each: Difference) -> _Change:
    return _Change(
        each.name,
        each.action,
        msgspec.UNSET if each.before is None else msgspec.Raw(masked(each.before)),
        msgspec.UNSET if each.after is None else msgspec.Raw(masked(each.after)),
    )


def masked(spec: bytes) -> bytes:
    """JSON without what is in its secret fields."""
    return msgspec.json.encode(_masked(msgspec.json.decode(spec))) if _PERHAPS.search(spec) else spec


def _masked(said: Any) -> Any:
    if isinstance(said, dict):
        return {name: MASK if SECRET.search(name) else _masked(value) for name, value in said.items()}
    return [_masked(each) for each in said] if isinstance(said, list) else said

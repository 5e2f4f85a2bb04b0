"""Who is there, and whose turn it is, by a lease in etcd that ends when its holder no longer says that it is there."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from weft.contracts.clock import Clock
from weft.contracts.store import SCHEMA
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Rejected, Retry
from weft.store.etcd_client import (
    Address,
    Etcd,
    Range,
    Transaction,
    delete,
    end_of,
    has_value,
    is_absent,
    put,
    read,
)

# etcd grants no less than an election takes; the margin is what our clock and its may differ by meanwhile.
LEASE_S = 4
_MARGIN_S = 0.8
_KEEP_S = 0.8
_ASK_S = 0.5

_log = structlog.stdlib.get_logger("weft.cluster")


class EtcdCluster:
    """The cluster contract. url: where the others reach this one."""

    def __init__(self, address: Address, url: str, clock: Clock | None = None) -> None:
        self.id = uuid.uuid4().hex
        self._etcd = Etcd(address)
        self._prefix = address.prefix.rstrip("/").encode()
        self._url = url
        self._clock = clock or MonotonicClock()
        self._lease: int | None = None
        self._until_s = 0.0
        self._lost = asyncio.Event()

    async def run(self) -> None:
        while True:
            began_s = self._clock.now_s()
            try:
                async with asyncio.timeout(None if self._lease is None else max(0.0, self._until_s - began_s)):
                    held = await self._keep()
                if held:
                    self._until_s = began_s + LEASE_S - _MARGIN_S
                else:
                    self._lose("etcd has let it go")
            except TimeoutError:
                self._lose("etcd does not answer")
            except (Retry, Rejected) as error:
                if self._lease is not None and self._clock.now_s() >= self._until_s:
                    self._lose(str(error))
            await self._clock.sleep(_KEEP_S)

    async def _keep(self) -> bool:
        if self._lease is not None:
            return await self._etcd.keep(self._lease)
        lease = await self._etcd.grant(LEASE_S)
        await self._etcd.transact(
            Transaction(
                (),
                [
                    put(self._key(f"controllers/{self.id}"), self._url.encode(), lease),
                    put(self._key(f"schemas/{self.id}"), b"%d" % SCHEMA, lease),
                ],
            )
        )
        self._lost = asyncio.Event()
        self._lease = lease
        return True

    def _lose(self, reason: str) -> None:
        if self._lease is not None:
            _log.warning("this controller's lease has ended", reason=reason)
        self._lease = None
        self._lost.set()

    @asynccontextmanager
    async def turn(self, work: str) -> AsyncIterator[asyncio.Event]:
        key, me = self._key(f"turns/{work}"), self.id.encode()
        while True:
            lease, lost = self._lease, self._lost
            with contextlib.suppress(Retry, Rejected):
                if lease is not None and await self._take(key, me, lease) and not lost.is_set():
                    break
            await self._clock.sleep(_ASK_S)
        _log.info("it is this controller's turn", work=work)
        try:
            yield lost
        finally:
            with contextlib.suppress(Retry, Rejected):
                await self._etcd.transact(Transaction([has_value(key, me)], [delete(key)]))

    async def _take(self, key: bytes, me: bytes, lease: int) -> bool:
        outcome = await self._etcd.transact(Transaction([is_absent(key)], [put(key, me, lease)], [read(key)]))
        if outcome.succeeded:
            return True
        # Ours by a try that nobody answered; by an earlier lease it will go with that.
        return any(kv.value == me and kv.lease == lease for found in outcome.ranges for kv in found.kvs)

    async def others(self) -> AsyncGenerator[Mapping[str, str], None]:
        told: Mapping[str, str] | None = None
        prefix = self._key("controllers/")
        while True:
            with contextlib.suppress(Retry, Rejected):
                found = await self._etcd.range(Range(prefix, end_of(prefix)))
                there = {kv.key[len(prefix) :].decode(): kv.value.decode() for kv in found.kvs}
                there.pop(self.id, None)
                if there != told:
                    told = there
                    yield there
            await self._clock.sleep(_ASK_S)

    async def close(self) -> None:
        """Those who wait for a turn, or for this one, need not wait for the lease to end."""
        lease, self._lease = self._lease, None
        self._lost.set()
        if lease is not None:
            with contextlib.suppress(Retry, Rejected, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._etcd.revoke(lease)
        await self._etcd.close()

    async def left_behind_by(self, schema: int) -> list[str]:
        """URLs of the controllers that could not go on with a store of that schema. The first release said nothing."""
        there, told = [self._key(f"{what}/") for what in ("controllers", "schemas")]
        outcome = await self._etcd.transact(Transaction((), [read(each, end_of(each)) for each in (there, told)]))
        controllers, schemas = outcome.ranges
        known = {kv.key.removeprefix(told): int(kv.value) for kv in schemas.kvs}
        return [kv.value.decode() for kv in controllers.kvs if known.get(kv.key.removeprefix(there), 1) < schema]

    def _key(self, name: str) -> bytes:
        return self._prefix + b"/" + name.encode()

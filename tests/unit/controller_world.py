"""A controller inside a test: the real application and service, over the memory store, and what tests put into it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from weft.client import AsyncClient
from weft.contracts.store import SCHEMA, Guard, Store
from weft.controller.access import Access
from weft.controller.access_api import AccessApi
from weft.controller.api import create_app
from weft.controller.audit import Audit
from weft.controller.callers import Callers
from weft.controller.doors import PEER, Door, Peer
from weft.controller.limits import WAITS, Limits, Waits
from weft.controller.service import Service
from weft.controller.signing import Signer
from weft.kit.errors import Retry
from weft.model.features import ABILITIES, AbilityTable
from weft.model.names import Name
from weft.store.memory import MemoryStore

DOMAIN = "tenants/blue/routing-domains/prod"
WEB = Name(f"{DOMAIN}/virtual-subnets/web")

#: Two hosts, a tenant, a domain, a subnet; not in the order in which they need each other.
BASE: list[tuple[str, dict[str, Any]]] = [
    (WEB, {"prefixes": ["10.0.1.0/24", "fd00:1::/64"]}),
    (DOMAIN, {}),
    ("tenants/blue", {"description": "of the sea"}),
    ("hosts/h1", {"uplinks": [{"interface": "eth1", "provider_network": "phys"}]}),
    ("hosts/h2", {"uplinks": [{"interface": "eth1", "provider_network": "phys"}]}),
    ("provider-networks/phys", {"pools": [{"prefix": "192.0.2.0/24"}]}),
]


def defaults(tenant: str) -> list[str]:
    """What comes and goes with a tenant: its default group, and that one's rules."""
    group = f"tenants/{tenant}/security-groups/default"
    return [group, *(f"{group}/rules/{way}-{family}" for way in ("egress", "ingress") for family in ("ipv4", "ipv6"))]


def port(number: int, host: str | None = "h1") -> tuple[str, dict[str, Any]]:
    return f"tenants/blue/ports/p{number}", {"virtual_subnet": "prod/web", "host": host}


def much(tenant: str, labels: str = "ab") -> list[tuple[str, dict[str, Any]]]:
    """Groups whose rules take 30,720 entries each on a host: of these a tenant has room for two on each."""
    wide = {"direction": "ingress", "protocol": "tcp", "port_min": 1, "port_max": 65_534}
    groups = [f"tenants/{tenant}/security-groups/{label}" for label in labels]
    return [(each, {}) for each in groups] + [(f"{each}/rules/r{n}", wide) for each in groups for n in range(1024)]


class UnsureStore(MemoryStore):
    """A memory store that may be told to fail, or to wait in the middle of a commit."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.going_on = asyncio.Event()
        self.going_on.set()
        self.entered = asyncio.Event()

    async def commit(
        self,
        preconditions: Mapping[str, int],
        puts: Mapping[str, bytes],
        deletes: Collection[str],
        guard: Guard | None = None,
        schema: int = SCHEMA,
    ) -> int:
        self.entered.set()
        await self.going_on.wait()
        if self.failing:
            raise Retry("the disk is full")
        return await super().commit(preconditions, puts, deletes, guard, schema)


@dataclass(frozen=True, slots=True)
class World:
    store: Store
    service: Service
    http: httpx2.AsyncClient
    client: AsyncClient


LOCAL = Peer(Door.LOCAL, "uid 0")


@dataclass(frozen=True, slots=True)
class CameIn:
    """The application, as it is asked by somebody who came in by one of its doors."""

    app: Starlette
    peer: Peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, PEER: self.peer}, receive, send)


def assembled(
    service: Service,
    stopping: asyncio.Event | None = None,
    *,
    callers: Callers | None = None,
    now_s: Callable[[], float] = time.time,
    signer: Signer | None = None,
    limits: Limits | None = None,
    waits: Waits = WAITS,
) -> Starlette:
    """The whole application, as weft.apps.controller puts it together."""
    access, log = Access(service, now_s), Audit(service)
    stopping = stopping or asyncio.Event()
    more = AccessApi(service, access, log, stopping, signer).routes()
    known = callers or Callers([access.bearer], revoked=access.is_revoked, now_s=now_s)
    return create_app(service, stopping, known, more, limits=limits, waits=waits)


@asynccontextmanager
async def world(
    store: Store | None = None,
    *,
    base: bool = True,
    keep: bool = False,
    abilities: AbilityTable = ABILITIES,
    peer: Peer = LOCAL,
    callers: Callers | None = None,
    now_s: Callable[[], float] = time.time,
    signer: Signer | None = None,
) -> AsyncIterator[World]:
    """keep: the store stays open. Answers come whole: streams need a real server, as in test_controller_streams."""
    store = store or MemoryStore()
    service = await Service.start(store, abilities)
    # raise_app_exceptions: a bug behind a 500 ends the test with its own traceback.
    transport = httpx2.ASGITransport(CameIn(assembled(service, callers=callers, now_s=now_s, signer=signer), peer))
    async with (
        httpx2.AsyncClient(transport=transport, base_url="http://weft") as http,
        AsyncClient("http://weft", transport=transport) as client,
    ):
        if base:
            await client.apply(BASE)
        yield World(store, service, http, client)
        await service.stop()
    if not keep:
        await store.close()

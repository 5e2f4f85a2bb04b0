"""What one caller can do to others by asking too much, too slowly, or wrongly: nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from unit.controller_world import BASE, LOCAL, CameIn, assembled, world
from unit.test_authorisation import STRANGER, by_token, shows
from weft.controller import statuses
from weft.controller.authorisation import Action, Caller, Role
from weft.controller.callers import Callers
from weft.controller.doors import Door, Peer
from weft.controller.limits import AFTER, Limits, Share, TooMany
from weft.controller.service import Service
from weft.model.names import Name
from weft.store.memory import MemoryStore
from weft.tls import identity


class Now:
    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


ANN = Caller(Role.TENANT_ADMIN, "user/ann", Name("tenants/blue"))
BOB = Caller(Role.TENANT_READER, "user/bob", Name("tenants/blue"))
EVE = Caller(Role.TENANT_ADMIN, "user/eve", Name("tenants/red"))
HERE = Caller(Role.ADMIN, "local uid 0", where="uid 0")


def limits(now: Now, **share: Any) -> Limits:
    given = Share(**{"per_s": 10, "burst": 5, "at_once": 2, "streams": 1, "body_bytes": 100, **share})
    return Limits(dict.fromkeys(Role, given), now)


def asked(it: Limits, caller: Caller, times: int) -> int:
    """How often it was let through."""
    through = 0
    for _ in range(times):
        with contextlib.suppress(TooMany):
            it.count(caller)
            through += 1
    return through


def test_a_tenants_users_share_and_nobody_elses_share_is_touched() -> None:
    now = Now()
    it = limits(now)
    assert asked(it, ANN, 4) + asked(it, BOB, 4) == 5
    assert asked(it, EVE, 6) == 5
    now.at_s += 0.2
    assert asked(it, BOB, 4) == 2
    now.at_s += 1000
    assert asked(it, ANN, 100) == 5
    assert asked(it, HERE, 100) == 100


def test_places_are_given_back_when_a_request_is_over() -> None:
    it = limits(Now())
    scopes: list[dict[str, Any]] = [{} for _ in range(3)]
    it.occupy(ANN, Action.READ_INTENT, scopes[0])
    it.occupy(BOB, Action.READ_INTENT, scopes[1])
    with pytest.raises(TooMany, match="2 requests are being answered"):
        it.occupy(ANN, Action.READ_INTENT, scopes[2])
    it.occupy(EVE, Action.READ_INTENT, {})
    it.occupy(ANN, Action.WATCH, {})
    with pytest.raises(TooMany, match="1 streams are open"):
        it.occupy(BOB, Action.WATCH, {})
    scopes[0][AFTER][0]()
    it.occupy(BOB, Action.READ_INTENT, scopes[2])


def test_callers_without_number_do_not_fill_the_memory() -> None:
    now = Now()
    it = limits(now)
    for number in range(30_000):
        now.at_s += 0.01
        it.count(Caller(Role.NOBODY, where=f"2001:db8::{number:x}"))
    assert len(it._buckets) < 11_000


def by(application: Starlette, peer: Peer) -> httpx2.AsyncClient:
    """Somebody who came in by one of its doors."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(CameIn(application, peer)), base_url="http://w")


async def test_whoever_asks_too_fast_is_told_to_wait_and_others_are_served() -> None:
    service = await Service.start(MemoryStore())
    callers = Callers([by_token])
    application = assembled(service, callers=callers, limits=limits(Now()))
    headers = {"authorization": "Bearer blue-reader"}
    async with (
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(CameIn(application, STRANGER)), base_url="http://w"
        ) as tenant,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(CameIn(application, LOCAL)), base_url="http://w") as operator,
    ):
        found = [(await tenant.get("/v1/whoami", headers=headers)).status_code for _ in range(7)]
        assert found == [200] * 5 + [429] * 2
        refused = await tenant.get("/v1/whoami", headers=headers)
        assert refused.headers["retry-after"] == "1"
        assert (await operator.get("/v1/whoami")).status_code == 200


async def test_tokens_cannot_be_guessed_for_long() -> None:
    service = await Service.start(MemoryStore())
    application = assembled(service, callers=Callers([by_token]), limits=Limits(now_s=Now()))
    async with by(application, Peer(Door.TLS, "192.0.2.9")) as guesser:
        found = [
            (await guesser.get("/v1/whoami", headers={"authorization": f"Bearer weft_a_{n}"})).status_code
            for n in range(60)
        ]
        assert found == [401] * 50 + [429] * 10
        # Not even the right one: who guesses on would know it by that.
        assert (await guesser.get("/v1/whoami", headers={"authorization": "Bearer blue-admin"})).status_code == 429
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(CameIn(application, STRANGER)), base_url="http://w"
    ) as other:
        assert (await other.get("/v1/whoami", headers={"authorization": "Bearer blue-admin"})).status_code == 200


@pytest.mark.parametrize(("who", "path"), [("blue-admin", "/v1/apply"), ("", "/v1/join")])
async def test_bodies_are_bounded_by_who_sends_them(who: str, path: str) -> None:
    service = await Service.start(MemoryStore())
    application = assembled(service, callers=Callers([by_token]))
    headers = {"authorization": f"Bearer {who}"} if who else {}
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(CameIn(application, STRANGER)), base_url="http://w"
    ) as it:
        answer = await it.post(path, content=b" " * ((4 << 20) + 1), headers=headers)
        assert answer.status_code == 413


async def test_a_hostile_host_cannot_fill_the_controllers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "MOST_PORTS", 10)
    async with world(peer=shows(identity.Role.HOST, "h1"), base=False) as it:
        await it.service.apply([_put(*each) for each in BASE], [], dry_run=False)

        async def say(first: int, count: int) -> int:
            ports = {f"tenants/blue/ports/x{n}": {"state": "active"} for n in range(first, first + count)}
            return (await it.http.post("/v1/hosts/h1/status", json={"revision": 1, "ports": ports})).status_code

        assert await say(0, 10) == 204
        assert await say(5, 5) == 204
        assert await say(20, 1) == 422


def _put(name: str, spec: dict[str, Any]) -> Any:
    import msgspec

    from weft.controller.service import Put

    return Put(Name(name), msgspec.json.encode(spec))

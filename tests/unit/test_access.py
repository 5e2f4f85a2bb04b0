"""Users' tokens, quotas and the audit log, over the API."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from unit.controller_world import BASE, DOMAIN, WEB, CameIn, World, assembled, port, world
from weft.contracts.store import PreconditionFailed
from weft.controller import audit
from weft.controller.doors import Door, Peer
from weft.store.memory import MemoryStore
from weft.tls.identity import Identity, Role

STRANGER = Peer(Door.TLS, "192.0.2.7")


class Now:
    """A clock that is told the time."""

    def __init__(self) -> None:
        self.at_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.at_s


def stranger(it: World, now: Now) -> httpx2.AsyncClient:
    """Somebody from elsewhere, of whom nothing is known but what is shown."""
    application = CameIn(assembled(it.service, now_s=now), STRANGER)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(application), base_url="http://weft")


async def make(it: World, **wanted: Any) -> dict[str, Any]:
    answer = await it.http.post("/v1/tokens", json={"user": "ann", "role": "tenant-admin", "tenant": "blue", **wanted})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def bearing(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


# ---- tokens


async def test_a_token_is_good_for_its_role_until_it_is_revoked() -> None:
    now = Now()
    async with world(now_s=now) as it, stranger(it, now) as other:
        made = await make(it)
        seen = (await other.get("/v1/whoami", headers=bearing(made["secret"]))).json()
        assert seen == {"name": "user/ann", "role": "tenant-admin", "of": "tenants/blue", "where": "192.0.2.7"}
        listed = (await it.http.get("/v1/tokens")).json()["items"]
        assert [each["id"] for each in listed] == [made["id"]]
        assert "secret" not in listed[0]
        assert (await it.http.delete(f"/v1/tokens/{made['id']}")).status_code == 204
        assert (await other.get("/v1/whoami", headers=bearing(made["secret"]))).status_code == 401
        assert (await it.http.get("/v1/tokens")).json()["items"] == []
        assert (await it.http.delete(f"/v1/tokens/{made['id']}")).status_code == 404


async def test_a_token_ends_by_itself() -> None:
    now = Now()
    async with world(now_s=now) as it, stranger(it, now) as other:
        made = await make(it, expires_s=3600)
        now.at_s += 3599
        assert (await other.get("/v1/whoami", headers=bearing(made["secret"]))).status_code == 200
        now.at_s += 1
        assert (await other.get("/v1/whoami", headers=bearing(made["secret"]))).status_code == 401
        assert (await it.http.get("/v1/tokens")).json()["items"] == []


async def test_a_token_outlives_the_controller_and_nobody_can_read_it_in_the_store() -> None:
    store, now = MemoryStore(), Now()
    async with world(store, now_s=now, keep=True) as it:
        made = await make(it)
    async with world(store, now_s=now, base=False) as it, stranger(it, now) as other:
        assert (await other.get("/v1/whoami", headers=bearing(made["secret"]))).status_code == 200
        kept = b"".join(stored.value for stored in (await store.snapshot()).objects.values())
        assert made["id"].encode() in kept
        assert made["secret"].rpartition("_")[2].encode() not in kept


@pytest.mark.parametrize(
    "spoil", [lambda s: s[:-1], lambda s: s + "0", lambda s: s.replace("weft_", "weft-join_"), str.upper]
)
async def test_what_is_nearly_a_token_is_none(spoil: Any) -> None:
    now = Now()
    async with world(now_s=now) as it, stranger(it, now) as other:
        made = await make(it)
        assert (await other.get("/v1/whoami", headers=bearing(spoil(made["secret"])))).status_code == 401


@pytest.mark.parametrize(
    ("wanted", "status", "field"),
    [
        ({"tenant": None}, 422, "tenant"),
        ({"tenant": "green"}, 404, ""),
        ({"role": "admin"}, 422, "tenant"),
        ({"role": "king"}, 422, "role"),
        ({"user": "a b"}, 422, "user"),
        ({"user": ""}, 422, "user"),
        ({"expires_s": 1}, 422, "expires_s"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(wanted: dict[str, Any], status: int, field: str) -> None:
    async with world() as it:
        body = {"user": "ann", "role": "tenant-admin", "tenant": "blue", **wanted}
        answer = await it.http.post("/v1/tokens", json=body)
        assert (answer.status_code, answer.json().get("field", "")) == (status, field)


# ---- quotas


async def quota(it: World, **limits: int) -> httpx2.Response:
    return await it.http.put("/v1/quotas/blue", json={"limits": {k.replace("_", "-"): v for k, v in limits.items()}})


async def test_a_tenant_has_no_more_than_its_quota_whoever_asks() -> None:
    async with world() as it:
        assert (await quota(it, port=2, virtual_subnet=1)).json()["used"]["virtual-subnet"] == 1
        await it.client.apply([port(1)])
        before = it.service.revision
        two_more = {"puts": [{"name": name, "spec": spec} for name, spec in (port(2), port(3))]}
        answer = await it.http.post("/v1/apply", json=two_more)
        assert answer.status_code == 409
        assert answer.json()["detail"] == "tenants/blue may have 2 of the kind port and has 1: no room for 2 more"
        dry = await it.http.post("/v1/apply?dry_run=true", json=two_more)
        assert dry.status_code == 409
        one = await it.http.put(f"/v1/{DOMAIN}/virtual-subnets/more", json={"spec": {"prefixes": ["10.0.2.0/24"]}})
        assert one.status_code == 409
        assert it.service.revision == before
        # One goes and one comes: no more than before.
        await it.client.apply([port(2)])
        await it.client.apply([port(3)], ["tenants/blue/ports/p1"])
        assert (await it.http.get("/v1/quotas/blue")).json() == {
            "tenant": "tenants/blue",
            "limits": {"port": 2, "virtual-subnet": 1},
            "used": {**(await it.http.get("/v1/quotas/blue")).json()["used"], "port": 2, "virtual-subnet": 1},
        }


async def test_a_quota_below_what_there_is_takes_nothing_and_lets_nothing_in() -> None:
    async with world() as it:
        await it.client.apply([port(1), port(2)])
        await quota(it, port=1)
        assert (await it.http.put("/v1/" + port(3)[0], json={"spec": port(3)[1]})).status_code == 409
        assert (await it.http.patch("/v1/" + port(1)[0], json={"spec": {"host": "h2"}})).status_code == 200
        await quota(it)
        assert (await it.http.put("/v1/" + port(3)[0], json={"spec": port(3)[1]})).status_code == 201
        assert (await it.http.get("/v1/quotas")).json()["items"] == []


async def test_two_controllers_do_not_give_the_last_place_twice() -> None:
    """Both are asked at the same moment; each knows what the other wrote before it answers."""
    store = MemoryStore(shared=True)
    async with world(store, keep=True) as one:
        await quota(one, port=3)
        async with world(store, base=False, keep=True) as two:
            asked = [(one, port(0)), (two, port(1)), (one, port(2)), (two, port(3))]
            answers = await asyncio.gather(*(
                it.http.put(f"/v1/{name}", json={"spec": spec}) for it, (name, spec) in asked
            ))  # fmt: skip
            assert sorted(answer.status_code for answer in answers) == [201, 201, 201, 409]
            assert (
                len([name for name in (await store.snapshot()).objects if "/ports/" in name and name.startswith("ten")])
                == 3
            )


@pytest.mark.parametrize(("limits", "status"), [({"host": 1}, 422), ({"port": -1}, 422), ({"port": "x"}, 422)])
async def test_a_quota_of_what_is_not_counted_is_refused(limits: dict[str, Any], status: int) -> None:
    async with world() as it:
        assert (await it.http.put("/v1/quotas/blue", json={"limits": limits})).status_code == status
        assert (await it.http.put("/v1/quotas/red", json={"limits": {}})).status_code == 404


# ---- audit


async def entries(it: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await it.http.get("/v1/audit?limit=1000")).json()["items"]
    return found


async def test_what_was_done_is_remembered_with_who_where_before_and_after() -> None:
    now = Now()
    async with world(now_s=now) as it, stranger(it, now) as other:
        made = await make(it)
        await other.put(
            f"/v1/{WEB}", json={"spec": {"prefixes": ["10.0.1.0/24", "fd00:1::/64"], "snooping": False}},
            headers=bearing(made["secret"]),
        )  # fmt: skip
        last = (await entries(it))[-1]
        (change,) = last["changes"]
        assert (last["who"], last["role"], last["where"]) == ("user/ann", "tenant-admin", "192.0.2.7")
        assert (change["name"], change["action"]) == (WEB, "update")
        assert (change["before"]["snooping"], change["after"]["snooping"]) == (True, False)
        assert change["before"]["vsid"] == change["after"]["vsid"]


async def test_it_is_in_the_same_commit_as_what_was_done_and_nothing_is_in_it_that_was_not() -> None:
    store = MemoryStore()
    async with world(store) as it:
        before = it.service.revision
        await it.client.apply([port(1)])
        assert it.service.revision == before + 1
        batch = await anext(store.watch(before))
        assert {name.partition("/")[0] for name in batch.puts} == {"tenants", "audit"}
        count = len(await entries(it))
        assert (await it.http.put("/v1/tenants/red/ports/x", json={"spec": {}})).status_code == 422
        assert (await it.http.put("/v1/" + port(1)[0], json={"spec": port(1)[1]})).status_code == 200  # no change
        assert (await it.http.post("/v1/apply?dry_run=true", json={"deletes": [port(1)[0]]})).status_code == 200
        assert len(await entries(it)) == count


async def test_no_secret_is_ever_in_it() -> None:
    async with world() as it:
        made = await make(it)
        await it.http.delete(f"/v1/tokens/{made['id']}")
        said = json.dumps(await entries(it))
        assert made["id"] in said
        assert made["secret"].rpartition("_")[2] not in said
        assert "digest" not in said


@pytest.mark.parametrize("field", ["psk", "pre_shared_key", "password", "private_key", "bgp_secret", "credentials"])
def test_a_field_that_says_it_is_a_secret_is_masked_wherever_it_is(field: str) -> None:
    """No kind has one now; whoever adds one need not think of the log."""
    spec = {"peers": [{"address": "192.0.2.1", field: "hush"}], field: {"key": "hush"}, "description": "a secret place"}
    after = json.dumps(spec).encode()
    found = json.loads(audit.masked(after))
    assert b"hush" in after
    assert "hush" not in json.dumps(found)
    assert found == {**spec, field: audit.MASK, "peers": [{"address": "192.0.2.1", field: audit.MASK}]}


async def test_it_survives_and_old_entries_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_ENTRIES", 5)
    store = MemoryStore()
    async with world(store, keep=True) as it:
        for number in range(10):
            await it.client.put(f"tenants/t{number}", {})
    async with world(store, base=False) as it:
        kept = [each["changes"][0]["name"] for each in await entries(it)]
        assert kept == [f"tenants/t{number}" for number in range(5, 10)]
        assert len([name for name in (await store.snapshot()).objects if name.startswith("audit/")]) == 5


async def test_a_large_write_is_remembered_in_parts_and_beyond_a_bound_by_names() -> None:
    async with world() as it:
        await it.client.apply([(f"tenants/t{number}", {"description": "x" * 9000}) for number in range(150)])
        found = [each for each in await entries(it) if each["changes"][0]["name"] != BASE[-1][0]]
        names = {change["name"] for each in found for change in each["changes"]}
        assert {f"tenants/t{number}" for number in range(150)} <= names
        assert max(len(json.dumps(each)) for each in found) < 200_000
        assert any(each.get("shortened") for each in found)
        assert any("after" in change for change in found[-2]["changes"] + found[1]["changes"])


async def test_a_watch_of_intent_shows_nothing_that_is_kept_beside_it() -> None:
    async with world() as it:
        before = it.service.revision
        await make(it)
        await quota(it, port=5)
        assert it.service.revision == before + 2
        assert (await it.client.page("tenants/-/ports")).revision == before + 2


async def test_a_token_that_was_made_by_another_controller_is_good_here() -> None:
    store, now = MemoryStore(shared=True), Now()
    async with world(store, now_s=now, keep=True) as one, world(store, base=False, now_s=now, keep=True) as two:
        following = asyncio.create_task(two.service.run())
        made = await make(one)
        await two.service.reach(one.service.revision)
        async with stranger(two, now) as other:
            assert (await other.get("/v1/whoami", headers=bearing(made["secret"]))).status_code == 200
        await one.http.delete(f"/v1/tokens/{made['id']}")
        await two.service.reach(one.service.revision)
        async with stranger(two, now) as other:
            assert (await other.get("/v1/whoami", headers=bearing(made["secret"]))).status_code == 401
        following.cancel()


async def test_what_is_kept_is_refused_when_it_is_not_as_believed() -> None:
    async with world() as it:
        from weft.controller.beside import Extra

        with pytest.raises(PreconditionFailed):
            await it.service.keep(Extra(puts={"access/x": b"1"}), {"access/x": 7}, [])
        assert not it.service.broken.is_set()


async def test_a_host_that_is_deleted_takes_its_certificates_with_it() -> None:
    now = Now()
    async with world(now_s=now) as it:

        async def let_in(made_s: float) -> bool:
            """A certificate is dated back by ten minutes."""
            shown = Peer(Door.TLS, "192.0.2.7", Identity(Role.HOST, "h2"), made_s - 600, now.at_s + 3600)
            application = CameIn(assembled(it.service, now_s=now), shown)
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(application), base_url="http://w") as host:
                return (await host.get("/v1/whoami")).status_code == 200

        first = now.at_s
        now.at_s += 10
        assert await let_in(first)
        name, spec = next(each for each in BASE if each[0] == "hosts/h2")
        await it.client.delete(name)
        assert not await let_in(first)
        await it.client.put(name, spec)
        assert not await let_in(first)
        now.at_s += 10
        assert await let_in(now.at_s)

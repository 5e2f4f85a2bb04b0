from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest

from unit.controller_world import BASE, DOMAIN, WEB, UnsureStore, World, defaults, much, port, world
from weft.client import ApiError, FailureReport, PortReport, StatusReport
from weft.compiler.full import compile_all
from weft.contracts.store import SCHEMA
from weft.controller import api
from weft.model.names import Kind
from weft.policy.rows import host_scope
from weft.store.memory import MemoryStore


async def test_an_object_is_created_read_replaced_patched_and_deleted() -> None:
    async with world() as it:
        answer = await it.http.put("/v1/tenants/red", json={"spec": {"description": "a"}})
        assert (answer.status_code, answer.headers["etag"]) == (201, '"2"')
        assert answer.json() == {
            "name": "tenants/red", "kind": "tenant", "revision": 2, "spec": {"description": "a"}, "status": {},
        }  # fmt: skip
        assert (await it.http.get("/v1/tenants/red")).json() == answer.json()
        again = await it.http.put("/v1/tenants/red", json={"spec": {"description": "a"}})
        assert (again.status_code, again.json()) == (200, answer.json())
        replaced = await it.http.put("/v1/tenants/red", json={"spec": {"description": "b"}})
        assert (replaced.status_code, replaced.json()["revision"]) == (200, 3)
        patched = await it.http.patch("/v1/tenants/red", json={"spec": {"description": "c"}})
        assert (patched.status_code, patched.json()["spec"]) == (200, {"description": "c"})
        assert (await it.http.patch("/v1/tenants/red", json={})).json() == patched.json()
        gone = await it.http.delete("/v1/tenants/red")
        assert (gone.status_code, gone.content) == (204, b"")
        assert (await it.http.get("/v1/tenants/red")).status_code == 404
        assert (await it.http.delete("/v1/tenants/red")).status_code == 404


async def test_a_patch_with_null_takes_a_port_off_its_host() -> None:
    async with world() as it:
        name, spec = port(1)
        before = await it.client.put(name, spec)
        after = await it.client.patch(name, {"host": None})
        assert before.spec == {**after.spec, "host": "hosts/h1"}
        assert after.status == {"state": "down", "reason": "it is on no host", "host": None}


async def test_what_was_chosen_is_kept_by_a_put_that_does_not_say_it() -> None:
    async with world() as it:
        name, spec = port(1)
        before = await it.client.put(name, spec)
        after = await it.client.put(name, {**spec, "host": "h2"})
        assert after.spec == {**before.spec, "host": "hosts/h2"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": '"1"'}, 200),
        ({"if-match": '"7", "1"'}, 200),
        ({"if-match": "*"}, 200),
        ({"if-match": '"2"'}, 412),
        ({"if-match": "1"}, 422),
        ({"if-match": 'W/"1"'}, 422),
        ({"if-none-match": "*"}, 412),
        ({"if-none-match": '"1"'}, 422),
        ({"if-match": "*", "if-none-match": "*"}, 422),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_write_goes_ahead_only_under_its_conditions(method: str, headers: dict[str, str], status: int) -> None:
    async with world() as it:
        body = {"spec": {"description": "other"}}
        answer = await it.http.request(method, "/v1/tenants/blue", json=body, headers=headers)
        assert answer.status_code == status
        assert (await it.client.get("tenants/blue")).spec == (
            {"description": "other"} if status == 200 else {"description": "of the sea"}
        )


async def test_a_delete_goes_ahead_only_under_its_conditions() -> None:
    async with world() as it:
        made = await it.client.put("tenants/red", {}, create_only=True)
        with pytest.raises(ApiError, match="is at revision"):
            await it.client.delete("tenants/red", if_match=made.revision - 1)
        await it.client.delete("tenants/red", if_match=made.revision)


async def test_a_put_of_what_is_not_there_fails_when_it_must_match() -> None:
    async with world() as it:
        with pytest.raises(ApiError) as refused:
            await it.client.put("tenants/red", {}, if_match=1)
        assert refused.value.status == 412


SAID = {"port": "tenants/blue/ports/p1", "mac": "02:00:00:00:00:01", "address": "10.0.1.50"}

# Each: (method, path, body, status, field)
REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/v1/tenants/red", None, 404, ""),
    ("GET", "/v1/tenants/Not-A-Label", None, 404, "name"),
    ("GET", "/v1/nonsense", None, 404, ""),
    ("GET", "/", None, 404, ""),
    ("POST", "/v1/tenants", {}, 405, ""),
    ("PUT", "/v1/apply", {}, 405, ""),
    ("PUT", "/v1/tenants/red", b"{", 400, ""),
    ("PUT", "/v1/tenants/red", b"\xff", 400, ""),
    ("PUT", "/v1/tenants/red", b"", 400, ""),
    ("PUT", "/v1/tenants/red", [], 422, ""),
    ("PUT", "/v1/tenants/red", {}, 422, "spec"),
    ("PUT", "/v1/tenants/red", {"spec": 1}, 422, "spec"),
    ("PUT", "/v1/tenants/red", {"spec": {}, "kind": "tenant"}, 422, "kind"),
    ("PUT", "/v1/tenants/red", {"spec": {"colour": 1}}, 422, "spec.colour"),
    ("PUT", "/v1/tenants/red", {"spec": {"description": 1}}, 422, "spec.description"),
    ("PUT", f"/v1/{DOMAIN}/virtual-subnets/db", {"spec": {"prefixes": ["10.0.1.0/25"]}}, 409, "spec.prefixes[0]"),
    ("PUT", f"/v1/{DOMAIN}/virtual-subnets/db", {"spec": {"prefixes": ["10.0.2.1/24"]}}, 422, "spec.prefixes[0]"),
    ("PUT", f"/v1/{WEB}", {"spec": {"prefixes": ["10.0.1.0/24"], "vsid": 4095}}, 422, "spec.vsid"),
    ("PUT", "/v1/tenants/red/routing-domains/x", {"spec": {}}, 422, "name"),
    ("PUT", "/v1/tenants/blue/ports/a", {"spec": {"virtual_subnet": "prod/db"}}, 422, "spec.virtual_subnet"),
    ("PUT", "/v1/tenants/blue/ports/a", {"spec": {"virtual_subnet": WEB, "mac": "zz"}}, 422, "spec.mac"),
    (
        "PUT",
        "/v1/tenants/blue/ports/a",
        {"spec": {"virtual_subnet": WEB, "addresses": ["10.0.1.2"]}},
        409,
        "spec.addresses[0]",
    ),
    ("PATCH", "/v1/tenants/red", {"spec": {}}, 404, ""),
    ("PATCH", "/v1/tenants/blue", {"name": "x"}, 422, "name"),
    ("PATCH", "/v1/tenants/blue", {"spec": None}, 422, "spec"),
    ("PATCH", "/v1/tenants/blue", [1], 422, ""),
    ("PATCH", "/v1/tenants/blue", {"spec": {"description": []}}, 422, "spec.description"),
    ("DELETE", "/v1/tenants/blue", None, 409, ""),
    ("DELETE", "/v1/tenants/red", None, 404, ""),
    ("GET", "/v1/tenants?limit=0", None, 422, "limit"),
    ("GET", "/v1/tenants?limit=1001", None, 422, "limit"),
    ("GET", "/v1/tenants?limit=x", None, 422, "limit"),
    ("GET", "/v1/tenants?limit=1&limit=2", None, 422, "limit"),
    ("GET", "/v1/tenants?continue=%25", None, 422, "continue"),
    ("GET", "/v1/tenants?colour=red", None, 422, "colour"),
    ("GET", "/v1/tenants/B_D/ports", None, 404, "name"),
    ("POST", "/v1/apply", {"puts": [{"name": "x", "spec": {}}]}, 422, "puts[0].name"),
    ("POST", "/v1/apply", {"puts": [{"name": "tenants/a"}]}, 422, "puts[0].spec"),
    ("POST", "/v1/apply", {"puts": 1}, 422, "puts"),
    ("POST", "/v1/apply", {"put": []}, 422, "put"),
    ("POST", "/v1/apply", {"deletes": ["tenants/a", 1]}, 422, "deletes[1]"),
    ("POST", "/v1/apply", {"deletes": ["x"]}, 422, "deletes[0]"),
    ("POST", "/v1/apply", {"deletes": ["tenants/red"]}, 404, "deletes[0]"),
    (
        "POST",
        "/v1/apply",
        {"puts": [{"name": "tenants/a", "spec": {}}, {"name": "tenants/b", "spec": {"x": 1}}]},
        422,
        "puts[1].spec.x",
    ),
    (
        "POST",
        "/v1/apply",
        {"puts": [{"name": "tenants/a", "spec": {}}, {"name": "hosts/x", "spec": {"uplinks": [{"interface": "e"}]}}]},
        422,
        "puts[1].spec.uplinks[0].provider_network",
    ),
    ("POST", "/v1/apply?dry_run=maybe", {}, 422, "dry_run"),
    ("POST", "/v1/apply?force=true", {}, 422, "force"),
    ("GET", "/v1/watch?revision=-1", None, 422, "revision"),
    ("GET", "/v1/watch?revision=99", None, 410, "revision"),
    ("GET", "/v1/hosts/h9/feed", None, 404, ""),
    ("GET", "/v1/hosts/h1/feed?revision=99", None, 410, "revision"),
    ("GET", "/v1/hosts/h1/feed?since=1", None, 422, "since"),
    ("POST", "/v1/hosts/h9/status", {"revision": 1}, 404, ""),
    ("POST", "/v1/hosts/h9/announcements", {"announcements": []}, 404, ""),
    ("POST", "/v1/hosts/h1/announcements", {}, 422, "announcements"),
    ("POST", "/v1/hosts/h1/announcements", {"announcements": [{"port": "x"}]}, 422, "announcements[0].mac"),
    ("POST", "/v1/hosts/h1/announcements", {"announcements": [{**SAID, "mac": "y"}]}, 422, "announcements[0].mac"),
    (
        "POST",
        "/v1/hosts/h1/announcements",
        {"announcements": [SAID, {**SAID, "address": "y"}]},
        422,
        "announcements[1].address",
    ),
    ("POST", "/v1/hosts/h1/announcements", {"announcements": [SAID] * 1001}, 422, "announcements"),
    ("POST", "/v1/hosts/h1/status", {}, 422, "revision"),
    ("POST", "/v1/hosts/h1/status", {"revision": 1, "ports": {"x": {"state": "active"}}}, 422, "ports"),
    ("POST", "/v1/hosts/h1/status", {"revision": 1, "failures": [{"key": [1.5]}]}, 422, "failures[0].key[0]"),
    ("POST", "/v1/trace", {"from": "tenants/blue/ports/p0"}, 422, "to"),
    ("POST", "/v1/trace", {"from": "tenants/blue/ports/p0", "to": "here"}, 422, "to"),
    ("POST", "/v1/trace", {"from": "tenants/blue/ports/p0", "frame": "zz"}, 422, "frame"),
    ("POST", "/v1/trace", {"from": "tenants/blue/ports/p0", "to": "10.0.1.9", "protocol": "x"}, 422, "protocol"),
    (
        "POST",
        "/v1/trace",
        {"from": "tenants/blue/ports/p0", "to": "10.0.1.9", "protocol": "tcp", "port": 0},
        422,
        "port",
    ),
    ("POST", "/v1/trace", {"from": "tenants/blue/ports/p9", "to": "10.0.1.1"}, 404, "from"),
    ("POST", "/v1/trace", {"from": "tenants/blue/ports/nowhere", "to": "10.0.1.1"}, 422, "from"),
    ("POST", "/v1/trace", {"from": "blue", "to": "10.0.1.1"}, 422, "from"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), REFUSED)
async def test_what_is_wrong_is_refused_with_the_field_and_changes_nothing(
    method: str, path: str, body: Any, status: int, field: str
) -> None:
    async with world() as it:
        await it.client.apply([port(0), port(8, None), ("tenants/blue/ports/nowhere", port(1, None)[1])])
        before = await it.store.snapshot()
        content = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        answer = await it.http.request(method, path, content=content)
        found = answer.json()
        assert (answer.status_code, found.get("field", "")) == (status, field), found
        assert answer.headers["content-type"] == "application/problem+json"
        assert found["status"] == status
        assert found["title"]
        assert found["detail"]
        assert await it.store.snapshot() == before
        assert it.service.revision == before.revision


async def test_a_body_over_the_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_BODY_BYTES", 1000)
    async with world() as it:
        answer = await it.http.put("/v1/tenants/red", json={"spec": {"description": "x" * 2000}})
        assert (answer.status_code, answer.json()["status"]) == (413, 413)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_lists_come_in_pages_that_together_are_everything_once() -> None:
    async with world() as it:
        names = sorted(f"tenants/t{n}" for n in range(23))
        await it.client.apply([(name, {}) for name in names])
        for limit in (1, 5, 23, 24, 25, 1000):
            assert [item.name async for item in it.client.list("tenants", limit=limit)] == ["tenants/blue", *names]
        part = await it.client.page("tenants", limit=4)
        assert (len(part.items), part.revision) == (4, 2)
        # Objects that come and go between two pages disturb no other.
        await it.client.apply([("tenants/a", {})], [part.items[-1].name])
        rest = await it.client.page("tenants", limit=1000, after=part.next)
        assert [item.name for item in rest.items] == names[3:]
        assert rest.next is None


@pytest.mark.parametrize(
    ("collection", "filters", "expected"),
    [
        ("tenants/blue/ports", {}, ["blue/p1", "blue/p2", "blue/p3"]),
        ("tenants/red/ports", {}, ["red/p1"]),
        ("tenants/green/ports", {}, []),
        ("tenants/-/ports", {}, ["blue/p1", "blue/p2", "blue/p3", "red/p1"]),
        ("tenants/-/ports", {"host": "h1"}, ["blue/p1", "red/p1"]),
        ("tenants/-/ports", {"host": "hosts/h1"}, ["blue/p1", "red/p1"]),
        ("tenants/-/ports", {"host": ""}, ["blue/p3"]),
        ("tenants/-/ports", {"virtual_subnet": "prod/web"}, ["blue/p1", "blue/p2", "blue/p3", "red/p1"]),
        ("tenants/-/ports", {"virtual_subnet": WEB}, ["blue/p1", "blue/p2", "blue/p3"]),
        ("tenants/-/ports", {"addresses": "10.0.1.2"}, ["blue/p1", "red/p1"]),
        ("tenants/-/ports", {"admin_state": "down"}, ["blue/p2"]),
        ("tenants/-/ports", {"admin_state": "down", "host": "h1"}, []),
        ("tenants/-/routing-domains/-/virtual-subnets", {}, ["blue/prod/web", "red/prod/web"]),
        ("tenants/red/routing-domains/-/virtual-subnets", {}, ["red/prod/web"]),
        ("tenants/-/routing-domains/prod/virtual-subnets", {}, ["blue/prod/web", "red/prod/web"]),
        ("tenants/-/routing-domains/other/virtual-subnets", {}, []),
        ("hosts", {"uplinks": "phys"}, ["h1", "h2"]),
        ("hosts", {"uplinks": "192.0.2.2"}, ["h2"]),
    ],
)
async def test_collections_are_filtered_and_span_tenants(
    collection: str, filters: dict[str, str], expected: list[str]
) -> None:
    async with world() as it:
        red = [
            (name.replace("tenants/blue", "tenants/red"), spec)
            for name, spec in [*BASE, port(1)]
            if name.startswith("tenants/")
        ]
        down = port(2, "h2")
        await it.client.apply([*red, port(1), (down[0], {**down[1], "admin_state": "down"}), port(3, None)])
        for limit in (1, 500):
            found = [item.name async for item in it.client.list(collection, limit=limit, **filters)]
            assert ["/".join(name.split("/")[1::2]) for name in found] == expected


async def test_an_apply_is_all_or_nothing_and_its_order_does_not_matter() -> None:
    async with world(base=False) as it:
        with pytest.raises(ApiError):
            await it.client.apply([*BASE, ("tenants/red/ports/x", {"virtual_subnet": "prod/web"})])
        assert (await it.store.snapshot()).objects == {}
        applied = await it.client.apply(reversed(BASE))
        made = {*(name for name, _ in BASE), *defaults("blue")}
        assert {(change.name, change.action) for change in applied.changes} == {(name, "create") for name in made}
        unchanged = await it.client.apply(BASE)
        assert (unchanged.revision, unchanged.changes) == (applied.revision, [])


async def test_an_apply_says_before_and_after() -> None:
    async with world() as it:
        await it.client.put("tenants/red", {})
        applied = await it.client.apply([("tenants/blue", {"description": "new"}), ("tenants/x", {})], ["tenants/red"])
        beside = {*defaults("x"), *defaults("red")}
        told = {
            each.name: (each.action, each.before, each.after) for each in applied.changes if each.name not in beside
        }
        assert len(applied.changes) == len(told) + len(beside), "default groups come and go with their tenants"
        assert told == {
            "tenants/blue": ("update", {"description": "of the sea"}, {"description": "new"}),
            "tenants/x": ("create", None, {"description": ""}),
            "tenants/red": ("delete", {"description": ""}, None),
        }


async def test_a_store_that_fails_leaves_everything_as_it_was() -> None:
    store = UnsureStore()
    async with world(store) as it:
        store.failing = True
        answer = await it.http.put("/v1/tenants/red", json={"spec": {}})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await it.http.get("/v1/tenants/red")).status_code == 404
        with pytest.raises(ApiError, match="disk is full"):
            await it.client.apply([port(1)])
        store.failing = False
        assert (await it.client.put(*port(1))).revision == 2
        _assert_rows_are_those_of_the_catalog(it)


async def test_nobody_sees_a_commit_before_it_is_durable() -> None:
    store = UnsureStore()
    async with world(store) as it:
        await it.client.apply([port(1)])
        store.entered.clear()
        store.going_on.clear()
        writing = asyncio.ensure_future(it.client.apply([port(2), ("tenants/red", {})], ["tenants/blue/ports/p1"]))
        await store.entered.wait()
        assert (await it.http.get("/v1/tenants/red")).status_code == 404
        assert [item.name async for item in it.client.list("tenants/-/ports")] == ["tenants/blue/ports/p1"]
        feed = it.service.follow(await _name(it, "hosts/h1"), None)
        told = await anext(feed)
        assert b"ports/p1" in told
        assert b"ports/p2" not in told
        store.going_on.set()
        await writing
        later = await anext(feed)
        await feed.aclose()
        assert b"ports/p2" in later
        _assert_rows_are_those_of_the_catalog(it)


async def test_a_writer_that_goes_away_leaves_a_whole_write() -> None:
    store = UnsureStore()
    async with world(store) as it:
        store.entered.clear()
        store.going_on.clear()
        writing = asyncio.ensure_future(it.client.apply([port(1)]))
        await store.entered.wait()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        store.going_on.set()
        await it.client.put("tenants/red", {})  # waits its turn behind the other
        assert (await it.client.get("tenants/blue/ports/p1")).revision == 2
        _assert_rows_are_those_of_the_catalog(it)


async def test_concurrent_writers_all_come_through() -> None:
    async with world() as it:
        await asyncio.gather(*(it.client.put(*port(n)) for n in range(20)))
        ports = [item async for item in it.client.list("tenants/blue/ports")]
        assert sorted(item.revision for item in ports) == list(range(2, 22))
        assert len({item.spec["addresses"][0] for item in ports}) == 20


async def test_a_controller_that_starts_again_is_as_it_was() -> None:
    store = MemoryStore()
    async with world(store, keep=True) as it:
        await it.client.apply([port(1), port(2, "h2")])
        first = await _everything(it)
    async with world(store, base=False) as it:
        assert await _everything(it) == first
        assert (await it.client.put("tenants/red", {})).revision == 3


async def _everything(it: World) -> list[Any]:
    kinds = ("tenants", "provider-networks", "hosts", "tenants/-/routing-domains", "tenants/-/ports")
    items = [[item async for item in it.client.list(kind)] for kind in kinds]
    return [*items, sorted(map(repr, it.service.rows_of("hosts/h1"))), it.service.revision]


async def test_a_port_is_what_its_own_host_says_while_it_is_there() -> None:
    async with world() as it:
        name, spec = port(1)
        await it.client.put(name, spec)
        assert (await it.client.get(name)).status["state"] == "unknown"
        feed = it.service.follow(await _name(it, "hosts/h1"), None)
        await anext(feed)
        assert (await it.client.get("hosts/h1")).status == {
            "state": "connected", "applied_revision": None, "failures": [], "drops": {},
        }  # fmt: skip
        active = PortReport("active")
        await it.client.report("hosts/h2", StatusReport(revision=2, ports={name: PortReport("failed", "not mine")}))
        assert (await it.client.get(name)).status["state"] == "unknown"
        await it.client.report("hosts/h1", StatusReport(revision=2, ports={name: active}))
        assert (await it.client.get(name)).status == {"state": "active", "reason": "", "host": "hosts/h1"}
        failure = FailureReport(["records", 5000, "10.0.1.2"], "full")
        await it.client.report("hosts/h1", StatusReport(revision=2, ports={}, failures=[failure]))
        assert (await it.client.get(name)).status["state"] == "active"
        assert (await it.client.get("hosts/h1")).status["failures"] == [
            {"key": ["records", 5000, "10.0.1.2"], "reason": "full"}
        ]
        await it.client.report("hosts/h1", StatusReport(revision=2, drops={"no_record": 3}))
        assert (await it.client.get("hosts/h1")).status["drops"] == {"no_record": 3}
        await it.client.report("hosts/h1", StatusReport(revision=2, complete=True))
        assert (await it.client.get(name)).status["state"] == "unknown"
        await it.client.report("hosts/h1", StatusReport(revision=2, ports={name: active}))
        await feed.aclose()
        status = (await it.client.get(name)).status
        assert status["state"] == "unknown"
        assert "active" in status["reason"]
        assert (await it.client.get("hosts/h1")).status["state"] == "absent"


async def test_what_a_host_said_of_a_port_is_void_once_the_port_has_left_it() -> None:
    async with world() as it:
        name, spec = port(1)
        await it.client.put(name, spec)
        feed = it.service.follow(await _name(it, "hosts/h1"), None)
        await anext(feed)
        await it.client.report("hosts/h1", StatusReport(revision=2, ports={name: PortReport("active")}))
        await it.client.patch(name, {"host": "h2"})
        await it.client.patch(name, {"host": "h1"})
        assert (await it.client.get(name)).status["state"] == "unknown"
        await feed.aclose()


async def test_a_mirror_that_copies_nothing_says_why() -> None:
    async with world() as it:
        await it.client.apply([port(1), port(2)])
        watched, watcher = "tenants/blue/ports/p1", "tenants/blue/ports/p2"

        async def said() -> object:
            return (await it.client.get(watched)).status.get("mirror")

        await it.client.patch(watched, {"mirror": {"port": "p2"}})
        assert await said() is None
        await it.client.patch(watcher, {"host": "h2"})
        assert await said() == f"nothing is copied: {watcher} is on hosts/h2, and copies stay on hosts/h1"
        await it.client.patch(watcher, {"destination": "h1"})
        assert await said() is None  # where both are, on its way
        await it.client.patch(watcher, {"host": None, "destination": None})
        assert await said() == f"nothing is copied: {watcher} is on no host"
        await it.client.patch(watcher, {"host": "h1"})
        feed = it.service.follow(await _name(it, "hosts/h1"), None)
        await anext(feed)
        down = StatusReport(revision=9, ports={watcher: PortReport("down", "its interface is down")})
        await it.client.report("hosts/h1", down)
        assert await said() == f"nothing is copied: {watcher} is down: its interface is down"
        await feed.aclose()


async def test_a_trace_follows_a_packet_across_two_hosts_and_says_where_it_ends() -> None:
    async with world() as it:
        await it.client.apply([port(1), port(2, "h2")])
        peer = (await it.client.get("tenants/blue/ports/p2")).spec["addresses"][0]
        found = await it.client.trace("tenants/blue/ports/p1", to=peer)
        assert (found.outcome["verdict"], found.outcome["host"], found.outcome["port"]) == (
            "delivered", "hosts/h2", "tenants/blue/ports/p2",
        )  # fmt: skip
        assert [step.host for step in found.steps] == sorted(step.host for step in found.steps)
        tcp = await it.client.trace("tenants/blue/ports/p1", to=peer, protocol="tcp", port=443)
        assert bytes.fromhex(tcp.outcome["frame"])[14 + 9] == 6
        assert bytes.fromhex(tcp.outcome["frame"])[14 + 22 : 14 + 24] == (443).to_bytes(2, "big")
        answered = await it.client.trace("tenants/blue/ports/p1", to="10.0.1.1")
        assert answered.outcome["verdict"] == "answered"
        dropped = await it.client.trace("tenants/blue/ports/p1", to="10.0.1.77")
        assert (dropped.outcome["verdict"], dropped.outcome["reason"]) == ("dropped", "no_record")
        short = await it.client.trace("tenants/blue/ports/p1", frame=b"\x00" * 5)
        assert (short.outcome["verdict"], short.outcome["reason"]) == ("dropped", "truncated")


async def test_metrics_say_what_there_is_and_what_was_asked() -> None:
    async with world() as it:
        await it.client.apply([port(1)])
        await it.http.get("/v1/tenants/nobody")
        await it.client.report("hosts/h1", StatusReport(revision=1))
        text = (await it.http.get("/metrics")).text
        figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert figures["weft_revision"] == "2.0"
        assert figures['weft_objects{kind="host"}'] == "2.0"
        assert figures["weft_ports_active"] == "0.0"
        assert figures['weft_host_applied_lag{host="hosts/h1"}'] == "1.0"
        assert figures["weft_feed_listeners"] == "0.0"
        assert figures["weft_store_commit_seconds_count"] == "2.0"
        assert figures['weft_http_requests_total{method="GET",path="/v1/tenants/{tenant}",status="404"}'] == "1.0"


async def test_health_says_the_revision_and_the_stores_schema() -> None:
    async with world() as it:
        assert await it.client.health() == {"status": "ok", "revision": 1, "schema": SCHEMA}


async def test_the_description_is_whole_and_is_of_the_routes_there_are() -> None:
    async with world() as it:
        document = (await it.http.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.1")
        described = {
            (path, verb.upper())
            for path, operations in document["paths"].items()
            for verb in operations.keys() - {"parameters"}
        }
        application = it.client._https[0]._transport.app.app
        assert described == {(route.path, verb) for route in application.routes for verb in route.methods - {"HEAD"}}
        ids = [o["operationId"] for p in document["paths"].values() for v, o in p.items() if v != "parameters"]
        assert len(ids) == len(set(ids))
        for path, operations in document["paths"].items():
            common = operations.get("parameters", [])
            for verb, operation in operations.items():
                if verb == "parameters":
                    continue
                assert operation["responses"]
                given = [*common, *operation.get("parameters", [])]
                in_path = {each["name"] for each in given if each["in"] == "path"}
                assert in_path == set(re.findall(r"{(\w+)}", path))
                assert all(each["required"] for each in given if each["in"] == "path")
        schemas = document["components"]["schemas"]
        for reference in set(re.findall(r'"\$ref": ?"([^"]+)"', msgspec.json.encode(document).decode())):
            assert reference.removeprefix("#/components/schemas/") in schemas, reference
        assert set(schemas["PortSpec"]["properties"]) == {
            "virtual_subnet", "mac", "addresses", "host", "allowed_address_pairs", "admin_state", "qos",
            "flood_limit_pps", "dhcp", "dhcp_server", "sampling_rate", "mirror", "destination",
            "announced_addresses", "rewrites", "trunk", "security_groups", "operator_groups", "port_security",
        }  # fmt: skip
        assert schemas["PortSpec"]["required"] == ["virtual_subnet"]


async def _name(it: World, name: str) -> Any:
    return (await it.client.get(name)).name


def _assert_rows_are_those_of_the_catalog(it: World) -> None:
    """What hosts are sent is what everything compiled anew would be."""
    rows, scopes = compile_all(it.service._catalog)
    for host, expected in scopes.items():
        assert it.service._scopes_of(host) == expected
        assert host_scope(host) in expected
        for scope in expected:
            assert {row.key: row for row in it.service.rows(scope)} == dict(rows[scope])
    assert it.service.count(Kind.HOST) == len(scopes)


async def test_what_rules_would_take_of_a_host_beyond_its_room_is_refused_by_put_apply_and_dry_run() -> None:
    async with world() as it:
        await it.client.apply(much("blue", "abc"))
        name, spec = port(1)
        await it.client.put(name, {**spec, "security_groups": ["a", "b"]})
        before = it.service.revision
        spec = {**spec, "security_groups": ["a", "b", "c"]}
        put = await it.http.put(f"/v1/{name}", json={"spec": spec})
        applied = await it.http.post("/v1/apply", json={"puts": [{"name": name, "spec": spec}]})
        dry = await it.http.post("/v1/apply?dry_run=true", json={"puts": [{"name": name, "spec": spec}]})
        token = await it.http.post("/v1/tokens", json={"user": "ann", "role": "tenant-admin", "tenant": "blue"})
        asked = {"authorization": f"Bearer {token.json()['secret']}"}
        theirs = await it.http.patch(f"/v1/{name}", json={"spec": {"security_groups": ["c"]}}, headers=asked)
        assert theirs.status_code == 200, "one of both is few enough"
        told = await it.http.patch(f"/v1/{name}", json={"spec": {"security_groups": ["a", "b", "c"]}}, headers=asked)
        for answer, field, host in (
            (put, "", "hosts/h1"), (applied, "puts[0].", "hosts/h1"), (dry, "puts[0].", "hosts/h1"),
            (told, "", "a host"),
        ):  # fmt: skip
            assert (answer.status_code, answer.json()["field"]) == (409, f"{field}spec.security_groups")
            detail = answer.json()["detail"]
            assert detail.startswith(f"with {name} the groups of ports of tenants/blue on {host} would take 92,096 ")
            assert "65,536 are the most of a tenant's: let ports have the same groups" in detail
        assert it.service.revision == before + 2  # the token, and what was few enough

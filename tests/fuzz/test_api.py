"""Whatever is sent, the API answers, says whose turn it is, and changes nothing when it says no."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.controller_world import WEB, World, port, world
from weft.client import ApiError
from weft.compiler.full import compile_all

BUDGET = settings(max_examples=60)

WORDS = st.sampled_from([
    "v1", "tenants", "blue", "red", "-", "ports", "p1", "p2", "hosts", "h1", "h2", "routing-domains", "prod", "web",
    "virtual-subnets", "customer-routes", "provider-networks", "phys", "apply", "watch", "trace", "feed", "status",
    "announcements", "security-groups", "rules", "address-groups", "default", "connections",
    "healthz", "metrics", "openapi.json", ".", "..", "A", "%00", "", "a" * 64, "\u00e9", "\x00", "a b",
])  # fmt: skip
KNOWN_PATHS = [
    "/v1/tenants/blue", "/v1/tenants/red", "/v1/tenants/blue/ports/p1", "/v1/tenants/blue/ports/p2", f"/v1/{WEB}",
    "/v1/hosts/h1", "/v1/provider-networks/phys", "/v1/apply", "/v1/apply?dry_run=true", "/v1/trace",
    "/v1/hosts/h1/status", "/v1/hosts/h1/announcements", "/v1/tenants/-/ports", "/v1/tenants",
    "/v1/tenants/blue/routing-domains/prod/customer-routes/r", "/v1/tenants/blue/security-groups/g",
    "/v1/tenants/blue/security-groups/default/rules/r", "/v1/tenants/blue/address-groups/a",
    "/v1/tenants/blue/security-groups/-/rules",
]  # fmt: skip
PATHS = st.sampled_from(KNOWN_PATHS) | st.lists(WORDS, max_size=7).map(
    lambda words: "/" + "/".join(quote(word, safe="") for word in words)
)
QUERIES = st.dictionaries(
    st.sampled_from(["limit", "continue", "revision", "prefix", "dry_run", "host", "virtual_subnet", "x", ""]),
    st.text(max_size=8) | st.sampled_from(["1", "0", "-1", "true", "h1", "9" * 30, "YQ"]),
    max_size=2,
)
HEADERS = st.dictionaries(
    st.sampled_from(["if-match", "if-none-match", "content-type"]),
    st.sampled_from(['"1"', "*", "", '"', 'W/"1"', '"9999999999999999999"', "text/plain"]),
    max_size=2,
)
FIELDS = [
    "spec", "puts", "deletes", "name", "from", "to", "frame", "revision", "ports", "failures", "complete", "key", "x",
    "description", "pools", "prefix", "uplinks", "interface", "provider_network", "pas", "rdid", "prefixes", "vsid",
    "gateways", "virtual_subnet", "addresses", "mac", "host", "metric", "next_hop", "allowed_address_pairs",
    "announced_addresses", "announcements", "address", "port",
]  # fmt: skip
TEXTS = (
    f"prod/web {WEB} h1 hosts/h1 10.0.1.7 10.0.1.0/24 fd00:1::5 02:00:00:00:00:01 up down nvgre ebpf eth1 phys "
    "tenants/blue tenants/red tenants/blue/ports/p1 active 10.0.1.1 ::ffff:1.2.3.4 0.0.0.0/0 255.255.255.255 "
    "fe80::1%eth0 192.0.2.9 192.0.2.0/24 default ingress egress ipv4 ipv6 tcp icmp icmpv6 sctp any allow deny"
).split()
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from([*TEXTS, 4096])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


def some(required: dict[str, Any], **optional: Any) -> Any:
    return st.fixed_dictionaries(required, optional=optional)


#: What is nearly right gets further than what is not.
SPEC = some(
    {},
    virtual_subnet=st.just("prod/web") | VALUES,
    addresses=st.lists(VALUES, max_size=2),
    host=VALUES,
    mac=VALUES,
    allowed_address_pairs=st.lists(some({"prefix": VALUES}, mac=VALUES), max_size=2),
    announced_addresses=st.lists(some({"address": VALUES, "mac": VALUES}), max_size=2),
    uplinks=st.lists(some({"interface": VALUES, "provider_network": VALUES}, pas=VALUES), max_size=2),
    prefixes=st.lists(VALUES, max_size=2),
    pools=st.lists(some({"prefix": VALUES}, first=VALUES), max_size=2),
    prefix=VALUES,
    next_hop=VALUES,
    description=VALUES,
    vsid=VALUES,
    mtu_bytes=VALUES,
)
RULE = some(
    {"direction": st.sampled_from(["ingress", "egress"]) | VALUES},
    family=VALUES,
    protocol=st.sampled_from(["tcp", "udp", "icmp", 132, "47"]) | VALUES,
    port_min=st.integers(-1, 65_536) | VALUES,
    port_max=st.integers(-1, 65_536) | VALUES,
    icmp_type=st.integers(-1, 256) | VALUES,
    icmp_code=VALUES,
    remote_prefix=st.sampled_from(["0.0.0.0/0", "fd00::/8", "10.0.0.1/24"]) | VALUES,
    remote_group=st.just("default") | VALUES,
    remote_address_group=VALUES,
    action=VALUES,
    priority=VALUES,
    log=st.booleans() | VALUES,
)
GROUP = some(
    {}, stateful=VALUES, operator=VALUES, keep_connections=VALUES, prefixes=st.lists(VALUES, max_size=3),
    security_groups=st.lists(st.just("default") | VALUES, max_size=3), operator_groups=VALUES, port_security=VALUES,
)  # fmt: skip
SPECS = some({"spec": SPEC | RULE | GROUP})
APPLIES = some(
    {"puts": st.lists(some({"name": st.sampled_from(TEXTS) | VALUES, "spec": SPEC}), max_size=2)},
    deletes=st.lists(VALUES, max_size=2),
)
ANNOUNCEMENTS = some(
    {
        "announcements": st.lists(
            some({"port": st.sampled_from(TEXTS) | VALUES, "mac": VALUES, "address": st.sampled_from(TEXTS) | VALUES}),
            max_size=3,
        )
    }
)
BODIES = (
    (SPECS | APPLIES | ANNOUNCEMENTS | VALUES).map(msgspec.json.encode)
    | st.binary(max_size=30)
    | st.sampled_from([b"", b"[" * 5000, b'{"spec":' * 2000, b'{"spec":{"description":"\\ud800"}}'])
)


@BUDGET
@given(
    method=st.sampled_from(["GET", "PUT", "PATCH", "DELETE", "POST", "HEAD", "OPTIONS", "BREW"]),
    path=PATHS,
    query=QUERIES,
    headers=HEADERS,
    body=BODIES,
)
def test_no_request_is_answered_with_500_and_a_refusal_changes_nothing(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> None:
    async def send() -> None:
        async with world() as it:
            await it.client.apply([port(1)])
            before = await _state(it)
            if path.strip("/").endswith(("watch", "feed")):
                # A stream that begins does not end, and this transport waits for ends.
                query["revision"] = "9999"
            answer = await it.http.request(method, path, params=query or None, headers=headers, content=body)
            await _judge(it, answer, before)

    asyncio.run(send())


@BUDGET
@given(
    path=st.sampled_from([
        "tenants/blue", "tenants/red", "tenants/blue/ports/p1", "tenants/blue/ports/p2", WEB, "hosts/h1", "hosts/h3",
        "provider-networks/phys", "tenants/blue/routing-domains/prod/customer-routes/r",
        "tenants/blue/security-groups/g", "tenants/blue/security-groups/default/rules/r",
        "tenants/blue/address-groups/a",
    ]),
    method=st.sampled_from(["PUT", "PATCH"]),
    body=SPECS,
)  # fmt: skip
def test_what_is_accepted_can_be_read_compiled_and_put_again(path: str, method: str, body: dict[str, Any]) -> None:
    async def send() -> None:
        async with world() as it:
            await it.client.apply([port(1)])
            before = await _state(it)
            answer = await it.http.request(method, f"/v1/{path}", content=msgspec.json.encode(body))
            await _judge(it, answer, before)
            if answer.status_code < 300:
                assert (await it.client.get(path)).spec == answer.json()["spec"]
                again = await it.http.put(f"/v1/{path}", json={"spec": answer.json()["spec"]})
                assert (again.status_code, again.json()) == (200, answer.json())

    asyncio.run(send())


NAMES = st.sampled_from([
    "tenants/blue", "tenants/red", "hosts/h1", "hosts/h3", "provider-networks/phys", "tenants/blue/ports/p1",
    "tenants/blue/ports/p2", "tenants/red/ports/p1", WEB, "tenants/red/routing-domains/prod",
    "tenants/red/routing-domains/prod/virtual-subnets/web", "tenants/blue/routing-domains/prod",
    "tenants/blue/routing-domains/prod/virtual-subnets/db", "tenants/blue/routing-domains/prod/customer-routes/r",
])  # fmt: skip


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Mostly right, so that a good part of them goes through."""
    puts = []
    for name in draw(st.lists(NAMES, max_size=6, unique=True)):
        subnet = {"prefixes": [draw(st.sampled_from(["10.0.1.0/24", "10.0.2.0/24", "10.0.0.0/16", "fd00:2::/64"]))]}
        kinds: dict[str, dict[str, Any]] = {
            "ports": {
                "virtual_subnet": draw(st.sampled_from(["prod/web", "prod/db"])),
                "host": draw(st.sampled_from([None, "h1", "h2", "h3"])),
            },
            "hosts": {"uplinks": [{"interface": "eth1", "provider_network": "phys"}]},
            "provider-networks": {"pools": [{"prefix": draw(st.sampled_from(["192.0.2.0/24", "192.0.2.0/29"]))}]},
            "virtual-subnets": subnet,
            "customer-routes": {"prefix": "0.0.0.0/0", "next_hop": draw(st.sampled_from(["10.0.1.9", "10.0.2.9"]))},
            "tenants": {"description": draw(st.sampled_from(["", "new"]))},
            "routing-domains": {},
        }
        puts.append((name, kinds[name.split("/")[-2]]))
    return puts, draw(st.lists(NAMES, max_size=2, unique=True))


@BUDGET
@given(history=st.lists(batches(), min_size=1, max_size=5))
def test_a_dry_run_says_what_the_apply_then_does(
    history: list[tuple[list[tuple[str, dict[str, Any]]], list[str]]],
) -> None:
    async def follow() -> None:
        async with world() as it:
            for puts, deletes in history:
                before = await _state(it)
                said = await _applied(it, puts, deletes, dry_run=True)
                assert await _state(it) == before
                done = await _applied(it, puts, deletes, dry_run=False)
                if isinstance(said, tuple):
                    assert done == said
                    assert await _state(it) == before
                    continue
                assert not isinstance(done, tuple)
                assert done.changes == said.changes
                for change in done.changes:
                    if change.after is not None:
                        assert (await it.client.get(change.name)).spec == change.after
                _assert_compiled(it)

    asyncio.run(follow())


async def _applied(it: World, puts: list[tuple[str, dict[str, Any]]], deletes: list[str], *, dry_run: bool) -> Any:
    try:
        return await it.client.apply(puts, deletes, dry_run=dry_run)
    except ApiError as error:
        return error.status, error.field, error.detail


async def _state(it: World) -> Any:
    rows = {
        scope: set(it.service.rows(scope)) for host in ("hosts/h1", "hosts/h2") for scope in it.service._scopes_of(host)
    }
    return await it.store.snapshot(), it.service.revision, rows


async def _judge(it: World, answer: httpx2.Response, before: Any) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        if answer.request.method != "HEAD":
            found = answer.json()
            assert found["status"] == answer.status_code
            assert found["title"]
            assert found["detail"]
        assert await _state(it) == before
    _assert_compiled(it)


def _assert_compiled(it: World) -> None:
    rows, scopes = compile_all(it.service._catalog)
    for host, expected in scopes.items():
        assert it.service._scopes_of(host) == expected
        for scope in expected:
            assert {row.key: row for row in it.service.rows(scope)} == dict(rows[scope])

"""Whatever a host's certificate sends, all that is not on that host stays as it is, and is not shown to it."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.test_api import BODIES, PATHS, VALUES, some
from unit.controller_world import WEB, World, port, world
from unit.test_authorisation import asked
from weft.client import PortReport, StatusReport

BUDGET = settings(max_examples=60, deadline=None)

#: In the names and specs of what h1 does not run, and in no request.
SECRETS = ("crimson", "zq9", "10.77.")
RED = "tenants/crimson/routing-domains/zq9dom"
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("tenants/crimson", {}),
    (RED, {}),
    (f"{RED}/virtual-subnets/zq9sub", {"prefixes": ["10.77.0.0/24"]}),
    ("tenants/crimson/ports/zq9port", {"virtual_subnet": "zq9dom/zq9sub", "host": "h2"}),
    port(1, "h1"),
    ("tenants/blue/ports/p2", {
        "virtual_subnet": "prod/web", "host": "h2", "allowed_address_pairs": [{"prefix": "10.0.1.0/24"}],
    }),
]  # fmt: skip

PORTS = st.sampled_from(["tenants/blue/ports/p1", "tenants/blue/ports/p2", "tenants/red/ports/x"]) | VALUES
SAYS = st.sampled_from(["active", "down", "failed"]) | VALUES
STATUS = some(
    {"revision": st.integers(0, 2**63) | VALUES},
    ports=st.dictionaries(st.sampled_from(["tenants/blue/ports/p1", "tenants/blue/ports/p2"]), some({"state": SAYS})),
    failures=st.lists(some({"key": st.lists(VALUES, max_size=3), "reason": VALUES}), max_size=2),
    complete=st.booleans(),
)
ANNOUNCED = some({
    "announcements": st.lists(
        some({
            "port": PORTS, "mac": st.sampled_from(["02:00:00:00:00:01"]) | VALUES,
            "address": st.sampled_from(["10.0.1.50", "10.0.1.2", "10.0.1.1"]) | VALUES,
        }), max_size=3,
    )
})  # fmt: skip
LIE = msgspec.json.encode({"revision": 9, "ports": {"tenants/blue/ports/p2": {"state": "failed"}}, "complete": True})
CLAIM = msgspec.json.encode({
    "announcements": [{"port": "tenants/blue/ports/p2", "mac": "02:00:00:00:00:01", "address": "10.0.1.50"}]
})  # fmt: skip
P2 = "/v1/tenants/blue/ports/p2"
#: What would do harm if it were let through.
HARMFUL = [
    *(("POST", f"/v1/hosts/{host}/status", LIE) for host in ("h1", "h2")),
    *(("POST", f"/v1/hosts/{host}/announcements", CLAIM) for host in ("h1", "h2")),
    ("PATCH", P2, b'{"spec": {"admin_state": "down"}}'),
    ("DELETE", P2, b""),
    ("POST", "/v1/apply", b'{"deletes": ["tenants/blue/ports/p2"]}'),
    *(("GET", path, b"") for path in ("/v1/tenants", "/v1/tenants/-/ports", "/v1/audit", "/v1/hosts/h2", "/metrics")),
]
REQUESTS = st.one_of(
    st.sampled_from(HARMFUL),
    st.tuples(
        st.just("POST"),
        st.sampled_from(["/v1/hosts/h1/status", "/v1/hosts/h2/status"]),
        STATUS.map(msgspec.json.encode),
    ),
    st.tuples(
        st.just("POST"),
        st.sampled_from(["/v1/hosts/h1/announcements", "/v1/hosts/h2/announcements"]),
        ANNOUNCED.map(msgspec.json.encode),
    ),
    st.tuples(st.sampled_from(["GET", "PUT", "PATCH", "DELETE", "POST"]), PATHS, BODIES),
)


@pytest.mark.parametrize("request_", HARMFUL, ids=[f"{method} {path}" for method, path, _ in HARMFUL])
async def test_what_would_do_harm_is_not_let_through(request_: tuple[str, str, bytes]) -> None:
    await _judged([request_])


@BUDGET
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4))
def test_a_hostile_agent_harms_nobody_else(requests: list[tuple[str, str, bytes]]) -> None:
    asyncio.run(_judged(requests))


async def _judged(requests: list[tuple[str, str, bytes]]) -> None:
    async with world() as it:
        await it.client.apply(OTHERS)
        said = StatusReport(revision=1, ports={"tenants/blue/ports/p2": PortReport("active")})
        await it.client.report("hosts/h2", said)
        before = await _others(it)
        async with asked(it, "host") as client:
            for method, path, body in requests:
                if path.rstrip("/").endswith("/h1/feed"):
                    continue  # its own; and this transport waits for an end that it does not have
                answer = await client.request(method, path, content=body)
                assert answer.status_code < 500, answer.text
                assert not [secret for secret in SECRETS if secret in answer.text], answer.text
        assert await _others(it) == before


async def _others(it: World) -> Any:
    """All that is stored but h1's port, and what the other host has said."""
    objects = (await it.store.snapshot()).objects
    kept = {name: stored.value for name, stored in objects.items() if name != "tenants/blue/ports/p1"}
    assert WEB in kept
    return (
        kept,
        copy.deepcopy(it.service.statuses._said["hosts/h2"]),
        {row.key for row in it.service.rows_of("hosts/h2")},
    )

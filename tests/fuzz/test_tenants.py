"""Whatever a tenant sends, it is told nothing of others, changes nothing of theirs, and no bug is met on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.test_api import BODIES, HEADERS, QUERIES, SPEC
from unit.controller_world import WEB, World, port, world
from unit.test_authorisation import asked
from weft.client import PortReport, StatusReport

BUDGET = settings(max_examples=60, deadline=None)

#: Words that are in no request, and in the names and the specs of everything that is not blue's.
SECRETS = ("crimson", "zq9", "203.0.113.", "7777", "eth77")

P1 = "tenants/blue/ports/p1"
RED = "tenants/crimson/routing-domains/zq9dom"
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("provider-networks/zq9net", {"pools": [{"prefix": "203.0.113.0/24"}]}),
    ("hosts/zq9host", {"uplinks": [{"interface": "eth77", "provider_network": "zq9net"}]}),
    ("tenants/crimson", {}),
    (RED, {}),
    (f"{RED}/virtual-subnets/zq9sub", {"prefixes": ["10.0.1.0/24"], "vsid": 7777}),
    ("tenants/crimson/ports/zq9port", {"virtual_subnet": "zq9dom/zq9sub", "host": "zq9host"}),
    # blue's port is where crimson's is
    ("tenants/blue/ports/p1", {"virtual_subnet": "prod/web", "host": "zq9host"}),
]

KNOWN = [
    "/v1/tenants", "/v1/tenants/blue", "/v1/tenants/-/ports", "/v1/tenants/blue/ports/p1", "/v1/tenants/blue/ports/p2",
    "/v1/tenants/-/routing-domains/-/virtual-subnets", f"/v1/{WEB}", "/v1/apply", "/v1/apply?dry_run=true",
    "/v1/hosts", "/v1/provider-networks", "/v1/trace", "/v1/whoami", "/v1/quotas", "/v1/quotas/blue", "/v1/audit",
    "/v1/tokens", "/metrics", "/healthz",
]  # fmt: skip
WORDS = st.sampled_from([
    "v1", "tenants", "blue", "red", "-", "ports", "p1", "hosts", "h1", "routing-domains", "prod", "virtual-subnets",
    "web", "status", "quotas", "tokens", "audit", "..", "",
])  # fmt: skip
SENSIBLE = [
    *(("GET", path) for path in KNOWN),
    *((method, f"/v1/{path}") for method in ("PUT", "PATCH", "DELETE") for path in ("tenants/blue/ports/p1", WEB)),
    *(("POST", path) for path in ("/v1/apply", "/v1/apply?dry_run=true", "/v1/trace")),
]
PATHS = st.sampled_from(KNOWN) | st.lists(WORDS, max_size=6).map(
    lambda words: "/" + "/".join(quote(word, safe="") for word in words)
)
NEARLY = st.fixed_dictionaries({"spec": SPEC}).map(msgspec.json.encode)


@pytest.mark.parametrize("who", ["tenant admin", "tenant reader"])
async def test_nothing_that_a_tenant_reads_has_anything_of_others(who: str) -> None:
    async with world() as it:
        await it.client.apply([port(2), *OTHERS])
        # A host's word on its port names the host.
        await it.client.report(
            "hosts/zq9host", StatusReport(revision=1, ports={P1: PortReport("failed", "hosts/zq9host")})
        )
        async with asked(it, who) as client:
            for path in KNOWN:
                _says_nothing(await client.get(path))
            for path in ("tenants/blue/ports/p1", WEB, "tenants/blue"):
                _says_nothing(await client.request("DELETE", f"/v1/{path}", headers={"if-match": '"1"'}))


@BUDGET
@given(
    who=st.sampled_from(["tenant admin", "tenant reader"]),
    request=st.sampled_from(SENSIBLE) | st.tuples(st.sampled_from(["GET", "PUT", "PATCH", "DELETE", "POST"]), PATHS),
    # Mostly none: what is refused for its query says little.
    query=st.one_of(st.just({}), st.just({}), st.just({}), QUERIES),
    headers=st.one_of(st.just({}), st.just({}), st.just({}), HEADERS),
    body=BODIES | NEARLY,
)
def test_no_answer_to_a_tenant_has_anything_of_others(
    who: str, request: tuple[str, str], query: Mapping[str, str], headers: Mapping[str, str], body: bytes
) -> None:
    method, path = request

    async def send() -> None:
        async with world() as it:
            await it.client.apply([port(2), *OTHERS])
            before = await _others(it)
            async with asked(it, who) as client:
                params = {**query, **({"revision": "9999"} if "watch" in path else {})}
                answer = await client.request(method, path, params=params or None, headers=dict(headers), content=body)
            assert answer.status_code < 500, answer.text
            _says_nothing(answer)
            assert await _others(it) == before

    asyncio.run(send())


@BUDGET
@given(spec=SPEC, name=st.sampled_from(["tenants/blue/ports/p1", "tenants/blue/ports/p9", WEB]))
def test_nor_has_any_apply_that_is_nearly_right(spec: dict[str, Any], name: str) -> None:
    async def send() -> None:
        async with world() as it:
            await it.client.apply([port(2), *OTHERS])
            before = await _others(it)
            async with asked(it, "tenant admin") as client:
                body = msgspec.json.encode({"puts": [{"name": name, "spec": spec}]})
                for path in ("/v1/apply?dry_run=true", "/v1/apply"):
                    answer = await client.post(path, content=body)
                    assert answer.status_code < 500, answer.text
                    _says_nothing(answer)
            assert await _others(it) == before
            kept = it.service.get("tenants/blue/ports/p1").value
            assert getattr(kept, "host", None) == "hosts/zq9host"

    asyncio.run(send())


def _says_nothing(answer: httpx2.Response) -> None:
    for secret in SECRETS:
        assert secret not in answer.text, answer.text


async def _others(it: World) -> dict[str, bytes]:
    """All that is not blue's, as it is stored."""
    objects = (await it.store.snapshot()).objects
    return {
        name: stored.value
        for name, stored in objects.items()
        if not name.startswith(("tenants/blue/", "audit/")) and name != "tenants/blue"
    }

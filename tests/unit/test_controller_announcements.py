"""What hosts say their guests have announced, as the controller hears it: one write for all of it, or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from unit.controller_world import UnsureStore, World, port, world
from weft.client import ApiError
from weft.controller.beside import Extra
from weft.kit.errors import Conflict
from weft.model.catalog import Change
from weft.policy.rows import Record
from weft.wire.api import MOST_ANNOUNCED, Announced

P1, P2 = port(1)[0], port(2)[0]
MACS = {P1: "02:00:00:00:00:01", P2: "02:00:00:00:00:02"}
HOSTS = {P1: "hosts/h1", P2: "hosts/h2"}
PAIRS = [{"prefix": "10.0.1.48/28"}]


def guests(it: World) -> Any:
    return it.client.apply(
        [
            (name, {"virtual_subnet": "prod/web", "host": HOSTS[name], "mac": mac, "allowed_address_pairs": PAIRS})
            for name, mac in MACS.items()
        ]
    )


def announced(name: str, *last: int) -> list[Announced]:
    return [Announced(name, MACS[name], f"10.0.1.{number}") for number in last]


async def shown(it: World, name: str) -> list[str]:
    return [said["address"] for said in (await it.client.get(name)).spec.get("announced_addresses", [])]


async def outcomes(it: World) -> dict[str, int]:
    lines = (await it.http.get("/metrics")).text.splitlines()
    figures = (line for line in lines if line.startswith("weft_announcements_total"))
    return {line.split('"')[1]: int(float(line.split()[-1])) for line in figures}


async def test_an_address_goes_to_who_announced_it_last_and_its_record_with_it() -> None:
    async with world() as it:
        await guests(it)
        await it.client.announce("hosts/h1", announced(P1, 50))
        assert (await shown(it, P1), await shown(it, P2)) == (["10.0.1.50"], [])
        await it.client.announce("hosts/h2", announced(P2, 50))
        assert (await shown(it, P1), await shown(it, P2)) == ([], ["10.0.1.50"])
        (record,) = [row for row in it.service.rows_of("hosts/h1") if isinstance(row, Record) and row.ca == "10.0.1.50"]
        assert (record.pa, record.mac) == ("192.0.2.2", MACS[P2])


async def test_many_announcements_are_one_write_and_no_news_is_none() -> None:
    async with world() as it:
        await guests(it)
        before = it.service.revision
        await it.client.announce("hosts/h1", announced(P1, 50, 51, 52))
        assert it.service.revision == before + 1
        await it.client.announce("hosts/h1", announced(P1, 50, 51, 52))
        assert it.service.revision == before + 1
        assert await shown(it, P1) == ["10.0.1.50", "10.0.1.51", "10.0.1.52"]
        assert await outcomes(it) == {"taken": 3, "no_news": 3, "elsewhere": 0, "not_allowed": 0, "full": 0}


async def test_what_may_not_be_and_what_is_of_another_host_is_counted_and_changes_nothing() -> None:
    async with world() as it:
        await guests(it)
        before = it.service.revision
        await it.client.announce("hosts/h1", [*announced(P1, 77), *announced(P2, 50)])
        await it.client.announce("hosts/h1", [Announced("tenants/none/ports/none", MACS[P1], "10.0.1.50")])
        assert it.service.revision == before
        assert await outcomes(it) == {"taken": 0, "no_news": 0, "elsewhere": 2, "not_allowed": 1, "full": 0}


async def two_owners(it: World) -> str:
    """P1's tenant may have no more addresses than it has; another's guest is on the same host."""
    await guests(it)
    other = "tenants/red/ports/p1"
    domain = "tenants/red/routing-domains/prod"
    await it.client.apply([
        ("tenants/red", {}),
        (domain, {}),
        (f"{domain}/virtual-subnets/web", {"prefixes": ["10.0.1.0/24"]}),
        (other, {"virtual_subnet": "prod/web", "host": "h1", "mac": MACS[P1], "allowed_address_pairs": PAIRS}),
    ])  # fmt: skip
    return other


async def test_a_tenant_at_its_limit_keeps_nobody_elses_guests_from_being_heard() -> None:
    async with world() as it:
        other = await two_owners(it)
        await it.client.patch(P1.split("/ports/")[0], {"limits": {"records": 2}})
        before = it.service.revision
        await it.client.announce("hosts/h1", [*announced(P1, 50), Announced(other, MACS[P1], "10.0.1.51")])
        assert (await shown(it, P1), await shown(it, other)) == ([], ["10.0.1.51"])
        assert it.service.revision == before + 1
        assert await outcomes(it) == {"taken": 1, "no_news": 0, "elsewhere": 0, "not_allowed": 0, "full": 1}


async def test_whatever_is_refused_of_one_port_all_others_are_heard() -> None:
    async with world() as it:
        other = await two_owners(it)

        def admit(changes: Sequence[Change], _extra: Extra) -> None:
            if any(change.name == P1 for change in changes):
                raise Conflict("not this one")

        it.service.admit = admit
        await it.client.announce("hosts/h1", [*announced(P1, 50, 52), Announced(other, MACS[P1], "10.0.1.51")])
        assert (await shown(it, P1), await shown(it, other)) == ([], ["10.0.1.51"])
        assert await outcomes(it) == {"taken": 1, "no_news": 0, "elsewhere": 0, "not_allowed": 2, "full": 0}


async def test_more_than_one_request_takes_is_sent_in_parts() -> None:
    async with world() as it:
        await guests(it)
        many = announced(P1, 50) * MOST_ANNOUNCED
        await it.client.announce("hosts/h1", [*many, *announced(P1, 51)])
        assert await shown(it, P1) == ["10.0.1.50", "10.0.1.51"]


async def test_a_store_that_fails_leaves_everything_as_it_was_and_the_host_tries_again() -> None:
    store = UnsureStore()
    async with world(store) as it:
        await guests(it)
        store.failing = True
        with pytest.raises(ApiError) as refused:
            await it.client.announce("hosts/h1", announced(P1, 50))
        assert refused.value.status == 503
        assert await shown(it, P1) == []
        assert (await outcomes(it))["taken"] == 0
        store.failing = False
        await it.client.announce("hosts/h1", announced(P1, 50))
        assert await shown(it, P1) == ["10.0.1.50"]


async def test_a_patch_of_something_else_keeps_it_and_an_empty_list_takes_it_away() -> None:
    async with world() as it:
        await guests(it)
        await it.client.announce("hosts/h1", announced(P1, 50))
        await it.client.patch(P1, {"host": "h2"})
        assert await shown(it, P1) == ["10.0.1.50"]
        # Of what the patched object says itself, what may not be any more goes without a word.
        await it.client.patch(P1, {"allowed_address_pairs": []})
        assert await shown(it, P1) == []
        await it.client.announce("hosts/h2", announced(P2, 50))
        await it.client.patch(P2, {"announced_addresses": []})
        assert await shown(it, P2) == []


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    async with world() as it:
        answer = await it.http.post("/v1/hosts/h1/announcements", content=b" " * ((1 << 20) + 1))
        assert answer.status_code == 413


async def test_what_was_announced_is_there_after_the_controller_began_anew() -> None:
    store = UnsureStore()
    async with world(store, keep=True) as it:
        await guests(it)
        await it.client.announce("hosts/h1", announced(P1, 50))
    again: AbstractAsyncContextManager[World] = world(store, base=False)
    async with again as it:
        assert await shown(it, P1) == ["10.0.1.50"]

"""A port moves under its hosts: ready when whoever sends to it sends to both, and its destination has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from unit.controller_world import World, port, world
from weft.client import ApiError
from weft.model.names import Name
from weft.wire.api import FailureReport, PortReport, StatusReport
from weft.wire.listed import Connections, Counted, Listed

H1, H2, H3 = (Name(f"hosts/h{n}") for n in (1, 2, 3))
P1 = Name("tenants/blue/ports/p1")


def report(it: World, host: Name, state: Any = None, revision: int | None = None, *failures: FailureReport) -> None:
    ports = {} if state is None else {P1: PortReport(state=state)}
    applied = it.service.revision if revision is None else revision
    it.service.report(host, StatusReport(revision=applied, ports=ports, failures=list(failures)))


async def move(it: World) -> dict[str, Any]:
    found: dict[str, Any] = (await it.client.get(P1)).status["move"]
    return found


@asynccontextmanager
async def moving(*listening: Name) -> AsyncIterator[World]:
    """p1 goes from h1 to h2, h3 may send to it; these hosts have an agent with the feed open."""
    async with world() as it:
        uplinks = [{"interface": "eth1", "provider_network": "phys"}]
        await it.client.apply([(H3, {"uplinks": uplinks}), port(1, "h1"), port(2, "h3")])
        agents = [it.service.follow(host, None) for host in listening]
        for agent in agents:
            await anext(agent)
        for host in (H1, H2, H3):
            report(it, host)
        await it.client.patch(P1, {"destination": "h2"})
        yield it
        for agent in agents:
            await agent.aclose()


async def test_a_port_is_ready_to_move_when_every_host_has_followed_and_its_destination_has_it() -> None:
    async with moving(H1, H2, H3) as it:
        found = await move(it)
        assert (found["destination"], found["ready"], found["absent"]) == (H2, False, [])
        assert found["waiting_for"] == [f"{host}: applies it" for host in (H1, H2, H3)]
        report(it, H1, "active")
        report(it, H2)
        assert (await move(it))["waiting_for"] == [
            "hosts/h3: applies it",
            "hosts/h2: the port is unknown there: hosts/h2 has not said yet",
        ]
        report(it, H3)
        report(it, H2, "down")
        assert [text.partition(":")[0] for text in (await move(it))["waiting_for"]] == [H2]
        report(it, H2, "active")
        assert await move(it) == {
            "destination": H2, "ready": True, "state": "active", "reason": "", "waiting_for": [], "absent": [],
        }  # fmt: skip


async def test_a_row_that_a_host_refused_holds_the_move_up() -> None:
    async with moving(H1, H2, H3) as it:
        spec = (await it.client.get(P1)).spec
        vsid = (await it.client.get("tenants/blue/routing-domains/prod/virtual-subnets/web")).spec["vsid"]
        for host in (H1, H2):
            report(it, host, "active")
        report(it, H3, None, None, FailureReport(key=["macs", vsid, spec["mac"]], reason="macs: full"))
        assert (await move(it))["waiting_for"] == ["hosts/h3: macs: full"]


async def test_what_its_destination_says_has_failed_is_the_moves_own_state_and_its_reason() -> None:
    async with moving(H1, H2, H3) as it:
        old = it.service.revision - 1
        for host in (H1, H3):
            report(it, host, "active")
        it.service.report(H2, StatusReport(revision=old, ports={P1: PortReport("failed", "of a former attempt")}))
        found = await move(it)
        assert (found["state"], found["reason"]) == ("unknown", f"{H2} has not said yet")
        ports = {P1: PortReport("failed", "interface tapp1 may as well be of another")}
        it.service.report(H2, StatusReport(revision=it.service.revision, ports=ports))
        found = await move(it)
        assert (found["state"], found["reason"]) == ("failed", "interface tapp1 may as well be of another")
        spec = (await it.client.get(P1)).spec
        vsid = (await it.client.get("tenants/blue/routing-domains/prod/virtual-subnets/web")).spec["vsid"]
        report(it, H2, "active", None, FailureReport(key=["macs", vsid, spec["mac"]], reason="macs: full"))
        found = await move(it)
        assert (found["ready"], found["state"], found["reason"]) == (False, "failed", "macs: full")


async def test_a_host_without_an_agent_is_named_as_such() -> None:
    async with moving(H1, H2) as it:
        report(it, H1, "active")
        report(it, H2, "active")
        found = await move(it)
        assert (found["waiting_for"], found["absent"]) == (["hosts/h3: is not connected"], [H3])


async def test_a_disabled_port_is_ready_when_its_destination_has_it_disabled() -> None:
    async with moving(H1, H2, H3) as it:
        await it.client.patch(P1, {"admin_state": "down"})
        for host in (H1, H2, H3):
            report(it, host, "down")
        assert (await move(it))["ready"]


async def test_the_end_of_a_move_is_one_write_and_what_the_new_host_said_stays_said() -> None:
    async with moving(H1, H2, H3) as it:
        for host in (H1, H2, H3):
            report(it, host, "active")
        item = await it.client.patch(P1, {"host": "h2", "destination": None})
        assert (item.spec["host"], item.spec.get("destination")) == (H2, None)
        assert item.status == {"state": "active", "reason": "", "host": H2}
        with pytest.raises(ApiError, match="on hosts/h2 already"):
            await it.client.patch(P1, {"destination": "h2"})


async def test_a_parent_is_ready_when_its_sub_ports_are_too() -> None:
    async with moving(H1, H2, H3) as it:
        sub = Name("tenants/blue/ports/sub")
        spec = {"virtual_subnet": "prod/web", "trunk": {"parent": "p1", "vlan": 100}}
        await it.client.apply([(sub, spec)])
        for host in (H1, H2, H3):
            report(it, host, "active")
        assert (await it.client.get(sub)).spec["destination"] == H2
        found = await move(it)
        assert (found["ready"], found["state"]) == (False, "active")
        (waits_for,) = found["waiting_for"]
        assert waits_for.startswith(f"{H2}: its sub-port {sub} is unknown there")
        revision = it.service.revision
        failed = PortReport("failed", "no room")
        it.service.report(H2, StatusReport(revision=revision, ports={sub: failed}, complete=False))
        found = await move(it)
        assert (found["state"], found["reason"]) == ("failed", f"its sub-port {sub}: no room")
        it.service.report(H2, StatusReport(revision=revision, ports={sub: PortReport(state="active")}, complete=False))
        assert (await move(it))["ready"]


async def test_a_destination_that_has_not_come_to_a_sub_port_yet_has_not_failed() -> None:
    """The sub-port is newer than its parent: what is on its way to the destination is waited for."""
    async with moving(H1, H2, H3) as it:
        for host in (H1, H2, H3):
            report(it, host, "active")
        parents = it.service.revision
        sub = Name("tenants/blue/ports/sub")
        await it.client.apply([(sub, {"virtual_subnet": "prod/web", "trunk": {"parent": "p1", "vlan": 100}})])
        assert it.service.revision > parents
        for host in (H1, H3):
            report(it, host, "active")
        found = await move(it)
        assert (found["ready"], found["state"], found["waiting_for"]) == (False, "active", [f"{H2}: applies it"])
        # And what it then refuses of the sub-port has failed.
        spec = (await it.client.get(sub)).spec
        vsid = (await it.client.get("tenants/blue/routing-domains/prod/virtual-subnets/web")).spec["vsid"]
        report(it, H2, "active", None, FailureReport(key=["macs", vsid, spec["mac"]], reason="macs: full"))
        found = await move(it)
        assert (found["ready"], found["state"], found["reason"]) == (False, "failed", "macs: full")


async def test_connections_go_from_the_host_that_a_port_leaves_to_the_one_that_it_moves_to_and_to_no_other() -> None:
    async with moving() as it:
        agent = it.service.follow(H1, None, answers=True)
        await anext(agent)
        wanted = asyncio.create_task(it.client.carried(H2, P1, 3))
        (asked,) = [json.loads(line)["ask"] for line in (await anext(agent)).splitlines()]
        assert (asked["what"], asked["body"]) == ("connections", {"port": P1, "after": 3})
        for host, question in ((H2, asked["id"]), (H3, asked["id"]), (H1, "another")):
            with pytest.raises(ApiError) as refused:
                await it.client.answer(host, question, b"mine")
            assert refused.value.status == 404
        await it.client.answer(H1, asked["id"], b"unread")
        assert await wanted == b"unread"
        with pytest.raises(ApiError) as refused:
            await it.client.answer(H1, asked["id"], b"again")
        assert refused.value.status == 404
        # Who has nothing to do with it is told of nothing, and nobody is asked.
        for host, port in ((H1, P1), (H3, P1), (H2, "tenants/blue/ports/p2"), (H2, "tenants/blue/ports/none")):
            with pytest.raises(ApiError) as refused:
                await it.client.carried(host, port, 0)
            assert refused.value.status == 404
        await agent.aclose()


async def test_who_has_arrived_may_ask_its_former_host_for_the_last_that_it_had() -> None:
    async with moving(H1, H2, H3) as it:
        agent = it.service.follow(H1, None, answers=True)
        await anext(agent)

        async def asks(body: dict[str, object]) -> None:
            wanted = asyncio.create_task(it.client.carried(H2, P1, 3, H1))
            while True:  # what the host is told besides
                asked = [each for line in (await anext(agent)).splitlines() if (each := json.loads(line).get("ask"))]
                if asked:
                    break
            assert asked[0]["body"] == body
            await it.client.answer(H1, asked[0]["id"], b"unread")
            assert await wanted == b"unread"

        last: dict[str, object] = {"port": P1, "after": 3, "last": True}
        await asks(last)  # its former host does not know yet
        await it.client.patch(P1, {"host": "h2", "destination": None})
        await asks(last)
        for host, port in ((H1, P1), (H3, P1), (H2, "tenants/blue/ports/none")):
            with pytest.raises(ApiError) as refused:
                await it.client.carried(host, port, 0, H1)
            assert refused.value.status == 404
        with pytest.raises(ApiError) as refused:
            await it.client.carried(H2, P1, 0)
        assert refused.value.status == 404
        await agent.aclose()


async def test_a_host_that_says_nothing_is_said_to() -> None:
    async with moving(H1) as it:
        with pytest.raises(ApiError, match="its agent is older") as refused:
            await it.client.carried(H2, P1, 0)
        assert refused.value.status == 502
    async with moving() as it:
        with pytest.raises(ApiError, match="hosts/h1 is not connected"):
            await it.client.carried(H2, P1, 0)
        agent = it.service.follow(H1, None, answers=True)
        await anext(agent)
        wanted = asyncio.create_task(it.client.carried(H2, P1, 0))
        asked = json.loads(await anext(agent))["ask"]
        await it.client.answer(H1, asked["id"], b"", "it is not leaving")
        with pytest.raises(ApiError, match="hosts/h1: it is not leaving"):
            await wanted
        await agent.aclose()


async def test_who_asks_an_agent_that_goes_hears_at_once_and_one_that_is_started_anew_is_asked() -> None:
    async with moving() as it:
        agent = it.service.follow(H1, None, answers=True)
        await anext(agent)
        wanted = asyncio.create_task(it.client.carried(H2, P1, 0))
        assert "ask" in json.loads(await anext(agent))
        await agent.aclose()
        with pytest.raises(ApiError, match="hosts/h1 is not connected any more") as refused:
            await wanted
        assert refused.value.status == 503
        # The former one is not known to have gone.
        former = [it.service.follow(H1, None, answers=True) for _ in range(5)]
        for each in former:
            await anext(each)
        agent = it.service.follow(H1, None, answers=True)
        await anext(agent)
        wanted = asyncio.create_task(it.client.carried(H2, P1, 0))
        asked = json.loads(await anext(agent))["ask"]
        for each in former:
            await each.aclose()
        await it.client.answer(H1, asked["id"], b"unread")
        assert await wanted == b"unread"
        await agent.aclose()


async def test_a_ports_connections_are_listed_by_its_host_and_no_others() -> None:
    async with moving() as it:
        agent = it.service.follow(H1, None, answers=True)
        await anext(agent)
        path = f"/v1/{P1}/connections"
        wanted = asyncio.create_task(it.client.ask("GET", path, Connections))
        asked = json.loads(await anext(agent))["ask"]
        assert (asked["what"], asked["body"]) == ("list", {"port": P1})
        none = {"packets": 1, "bytes": 60}
        one = Listed(
            port=P1, protocol="tcp", local="10.0.1.2", remote="10.0.1.3", local_port=80, remote_port=4000, rule=7,
            state="established", begun_by="other", rule_name="r", refused=False, sent=Counted(**none),
            received=Counted(**none), age_s=1.5, expires_s=60.0,
        )  # fmt: skip
        anothers = msgspec.structs.replace(one, port="tenants/red/ports/p1")
        said = msgspec.json.encode(Connections(connections=[one, anothers], total=2))
        await it.client.answer(H1, asked["id"], said)
        assert (await wanted).connections == [one]
        with pytest.raises(ApiError, match="hosts/h3 is not connected") as refused:
            await it.client.ask("GET", "/v1/tenants/blue/ports/p2/connections", Connections)
        assert refused.value.status == 502
        with pytest.raises(ApiError) as refused:
            await it.client.ask("GET", "/v1/tenants/blue/ports/none/connections", Connections)
        assert refused.value.status == 404
        await agent.aclose()

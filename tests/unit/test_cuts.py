"""Which connections a change would cut: whom the controller asks, and what an agent finds; as it then comes about."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from packets import build as b
from packets.guarding import (
    ALONE,
    CLIENTS,
    FIREWALL,
    FIRST,
    GUARDED,
    KEPT,
    KEPT_NO_HTTP,
    NO_HTTP,
    SECOND,
    SERVERS,
    WEB1_PORT,
    WEB2_PORT,
    dns,
    guarded,
    opened,
    talk,
    tcp,
)
from packets.policy import Policy
from unit.controller_world import BASE, World, port, world
from weft.agent.cuts import Cuts
from weft.client import ApiError
from weft.feed.reflector import Tables
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Rejected
from weft.model.names import Name
from weft.policy.drop import DropReason
from weft.policy.rows import Record, Row, host_scope
from weft.reference.plane import ReferenceDataPlane
from weft.wire import cuts as wire
from weft.wire import feed

H1, H2 = Name("hosts/h1"), Name("hosts/h2")
NOW_NS = 10**12
PORTS = (WEB1_PORT, WEB2_PORT)
_GROUPS = {WEB1_PORT: (1,), WEB2_PORT: (2,)}
DENIES = replace(
    SERVERS, rules=(*SERVERS.rules, replace(SERVERS.rules[0], number=29, allow=False, priority=9, name="servers/no"))
)
STATELESS = tuple(replace(group, stateful=False) for group in (CLIENTS, SERVERS))
#: What comes next in each connection that is opened, by (protocol, the server's port).
NEXT = {
    (6, 80): talk(FIRST, SECOND, tcp("PA", 109, 507, data=b"more")),
    (17, 53): dns(FIRST, SECOND),
    (1, 2048): talk(FIREWALL, SECOND, b.echo(4)),
}


def changed(to: Policy) -> dict[str, Row]:
    return {str(row.key): row for row in to.rows}


def asking(plane: ReferenceDataPlane, policy: Policy, *, clock: Any = None) -> Cuts:
    tables = Tables()
    tables.carry_out([feed.Rows("rd:all", tuple(policy.rows))])

    async def ask(question: Callable[[ReferenceDataPlane], Any]) -> Any:
        return question(plane)

    return Cuts("hosts/h1", ask, lambda: tables, clock or MonotonicClock())


def question(now: Policy, then: Policy, gone: tuple[str, ...] = ()) -> bytes:
    """As the controller asks it: the ports' rows, groups, and records that change."""
    before = changed(now)
    rows = [row for row in then.rows if row.key[0] in ("security_groups", "address_groups") or row.key[-1] in PORTS]
    rows += [row for row in then.rows if isinstance(row, Record) and before.get(str(row.key)) != row]
    frame = feed.encode_rows(host_scope("hosts/h1"), rows).decode()
    return msgspec.json.encode(wire.Question([name for name in PORTS if name not in gone], list(gone), [frame]))


def loaded(policy: Policy) -> ReferenceDataPlane:
    plane = ReferenceDataPlane("hosts/h1", reachable=lambda _: True)
    load(plane, policy)
    for exchange in (*opened(FIRST, SECOND), dns(FIRST, SECOND), talk(FIREWALL, SECOND, b.echo(4))):
        plane.from_port(exchange.interface, exchange.frame, NOW_NS)
    return plane


def load(plane: ReferenceDataPlane, policy: Policy) -> None:
    assert plane.update(policy.rows) == []
    assert plane.prune({row.key for row in policy.rows}) == []
    assert plane.bind(policy.bindings) == []


@pytest.mark.parametrize(
    ("then", "cut"),
    [
        (GUARDED, set()),
        (NO_HTTP, {(6, 80)}),
        (ALONE, {(6, 80)}),
        (guarded(_GROUPS, (CLIENTS, DENIES)), {(6, 80)}),
        (guarded(_GROUPS, (replace(CLIENTS, rules=()), SERVERS)), {(6, 80), (17, 53)}),
        (guarded(_GROUPS, KEPT_NO_HTTP), set()),
        (guarded({}, ()), set()),
        (guarded({WEB1_PORT: (1,)}, (CLIENTS,)), set()),
        (guarded(_GROUPS, (CLIENTS, replace(SERVERS, rules=()))), {(6, 80), (17, 53), (1, 2048)}),
    ],
    ids=["nothing", "a rule", "a member", "a denial", "the other end's", "kept", "no groups", "of one", "all"],
)  # fmt: skip
async def test_what_is_said_is_what_then_comes_about(then: Policy, cut: set[tuple[int, int]]) -> None:
    plane = loaded(GUARDED)
    answer = msgspec.json.decode(await asking(plane, GUARDED).answer(question(GUARDED, then)), type=wire.Answer)
    names = {"tcp": 6, "udp": 17, "icmp": 1}
    said = {(names[of.protocol], of.local_port if of.begun_by == "other" else of.remote_port) for of in answer.cut}
    said = {(protocol, 2048 if protocol == 1 else number) for protocol, number in said}
    assert said == cut
    assert (answer.looked_at, answer.unjudged) == (5, 0)
    load(plane, then)
    refused = {
        which
        for which, exchange in NEXT.items()
        if getattr(plane.from_port(exchange.interface, exchange.frame, NOW_NS).verdict, "reason", None)
        is DropReason.SECURITY_GROUP
    }
    assert refused == cut


async def test_it_is_said_which_rule_let_it_in_and_what_would_refuse_it() -> None:
    plane = loaded(GUARDED)
    then = guarded(_GROUPS, (CLIENTS, DENIES))
    answer = msgspec.json.decode(await asking(plane, GUARDED).answer(question(GUARDED, then)), type=wire.Answer)
    (of,) = answer.cut
    assert (of.port, of.local, of.local_port, of.remote, of.state) == (WEB2_PORT, SECOND, 80, FIRST, "established")
    assert (of.rule, of.by, of.why) == ("servers/http", "servers/no", "servers/no would deny it")


async def test_of_what_is_not_tracked_any_more_both_ways_are_asked() -> None:
    plane = loaded(GUARDED)
    then = guarded(_GROUPS, STATELESS)
    answer = msgspec.json.decode(await asking(plane, GUARDED).answer(question(GUARDED, then)), type=wire.Answer)
    # No rule lets the server's answers out, nor the client's in.
    assert {(of.port, of.protocol) for of in answer.cut} == {
        (WEB1_PORT, "tcp"), (WEB1_PORT, "udp"), (WEB2_PORT, "tcp"), (WEB2_PORT, "udp"),
    }  # fmt: skip


async def test_all_connections_of_a_port_that_goes_are_cut_kept_or_not() -> None:
    plane = loaded(guarded(_GROUPS, KEPT))
    asked = question(GUARDED, GUARDED, gone=(WEB2_PORT,))
    answer = msgspec.json.decode(await asking(plane, GUARDED).answer(asked), type=wire.Answer)
    assert {of.port for of in answer.cut} == {WEB2_PORT}
    assert answer.total == 3
    assert {of.why for of in answer.cut} == {"its port would not be there"}


class Late:
    """Time is up as soon as it is looked."""

    def __init__(self) -> None:
        self.s = 0.0

    def now_s(self) -> float:
        self.s += 100.0
        return self.s

    async def sleep(self, seconds: float) -> None:
        """Never asked."""


async def test_what_was_not_judged_in_time_is_counted() -> None:
    plane = loaded(GUARDED)
    said = await asking(plane, GUARDED, clock=Late()).answer(question(GUARDED, NO_HTTP))
    answer = msgspec.json.decode(said, type=wire.Answer)
    assert (answer.total, answer.unjudged) == (0, 5)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"ports": 5}'])
async def test_what_is_no_question_is_refused(body: bytes) -> None:
    with pytest.raises(Rejected):
        await asking(loaded(GUARDED), GUARDED).answer(body)


# -- whom the controller asks --

WEB, OTHERS = "tenants/blue/security-groups/web", "tenants/blue/security-groups/others"
HTTP = f"{WEB}/rules/http"
RULES = [
    (WEB, {}),
    (OTHERS, {}),
    (HTTP, {"direction": "ingress", "protocol": "tcp", "port_min": 80, "remote_group": "others"}),
    ("tenants/blue/address-groups/office", {"prefixes": ["192.0.2.0/24"]}),
    (
        f"{WEB}/rules/office",
        {"direction": "ingress", "protocol": "tcp", "port_min": 22, "remote_address_group": "office"},
    ),
]
P1, P2, P3 = (f"tenants/blue/ports/p{n}" for n in (1, 2, 3))


def secured(number: int, host: str | None, *groups: str, **more: Any) -> tuple[str, dict[str, Any]]:
    name, spec = port(number, host)
    return name, {**spec, "security_groups": list(groups), **more}


def rows_of(it: World) -> dict[str, dict[Any, Row]]:
    return {host: {row.key: row for row in it.service.rows_of(host)} for host in (H1, H2)}


async def prepared(it: World) -> None:
    await it.client.apply([*RULES, secured(1, "h1", "web"), secured(2, "h2", "others"), port(3, "h2")])


@pytest.mark.parametrize(
    ("puts", "deletes", "asked"),
    [
        ([], [HTTP], {H1: ([P1], [])}),
        ([(HTTP, {"direction": "ingress", "protocol": "tcp", "port_min": 81})], [], {H1: ([P1], [])}),
        ([(f"{OTHERS}/rules/out", {"direction": "egress"})], [], {H2: ([P2], [])}),
        ([("tenants/blue/address-groups/office", {"prefixes": ["192.0.2.9/32"]})], [], {H1: ([P1], [])}),
        ([(WEB, {"keep_connections": True})], [], {H1: ([P1], [])}),
        ([secured(2, "h2")], [], {H1: ([P1], []), H2: ([P2], [])}),  # its rules, and it is a member no longer
        ([secured(3, "h2", "others")], [], {H1: ([P1], [])}),  # of p3 nothing was known
        ([], [P2], {H1: ([P1], []), H2: ([], [P2])}),
        ([secured(1, "h2", "web")], [], {H1: ([], [P1])}),
        ([secured(1, "h1", "web", destination="h2")], [], {}),  # its connections go along
        ([("tenants/blue", {"description": "else"}), port(9, "h1")], [], {}),
    ],
    ids=[
        "a rule that goes", "that changes", "that comes", "prefixes", "kept", "groups", "a member", "a port",
        "elsewhere", "a move", "nothing of rules",
    ],
)  # fmt: skip
async def test_only_hosts_of_ports_whose_rules_change_are_asked_and_only_of_these(
    puts: list[Any], deletes: list[str], asked: dict[str, Any]
) -> None:
    async with world() as it:
        await prepared(it)
        before = rows_of(it)
        agents = {host: it.service.follow(host, None, answers=True) for host in (H1, H2)}
        for agent in agents.values():
            await anext(agent)
        going = asyncio.create_task(it.client.apply(puts, deletes, dry_run=True, connections=True))
        found = {}
        for host in asked:
            said = json.loads((await anext(agents[host])).splitlines()[0])["ask"]
            assert said["what"] == "cuts"
            found[host] = (said["body"]["ports"], said["body"]["gone"])
            await it.client.answer(host, said["id"], msgspec.json.encode(wire.Answer(looked_at=2)))
        cuts = (await going).cut
        assert found == asked
        assert isinstance(cuts, wire.Cuts)
        assert (cuts.looked_at, cuts.unanswered) == (2 * len(asked), [])
        # It was a dry run.
        assert rows_of(it) == before
        for agent in agents.values():
            await agent.aclose()


async def test_the_rows_in_a_question_are_as_they_would_be() -> None:
    async with world() as it:
        await prepared(it)
        agent = it.service.follow(H1, None, answers=True)
        await anext(agent)
        going = asyncio.create_task(it.client.apply([secured(2, "h2")], [HTTP], dry_run=True, connections=True))
        said = json.loads((await anext(agent)).splitlines()[0])["ask"]
        frames = [json.loads(frame) for frame in said["body"]["frames"]]
        puts = {table: rows for frame in frames for table, rows in frame["puts"].items()}
        assert [row["port"] for row in puts["ports"]] == [P1]
        assert [[rule["name"] for rule in row["rules"]] for row in puts["security_groups"]] == [[f"{WEB}/rules/office"]]
        assert puts["address_groups"][0]["prefixes"] == ["192.0.2.0/24"]
        assert {tuple(row["groups"]) for row in puts["records"]} == {()}
        await it.client.answer(H1, said["id"], b'{"cut": 5}')
        cuts = (await going).cut
        assert isinstance(cuts, wire.Cuts)
        said_nothing = {each.host: each.reason for each in cuts.unanswered}
        assert said_nothing[H2] == "hosts/h2 is not connected"
        assert said_nothing[H1].startswith("hosts/h1 has not answered as it should")
        await agent.aclose()


async def test_a_host_speaks_for_the_ports_that_it_was_asked_of_and_a_tenant_hears_of_no_host() -> None:
    from weft.controller.cuts import for_tenant

    async with world() as it:
        await prepared(it)
        agent = it.service.follow(H1, None, answers=True)
        await anext(agent)
        going = asyncio.create_task(it.client.apply([secured(2, "h2")], [HTTP], dry_run=True, connections=True))
        said = json.loads((await anext(agent)).splitlines()[0])["ask"]
        one = wire.Cut(
            port=P1, protocol="tcp", local="10.0.1.2", local_port=80, remote="10.0.1.3", remote_port=4,
            state="established", begun_by="other",
        )  # fmt: skip
        wrong = msgspec.structs.replace(one, port="tenants/red/ports/p1")
        await it.client.answer(H1, said["id"], msgspec.json.encode(wire.Answer(cut=[one, wrong], total=2)))
        cuts = (await going).cut
        assert isinstance(cuts, wire.Cuts)
        assert [(each.port, each.host) for each in cuts.connections] == [(P1, H1)]
        assert H2 in str(cuts)
        assert "hosts/" not in str(for_tenant(cuts))
        assert for_tenant(cuts).unanswered[0].ports == [P2]
        await agent.aclose()


async def test_what_would_be_cut_is_said_of_dry_runs_only() -> None:
    async with world() as it:
        await prepared(it)
        with pytest.raises(ApiError, match="of a dry run") as refused:
            await it.client.apply([], [HTTP], connections=True)
        assert refused.value.field == "connections"
        assert (await it.client.apply([], [HTTP], dry_run=True)).cut is msgspec.UNSET
        assert BASE

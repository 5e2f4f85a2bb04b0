"""Who may do what, by every route there is: a route that is not in this table fails it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import httpx2
import msgspec
import pytest

from unit.controller_world import DOMAIN, WEB, CameIn, World, assembled, port, world
from weft.controller import authorisation, tenants
from weft.controller.api import create_app
from weft.controller.authorisation import Action, Caller, Role, Verdict, decide
from weft.controller.callers import Callers
from weft.controller.doors import Door, Peer
from weft.controller.service import Service
from weft.model.names import PATTERNS, Kind, Name
from weft.store.memory import MemoryStore
from weft.tls import identity
from weft.tls.identity import Identity
from weft.wire.objects import SPECS

FOR_EVER = 1e12
TOKENS = {
    "blue-admin": Caller(Role.TENANT_ADMIN, "user/ann", Name("tenants/blue")),
    "blue-reader": Caller(Role.TENANT_READER, "user/bob", Name("tenants/blue")),
}


async def by_token(token: str) -> Caller | None:
    return TOKENS.get(token)


def callers(*, trusts_loopback: bool = True) -> Callers:
    return Callers([by_token], trusts_loopback=trusts_loopback)


def shows(role: identity.Role, label: str) -> Peer:
    return Peer(Door.TLS, "192.0.2.7", Identity(role, label), 0.0, FOR_EVER)


STRANGER = Peer(Door.TLS, "192.0.2.7")
#: Everybody who may come, in the order of the table's columns: by which door, with which headers.
WHO: Mapping[str, tuple[Peer, dict[str, str]]] = {
    "nobody": (STRANGER, {}),
    "admin": (shows(identity.Role.ADMIN, "alice"), {}),
    "operator": (shows(identity.Role.OPERATOR, "olga"), {}),
    "tenant admin": (STRANGER, {"authorization": "Bearer blue-admin"}),
    "tenant reader": (STRANGER, {"authorization": "Bearer blue-reader"}),
    "host": (shows(identity.Role.HOST, "h1"), {}),
    "a controller": (shows(identity.Role.CONTROLLER, "c1"), {}),
}

# "." is let through to the handler. The path's names are the caller's own (blue, h1) in the first columns, and
# another's (red, h2) in the second.
TABLE = """
                                                          nobody adm op  ta  tr  host ctrl | adm op  ta  tr  host
GET    /v1/tenants                                        401    .   .   .   .   403  403  | .   .   .   .   403
GET    /v1/tenants/{tenant}                               401    .   .   .   .   403  403  | .   .   404 404 403
PUT    /v1/tenants/{tenant}                               401    .   .   403 403 403  403  | .   .   404 404 403
PATCH  /v1/tenants/{tenant}                               401    .   .   403 403 403  403  | .   .   404 404 403
DELETE /v1/tenants/{tenant}                               401    .   .   403 403 403  403  | .   .   404 404 403
GET    /v1/provider-networks                              401    .   .   403 403 403  403  | .   .   403 403 403
GET    /v1/provider-networks/{provider_network}           401    .   .   403 403 403  403  | .   .   403 403 403
PUT    /v1/provider-networks/{provider_network}           401    .   .   403 403 403  403  | .   .   403 403 403
PATCH  /v1/provider-networks/{provider_network}           401    .   .   403 403 403  403  | .   .   403 403 403
DELETE /v1/provider-networks/{provider_network}           401    .   .   403 403 403  403  | .   .   403 403 403
GET    /v1/hosts                                          401    .   .   403 403 403  403  | .   .   403 403 403
GET    /v1/hosts/{host}                                   401    .   .   403 403 403  403  | .   .   403 403 403
PUT    /v1/hosts/{host}                                   401    .   .   403 403 403  403  | .   .   403 403 403
PATCH  /v1/hosts/{host}                                   401    .   .   403 403 403  403  | .   .   403 403 403
DELETE /v1/hosts/{host}                                   401    .   .   403 403 403  403  | .   .   403 403 403
GET    /v1/hosts/{host}/feed                              401    .   .   403 403 .    403  | .   .   403 403 403
POST   /v1/hosts/{host}/status                            401    .   403 403 403 .    403  | .   403 403 403 403
POST   /v1/hosts/{host}/announcements                     401    .   403 403 403 .    403  | .   403 403 403 403
POST   /v1/hosts/{host}/answers/{question}                401    .   403 403 403 .    403  | .   403 403 403 403
GET    /v1/hosts/{host}/connections                       401    .   403 403 403 .    403  | .   403 403 403 403
GET    /v1/tenants/{tenant}/ports/{port}/connections      401    .   .   .   .   403  403  | .   .   404 404 403
POST   /v1/apply                                          401    .   .   .   403 403  403  | .   .   .   403 403
GET    /v1/watch                                          401    .   .   .   .   403  403  | .   .   .   .   403
POST   /v1/trace                                          401    .   .   403 403 403  403  | .   .   403 403 403
POST   /v1/hosts/{host}/certificate                       401    .   403 403 403 .    403  | .   403 403 403 403
POST   /v1/hosts/{host}/join-tokens                       401    .   .   403 403 403  403  | .   .   403 403 403
POST   /v1/join                                           .      .   .   .   .   .    .    | .   .   .   .   .
GET    /v1/ca                                             .      .   .   .   .   .    .    | .   .   .   .   .
GET    /v1/tokens                                         401    .   403 403 403 403  403  | .   403 403 403 403
POST   /v1/tokens                                         401    .   403 403 403 403  403  | .   403 403 403 403
DELETE /v1/tokens/{token}                                 401    .   403 403 403 403  403  | .   403 403 403 403
POST   /v1/revocations                                    401    .   403 403 403 403  403  | .   403 403 403 403
GET    /v1/quotas                                         401    .   .   403 403 403  403  | .   .   403 403 403
GET    /v1/quotas/{tenant}                                401    .   .   .   .   403  403  | .   .   404 404 403
PUT    /v1/quotas/{tenant}                                401    .   403 403 403 403  403  | .   403 404 404 403
GET    /v1/audit                                          401    .   .   403 403 403  403  | .   .   403 403 403
GET    /v1/audit/follow                                   401    .   .   403 403 403  403  | .   .   403 403 403
GET    /v1/statuses                                       401    .   403 403 403 403  .    | .   403 403 403 403
POST   /v1/questions                                      401    .   403 403 403 403  .    | .   403 403 403 403
GET    /v1/whoami                                         401    .   .   .   .   .    .    | .   .   .   .   .
GET    /healthz                                           .      .   .   .   .   .    .    | .   .   .   .   .
GET    /metrics                                           401    .   .   403 403 403  403  | .   .   403 403 403
GET    /openapi.json                                      401    .   .   .   .   .    .    | .   .   .   .   .
"""
# Of every kind that tenants have, as it is below tenants/{tenant}/.
INTENT = """
GET    COLLECTION                                         401    .   .   .   .   403  403  | .   .   404 404 403
GET    OBJECT                                             401    .   .   .   .   403  403  | .   .   404 404 403
PUT    OBJECT                                             401    .   .   .   403 403  403  | .   .   404 404 403
PATCH  OBJECT                                             401    .   .   .   403 403  403  | .   .   404 404 403
DELETE OBJECT                                             401    .   .   .   403 403  403  | .   .   404 404 403
"""


def expected() -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    from weft.controller.kinds import RESOURCES

    lines = [line.split() for line in TABLE.strip().splitlines()[1:]]
    for kind, resource in RESOURCES.items():
        if PATTERNS[kind].startswith("tenants/T/"):
            places = {"COLLECTION": f"/v1/{resource.collection}", "OBJECT": f"/v1/{resource.path}"}
            lines += [
                [verb, places[place], *rest] for verb, place, *rest in map(str.split, INTENT.strip().splitlines())
            ]
    found = {}
    for method, path, *columns in lines:
        bar = columns.index("|")
        found[method, path] = (columns[:bar], columns[bar + 1 :])
    return found


@asynccontextmanager
async def asked(it: World, who: str) -> AsyncIterator[httpx2.AsyncClient]:
    peer, headers = WHO[who]
    application = assembled(it.service, STOPPING, callers=callers())
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(CameIn(application, peer)), base_url="http://weft", headers=headers
    ) as client:
        yield client


STOPPING = asyncio.Event()
STOPPING.set()  # streams end at once

OWN = {"tenant": "blue", "host": "h1"}
ANOTHERS = {"tenant": "red", "host": "h2"}
OTHERS = {
    "token": "0011", "question": "0022",
    "provider_network": "phys", "routing_domain": "prod", "virtual_subnet": "web", "port": "p1", "customer_route": "r",
    "address_group": "a", "security_group": "default", "rule": "egress-ipv4",
}  # fmt: skip


async def refused(client: httpx2.AsyncClient, method: str, path: str) -> str:
    """ "." when the handler was reached: its answers to such a request are others."""
    body = b"" if method in ("GET", "DELETE") else b"["  # no JSON: a handler says 400
    answer = await client.request(method, path, content=body, headers={"if-match": '"0"'})
    detail = answer.json().get("detail", "") if answer.status_code >= 400 else ""
    if answer.status_code in (401, 403):
        return str(answer.status_code)
    return "404" if answer.status_code == 404 and path.startswith("/v1/") and detail == _hidden(path) else "."


def _hidden(path: str) -> str:
    """What is not there is the object, whatever was asked of it."""
    of = path.removeprefix("/v1/").removesuffix("/connections").replace("quotas/", "tenants/")
    return f"there is no {of}"


async def test_every_route_is_open_to_those_it_is_for_and_to_nobody_else() -> None:
    async with world() as it:
        await it.client.apply([port(1), ("tenants/red", {})])
        table = expected()
        application = assembled(it.service, STOPPING)
        routes = {(method, route.path) for route in application.routes for method in route.methods - {"HEAD"}}
        assert routes == table.keys()
        wrong = []
        for column, who in enumerate(WHO):
            async with asked(it, who) as client:
                for (method, path), (own, anothers) in table.items():
                    places = [(OWN, own[column])]
                    if who not in ("nobody", "a controller"):
                        places.append((ANOTHERS, anothers[column - 1]))
                    for names, wanted in places:
                        at = path.format_map({**OTHERS, **names})
                        found = await refused(client, method, at)
                        # What is not there at all is a 404 of the handler's own.
                        if wanted == "." and found == "404" and await _is_missing(it, at):
                            found = "."
                        if found != wanted:
                            wrong.append((who, method, at, found, wanted))
        assert wrong == []


@pytest.mark.parametrize("asked_of", ["tenants/{}/ports/p9", "tenants/{}/ports/p9/connections"])
async def test_a_tenant_is_told_of_anothers_port_in_the_words_for_one_that_is_not_there(asked_of: str) -> None:
    async with world() as it, asked(it, "tenant reader") as client:
        await it.client.apply([port(1)])
        own, anothers = [(await client.get(f"/v1/{asked_of.format(each)}")).json() for each in ("blue", "red")]
        assert own["detail"] == "there is no tenants/blue/ports/p9"
        assert anothers == {**own, "detail": "there is no tenants/red/ports/p9"}


async def _is_missing(it: World, path: str) -> bool:
    return it.service.find(path.removeprefix("/v1/")) is None


@pytest.mark.parametrize(("role", "action"), list(product(Role, Action)))
def test_a_role_may_what_the_table_says_of_its_own_and_a_tenant_never_learns_of_anothers(
    role: Role, action: Action
) -> None:
    own = Name("hosts/h1" if role is Role.HOST else "tenants/blue")
    other = Name("hosts/h2" if role is Role.HOST else "tenants/red")
    caller = Caller(role, "x", own if role.is_tenants or role is Role.HOST else None)
    mine, anothers = decide(caller, action, own), decide(caller, action, other)
    if action in authorisation.MAY[role]:
        assert mine is Verdict.ALLOWED
    else:
        assert mine in (Verdict.UNKNOWN, Verdict.FORBIDDEN)
    if role.is_tenants and action in authorisation.OF_A_TENANT:
        assert anothers is Verdict.HIDDEN
    elif role is Role.HOST:
        assert (anothers is Verdict.ALLOWED) == (action in (Action.GREET, Action.KNOW))
    else:
        assert anothers is mine


def test_every_field_of_what_tenants_have_is_theirs_or_the_operators() -> None:
    """A new field that nobody has decided on is shown to no tenant, and fails here."""
    undecided = {}
    for kind in Kind:
        if PATTERNS[kind].startswith("tenants/T/"):
            fields = set(SPECS[kind].__struct_fields__)
            theirs, operators = tenants.THEIRS[kind], tenants.OPERATORS[kind]
            assert not theirs & operators
            if odd := fields ^ (theirs | operators):
                undecided[kind] = odd
    assert undecided == {}


# ---- who is who


@pytest.mark.parametrize(
    ("peer", "headers", "role"),
    [
        (Peer(Door.LOCAL, "uid 0"), {}, Role.ADMIN),
        (Peer(Door.LOOPBACK, "127.0.0.1"), {"host": "127.0.0.1:8640"}, Role.ADMIN),
        (Peer(Door.LOOPBACK, "127.0.0.1"), {"host": "localhost:8640"}, Role.ADMIN),
        (Peer(Door.LOOPBACK, "127.0.0.1"), {"host": "[::1]:8640"}, Role.ADMIN),
        # A page of some site, in a browser on this machine
        (Peer(Door.LOOPBACK, "127.0.0.1"), {"host": "evil.example:8640"}, Role.NOBODY),
        (Peer(Door.LOOPBACK, "127.0.0.1"), {"host": "127.0.0.1:8640", "origin": "http://evil.example"}, Role.NOBODY),
        (Peer(Door.LOOPBACK, "127.0.0.1"), {"host": "127.0.0.1:8640", "sec-fetch-site": "cross-site"}, Role.NOBODY),
        (shows(identity.Role.ADMIN, "alice"), {"origin": "https://evil.example"}, Role.NOBODY),
        (shows(identity.Role.ADMIN, "alice"), {"origin": "https://weft", "host": "weft"}, Role.ADMIN),
        (Peer(Door.OPEN, "192.0.2.1"), {}, Role.ADMIN),
        (shows(identity.Role.OPERATOR, "olga"), {}, Role.OPERATOR),
        (shows(identity.Role.HOST, "h1"), {}, Role.HOST),
        (shows(identity.Role.HOST, "not.a.host"), {}, Role.NOBODY),
        (shows(identity.Role.ETCD_CLIENT, "c1"), {}, Role.NOBODY),
        (STRANGER, {}, Role.NOBODY),
        (STRANGER, {"authorization": "bearer blue-reader"}, Role.TENANT_READER),
        # Who shows a token is its holder, whatever else he has
        (Peer(Door.LOCAL, "uid 0"), {"authorization": "Bearer blue-reader"}, Role.TENANT_READER),
        (Peer(Door.LOCAL, "uid 0"), {"authorization": "Bearer wrong"}, None),
        (shows(identity.Role.ADMIN, "alice"), {"authorization": "Basic YTpi"}, None),
        (Peer(Door.TLS, "192.0.2.7", Identity(identity.Role.ADMIN, "alice"), 0.0, 1.0), {}, None),
    ],
)
async def test_callers_are_known_by_their_door_their_certificate_or_their_token(
    peer: Peer, headers: dict[str, str], role: Role | None
) -> None:
    async with world(peer=peer, callers=callers(), base=False) as it:
        answer = await it.http.get("/v1/whoami", headers=headers)
        if role in (None, Role.NOBODY):
            assert answer.status_code == 401
        else:
            assert answer.json()["role"] == role


async def test_beside_tls_the_loopback_is_nobody_in_particular() -> None:
    async with world(peer=Peer(Door.LOOPBACK, "127.0.0.1"), callers=callers(trusts_loopback=False), base=False) as it:
        assert (await it.http.get("/v1/whoami")).status_code == 401


async def test_what_comes_in_by_no_door_is_nobody() -> None:
    service = await Service.start(MemoryStore())
    transport = httpx2.ASGITransport(create_app(service, STOPPING))
    async with httpx2.AsyncClient(transport=transport, base_url="http://weft") as client:
        assert (await client.get("/v1/tenants")).status_code == 401


# ---- what a tenant sees, and may say


@asynccontextmanager
async def as_tenant(who: str = "tenant admin") -> AsyncIterator[tuple[World, httpx2.AsyncClient]]:
    """blue has a port on h1; red has a network of its own."""
    red = "tenants/red/routing-domains/prod"
    async with world() as it:
        await it.client.apply([
            port(1), ("tenants/red", {}), (red, {}),
            (f"{red}/virtual-subnets/web", {"prefixes": ["10.0.1.0/24"], "vsid": 7777}),
            ("tenants/red/ports/p1", {"virtual_subnet": "prod/web", "host": "h2"}),
        ])  # fmt: skip
        async with asked(it, who) as client:
            yield it, client


async def test_a_tenant_sees_its_own_in_lists_and_nothing_of_where_it_is() -> None:
    async with as_tenant("tenant reader") as (_, client):
        for path in ("tenants", "tenants/-/ports", "tenants/blue/ports", "tenants/-/routing-domains/-/virtual-subnets"):
            items = (await client.get(f"/v1/{path}")).json()["items"]
            assert {"/".join(item["name"].split("/")[:2]) for item in items} == {"tenants/blue"}, path
        seen = (await client.get("/v1/tenants/blue/ports/p1")).json()
        assert set(seen["spec"]) <= tenants.THEIRS[Kind.PORT]
        assert seen["spec"]["addresses"]
        assert seen["status"]["host"] is None
        assert "hosts/" not in str(seen)
        assert "vsid" not in (await client.get(f"/v1/{WEB}")).json()["spec"]
        filtered = await client.get("/v1/tenants/blue/ports?host=h1")
        assert (filtered.status_code, "has no field 'host'" in filtered.text) == (422, True)


async def test_what_is_anothers_looks_like_what_is_not_there() -> None:
    async with as_tenant() as (_, client):
        for path in ("tenants/X", "tenants/X/ports/p1", "tenants/X/routing-domains/prod", "tenants/X/ports"):
            there = await client.get("/v1/" + path.replace("X", "red"))
            not_there = await client.get("/v1/" + path.replace("X", "green"))
            assert there.status_code == not_there.status_code == 404
            assert there.text.replace("red", "X") == not_there.text.replace("green", "X")


NEW, PARENT = "tenants/blue/ports/new", "tenants/X/ports/p1"


@pytest.mark.parametrize(
    "entry",
    [
        {"puts": [{"name": "tenants/X/ports/new", "spec": {"virtual_subnet": "prod/web"}}]},
        {"puts": [{"name": NEW, "spec": {"virtual_subnet": "tenants/X/routing-domains/prod/virtual-subnets/web"}}]},
        {"puts": [{"name": NEW, "spec": {"virtual_subnet": "prod/web", "trunk": {"parent": PARENT, "vlan": 5}}}]},
        {"deletes": ["tenants/X/ports/p1"]},
        {"deletes": ["hosts/h1"]},
        {"puts": [{"name": "provider-networks/phys", "spec": {"pools": []}}]},
    ],
)  # fmt: skip
async def test_an_apply_that_names_anothers_is_refused_as_if_it_were_not_there(entry: dict[str, Any]) -> None:
    async with as_tenant() as (it, client):
        before = it.service.revision
        answers = []
        for other in ("red", "green"):
            body = httpx2.Request("POST", "http://x", json=entry).content.replace(
                b"tenants/X", f"tenants/{other}".encode()
            )
            answer = await client.post("/v1/apply", content=body)
            answers.append((answer.status_code, answer.text.replace(other, "X")))
        assert answers[0] == answers[1]
        assert answers[0][0] in (404, 422)
        assert it.service.revision == before


#: Of each kind, an object of blue's that may be put; and what may be in the place of any of its fields.
PUTS: dict[Kind, tuple[str, dict[str, Any]]] = {
    Kind.ROUTING_DOMAIN: ("tenants/blue/routing-domains/n", {}),
    Kind.VIRTUAL_SUBNET: ("tenants/blue/routing-domains/prod/virtual-subnets/n", {"prefixes": ["10.8.0.0/24"]}),
    Kind.PORT: ("tenants/blue/ports/n", {"virtual_subnet": "prod/web"}),
    Kind.CUSTOMER_ROUTE: (
        "tenants/blue/routing-domains/prod/customer-routes/n", {"prefix": "0.0.0.0/0", "next_hop": "10.0.1.9"},
    ),
    Kind.ADDRESS_GROUP: ("tenants/blue/address-groups/n", {"prefixes": ["10.0.0.0/8"]}),
    Kind.SECURITY_GROUP: ("tenants/blue/security-groups/n", {}),
    Kind.SECURITY_GROUP_RULE: ("tenants/blue/security-groups/default/rules/n", {"direction": "ingress"}),
}  # fmt: skip
SHORT = ("X/prod/web", "X/p1", "X/default", "X/list", "X/prod", "X")


@pytest.mark.parametrize(("kind", "field"), [(kind, each) for kind in PUTS for each in sorted(tenants.THEIRS[kind])])
async def test_no_field_tells_by_any_form_of_a_name_whether_another_has_something(kind: Kind, field: str) -> None:
    """Short names reach into other tenants, too. green has nothing, red has one of each."""
    async with as_tenant() as (it, client):
        await it.client.apply([("tenants/red/address-groups/list", {"prefixes": ["10.0.0.0/8"]})])
        name, spec = PUTS[kind]
        wrong = []
        for form in SHORT:
            for value in (form, [form], {"parent": form, "vlan": 5}):
                answers = []
                for other in ("red", "green"):
                    said = msgspec.json.encode({"spec": {**spec, field: value}}).replace(b"X", other.encode())
                    answer = await client.put(f"/v1/{name}", content=said)
                    answers.append((answer.status_code, answer.text.replace(other, "X")))
                if answers[0] != answers[1]:
                    wrong.append((value, answers))
        assert wrong == []


def test_every_kind_that_a_tenant_writes_is_tried() -> None:
    assert PUTS.keys() == tenants.THEIRS.keys()


@pytest.mark.parametrize(
    ("path", "spec", "field"),
    [
        ("tenants/blue/ports/p1", {"virtual_subnet": "prod/web", "host": "h2"}, "spec.host"),
        ("tenants/blue/ports/p1", {"virtual_subnet": "prod/web", "qos": {}}, "spec.qos"),
        ("tenants/blue/ports/p1", {"virtual_subnet": "prod/web", "mirror": {"address": "192.0.2.1"}}, "spec.mirror"),
        (WEB, {"prefixes": ["10.0.1.0/24"], "vsid": 7777}, "spec.vsid"),
        (WEB, {"prefixes": ["10.0.1.0/24"], "rule": "vxlan"}, "spec.rule"),
        (DOMAIN, {"rdid": "00000000-0000-0000-0000-000000000001"}, "spec.rdid"),
        ("tenants/blue", {"description": "mine"}, ""),
    ],
)
async def test_what_is_the_operators_to_say_is_not_the_tenants(path: str, spec: dict[str, Any], field: str) -> None:
    async with as_tenant() as (it, client):
        before = it.service.revision
        for method in ("PUT", "PATCH"):
            answer = await client.request(method, f"/v1/{path}", json={"spec": spec})
            assert (answer.status_code, answer.json().get("field", "")) == (403, field)
        apply = await client.post("/v1/apply", json={"puts": [{"name": path, "spec": spec}]})
        assert apply.status_code == 403
        assert it.service.revision == before


async def test_what_the_operator_has_said_stays_when_the_tenant_writes_the_rest() -> None:
    async with as_tenant() as (it, client):
        await it.client.patch("tenants/blue/ports/p1", {"qos": {"dscp": 8}})
        seen = (await client.get("/v1/tenants/blue/ports/p1")).json()["spec"]
        written = [
            await client.put("/v1/tenants/blue/ports/p1", json={"spec": {**seen, "admin_state": "down"}}),
            await client.patch("/v1/tenants/blue/ports/p1", json={"spec": {"admin_state": "up"}}),
            await client.post(
                "/v1/apply", json={"puts": [{"name": "tenants/blue/ports/p1", "spec": {**seen, "admin_state": "down"}}]}
            ),
        ]
        assert [answer.status_code for answer in written] == [200, 200, 200]
        assert all("hosts/" not in answer.text and "dscp" not in answer.text for answer in written)
        now = (await it.client.get("tenants/blue/ports/p1")).spec
        assert (now["host"], now["qos"]["dscp"], now["admin_state"]) == ("hosts/h1", 8, "down")


async def test_a_tenant_makes_networks_and_ports_of_its_own() -> None:
    async with as_tenant() as (it, client):
        made = await client.post("/v1/apply", json={"puts": [
            {"name": "tenants/blue/routing-domains/test", "spec": {}},
            {"name": "tenants/blue/routing-domains/test/virtual-subnets/a", "spec": {"prefixes": ["10.9.0.0/24"]}},
            {"name": "tenants/blue/ports/t1", "spec": {"virtual_subnet": "test/a"}},
        ]})  # fmt: skip
        assert made.status_code == 200
        assert "vsid" not in made.text
        assert (await client.delete("/v1/tenants/blue/ports/t1")).status_code == 204
        assert it.service.find("tenants/blue/routing-domains/test")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("hosts/h1 is not connected", "a host is not connected"),
        ("taken by tenants/red/ports/web-1.", "taken by something that is not yours."),
        ("tenants/blue/ports/a and tenants/bluebell/ports/b", "tenants/blue/ports/a and something that is not yours"),
        ("(provider-networks/dc1)", "(something that is not yours)"),
    ],
)
def test_names_are_taken_out_of_messages(text: str, left: str) -> None:
    assert tenants.scrubbed(text, Name("tenants/blue")) == left


async def test_an_operators_group_is_not_the_tenants_to_change_and_stays_where_it_is() -> None:
    group = "tenants/blue/security-groups/house"
    rule = {"direction": "egress", "protocol": "tcp"}
    async with world() as it:
        name, spec = port(1, None)
        await it.client.apply([(group, {"operator": True}), (f"{group}/rules/no", {**rule, "action": "deny"})])
        await it.client.put(name, {**spec, "operator_groups": ["house"]})
        async with asked(it, "tenant admin") as client:
            assert (await client.get(f"/v1/{group}/rules/no")).status_code == 200
            refused = [
                await client.put(f"/v1/{group}/rules/yes", json={"spec": rule}),
                await client.patch(f"/v1/{group}/rules/no", json={"spec": {"log": True}}),
                await client.delete(f"/v1/{group}/rules/no"),
                await client.delete(f"/v1/{group}"),
                await client.put(f"/v1/{group}", json={"spec": {}}),
                await client.put("/v1/tenants/blue/security-groups/mine", json={"spec": {"operator": True}}),
                await client.put(f"/v1/{name}", json={"spec": {"virtual_subnet": "prod/web", "operator_groups": []}}),
                await client.post("/v1/apply", json={"deletes": [f"{group}/rules/no"]}),
                await client.post("/v1/apply", json={"puts": [{"name": f"{group}/rules/yes", "spec": rule}]}),
            ]
            assert [each.status_code for each in refused] == [403] * len(refused)
            mine = "tenants/blue/security-groups/mine"
            assert (await client.put(f"/v1/{mine}", json={"spec": {}})).status_code == 201
            assert (await client.put(f"/v1/{mine}/rules/r", json={"spec": rule})).status_code == 201
            said = {"virtual_subnet": "prod/web", "security_groups": ["mine"]}
            assert (await client.put(f"/v1/{name}", json={"spec": said})).status_code == 200
        found = (await it.client.get(name)).spec
        assert (found["security_groups"], found["operator_groups"]) == ([mine], [group])

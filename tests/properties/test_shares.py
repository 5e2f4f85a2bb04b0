"""What is counted of tenants' objects is what is there, and never less than the rows that hosts get of it."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from budget import examples
from strategies.intents import (
    ABLE,
    VIRTUAL_MAC,
    everything,
    host,
    network,
    port,
    reloaded,
    route,
    said,
    subnet,
    two_tenants,
)
from weft.compiler.compiler import Compiler
from weft.kit.errors import Rejected
from weft.model import drafts
from weft.model.announcements import Announcement
from weft.model.catalog import Catalog
from weft.model.names import Name, tenant_of
from weft.model.objects import AnnouncedAddress
from weft.model.shares import SOURCES_OF_PORT, Key, Limits, Share
from weft.model.values import Ip, Mac
from weft.policy.rows import MacRecord, Member, Port, Record, Route, Row, Subnet

TENANTS, HOSTS = ("blue", "red"), ("h1", "h2", "h3")
COVERS = (drafts.AddressPair("10.0.0.0/8", "00:00:5e:00:01:33"), drafts.AddressPair("10.0.0.0/8"))


def change(random: Random, catalog: Catalog) -> tuple[list[drafts.Draft], list[str]]:
    """Something that a tenant, an operator or a guest may do."""
    owner, number = random.choice(TENANTS), random.randrange(6)
    match random.randrange(9):
        case 0:
            limits = {share.value: random.randrange(12) for share in Share if random.random() < 0.5}
            return [drafts.Tenant(f"tenants/{owner}", limits=limits)], []
        case 1:
            prefixes = random.choice([(f"10.1.{number}.0/24",), (f"10.1.{number}.0/24", f"fd00:1:{number}::/64")])
            return [subnet(f"{owner}/prod/s{number}", *prefixes)], []
        case 2:
            return [route(f"{owner}/prod/r{number}", f"172.{number}.0.0/16", next_hop="10.0.1.77")], []
        case 3 if catalog.ports:
            return [], random.sample(sorted(catalog.ports), min(2, len(catalog.ports)))
        case 4:
            parent = drafts.Trunk(f"p{random.randrange(6)}", random.randrange(1, 4))
            return [port(f"{owner}/sub{number}", "prod/db", trunk=parent)], []
        case _:
            return [anyport(random, owner, random.randrange(6)) for _ in range(random.randrange(1, 4))], []


def anyport(random: Random, owner: str, number: int) -> drafts.Port:
    at, to = random.choice([(None, None), *((each, None) for each in HOSTS), ("h1", "h2")])
    announced = tuple(said(f"10.0.1.{random.randrange(100, 110)}") for _ in range(random.randrange(3)))
    pairs = tuple(drafts.AddressPair(f"10.9.{each}.0/24") for each in range(random.choice((0, 0, 17))))
    return port(
        f"{owner}/p{number}", random.choice(("prod/web", "prod/web", "prod/db")), host=at, destination=to,
        announced_addresses=tuple({each.address: each for each in announced}.values()),
        allowed_address_pairs=COVERS + pairs,
    )  # fmt: skip


def heard(random: Random, catalog: Catalog) -> list[drafts.Draft]:
    """Guests of both tenants have said something, all at once."""
    said_ = []
    for each in random.choices(list(catalog.ports.values()), k=6) if catalog.ports else ():
        mac = random.choice((each.mac, Mac(VIRTUAL_MAC)))
        address = AnnouncedAddress(Ip(f"10.0.1.{random.randrange(100, 110)}"), mac)
        said_.append(Announcement(each.host or Name("hosts/h1"), each.name, address))
    return list(catalog.hear(said_).puts)


def plain(catalog: Catalog) -> Counter[Key]:
    """The same once more, from nothing but the objects."""
    found: Counter[Key] = Counter()
    members = set()
    for subnet_ in catalog.virtual_subnets.values():
        tenant = tenant_of(subnet_.name)
        found[Share.SUBNETS, tenant, None] += 1
        found[Share.ROUTES, tenant, None] += len(subnet_.prefixes)
    for name in catalog.customer_routes:
        found[Share.ROUTES, tenant_of(name), None] += 1
    for each in catalog.ports.values():
        tenant = tenant_of(each.name)
        found[Share.RECORDS, tenant, None] += len(each.addresses) + len(each.announced_addresses)
        found[Share.MACS, tenant, None] += len({each.mac, *(of.mac for of in each.announced_addresses)})
        for host_ in each.hosts:
            members.add((tenant, each.virtual_subnet, host_))
            found[Share.SUBPORTS, tenant, host_] += each.trunk is not None
            sources = len(each.addresses) + len(each.allowed_address_pairs)
            found[Share.SOURCES, tenant, host_] += max(sources - SOURCES_OF_PORT, 0)
    for tenant, _, _ in members:
        found[Share.MEMBERS, tenant, None] += 1
    return +found


def held(catalog: Catalog, host_: str) -> dict[tuple[Share, Name], int]:
    """What a host gets, by tenant: of a table, or of its own ports."""
    compiler = Compiler(catalog)
    rows: list[Row] = [row for scope in compiler.scopes_of(host_) for row in compiler.rows(scope).values()]
    owners = {each.vsid: tenant_of(each.name) for each in catalog.virtual_subnets.values()}
    tables = {Subnet: Share.SUBNETS, Route: Share.ROUTES, Record: Share.RECORDS, MacRecord: Share.MACS}
    found: Counter[tuple[Share, Name]] = Counter()
    for row in rows:
        if isinstance(row, Subnet | Route | Record | MacRecord):
            found[tables[type(row)], owners[row.vsid]] += 1
        elif isinstance(row, Member):
            found[Share.MEMBERS, owners[row.vsid]] += 1
        elif isinstance(row, Port):
            found[Share.SUBPORTS, owners[row.vsid]] += row.parent is not None
            found[Share.SOURCES, owners[row.vsid]] += max(len(row.cas) + len(row.pairs) - SOURCES_OF_PORT, 0)
    return found


def had(before: Counter[Key], key: Key) -> int:
    """There; of what is counted on hosts, on whichever: what was let be on one may go to another."""
    share, tenant, host_ = key
    hosts: tuple[Name | None, ...] = (None,) if host_ is None else tuple(Name(f"hosts/{each}") for each in HOSTS)
    return max(before[share, tenant, each] for each in hosts)


def most(catalog: Catalog, key: Key) -> int:
    return catalog.tenants[key[1]].limits.of(key[0])


@examples(60)
@given(seed=st.integers(0, 2**32))
def test_no_tenant_comes_to_have_more_than_it_may(seed: int) -> None:
    random = Random(seed)  # noqa: S311 -- no secret: made-up ports
    catalog = two_tenants(ABLE)
    for _ in range(30):
        before, was = plain(catalog), everything(catalog)
        if hears := random.random() < 0.2:
            puts, deletes = heard(random, catalog), []
        else:
            puts, deletes = change(random, catalog)
        try:
            changes = catalog.apply(puts, deletes)
        except Rejected:
            assert not hears, "what is heeded is refused by no limit"
            assert everything(catalog) == was
            continue
        if random.random() < 0.1:
            catalog.revert(changes)
            assert everything(catalog) == was
        after = plain(catalog)
        assert after == catalog._ix.tally._counts
        assert all(after[key] <= max(had(before, key), most(catalog, key)) for key in after)
        for host_ in HOSTS:
            for (share, tenant), count in held(catalog, f"hosts/{host_}").items():
                on = Name(f"hosts/{host_}") if share in (Share.SUBPORTS, Share.SOURCES) else None
                assert count <= after[share, tenant, on]
    assert everything(catalog) == everything(reloaded(catalog))


def test_a_tenant_that_says_nothing_of_limits_has_the_usual_ones() -> None:
    catalog = two_tenants(ABLE)
    catalog.apply([network("192.0.2.0/24"), host("h1")])
    assert all(tenant.limits == Limits() for tenant in catalog.tenants.values())

"""Sub-ports: where they are, what is refused, and what their host is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from strategies.intents import port, two_tenants, without
from weft.compiler.compiler import Compiler
from weft.compiler.full import compile_all
from weft.kit.errors import Conflict, Rejected
from weft.model import drafts
from weft.model.announcements import Announcement
from weft.model.catalog import Catalog
from weft.model.features import Feature
from weft.model.names import Name
from weft.model.objects import AnnouncedAddress, Trunk
from weft.model.values import Ip
from weft.policy import rows
from weft.wire.objects import decode_spec, encode_spec, load

A, SUB, B = (Name(f"tenants/blue/ports/{name}") for name in ("a", "sub", "b"))
WEB, DB = "prod/web", "prod/db"


def sub(name: str = "blue/sub", subnet: str = DB, parent: str = "a", vlan: int = 100, **more: object) -> drafts.Port:
    return replace(port(name, subnet), trunk=drafts.Trunk(parent, vlan), **more)


@pytest.fixture
def catalog() -> Catalog:
    made = two_tenants()
    made.apply([port("blue/a", WEB, host="h1"), sub()])
    return made


def test_a_sub_port_is_on_its_parents_host_in_a_subnet_of_its_own(catalog: Catalog) -> None:
    made = catalog.ports[SUB]
    assert made.trunk == Trunk(A, 100)
    assert made.host == "hosts/h1"
    assert made.virtual_subnet != catalog.ports[A].virtual_subnet
    row = compile_all(catalog)[0]["host:hosts/h1"]["ports", SUB]
    assert isinstance(row, rows.Port)
    assert (row.parent, row.vlan, row.mac) == (A, 100, made.mac)


def test_a_sub_port_goes_where_its_parent_goes_and_hosts_hear_of_it(catalog: Catalog) -> None:
    compiler = Compiler(catalog)
    for draft in (
        port("blue/a", WEB, host="h1", destination="h2"),
        port("blue/a", WEB, host="h2"),
        port("blue/a", WEB),
        port("blue/a", WEB, host="h1"),
    ):
        changes = catalog.apply([draft])
        assert {change.name for change in changes} == {A, SUB}
        parent, made = catalog.ports[A], catalog.ports[SUB]
        assert (made.host, made.destination, made.trunk) == (parent.host, parent.destination, Trunk(A, 100))
        compiler.apply(changes)
        scopes, _ = compile_all(catalog)
        for scope in ("host:hosts/h1", "host:hosts/h2"):
            assert dict(compiler.rows(scope)) == scopes[scope]
    before = (catalog.ports[A], catalog.ports[SUB])
    catalog.revert(catalog.apply([port("blue/a", WEB, host="h2")]))
    assert (catalog.ports[A], catalog.ports[SUB]) == before


def test_parent_and_sub_port_come_and_go_in_one_request_in_any_order() -> None:
    catalog = two_tenants()
    catalog.apply([sub(), port("blue/a", WEB, host="h1")])
    assert catalog.ports[SUB].host == "hosts/h1"
    catalog.apply([port("blue/b", WEB, host="h2"), sub(parent="b")], [A])
    assert catalog.ports[SUB].host == "hosts/h2"
    catalog.apply([], [B, SUB])
    assert not catalog.ports


def test_what_is_read_can_be_put_back(catalog: Catalog) -> None:
    raw = encode_spec(catalog.ports[SUB])
    assert load(SUB, raw) == catalog.ports[SUB]
    assert catalog.apply([decode_spec(SUB, raw)]) == ()


@pytest.mark.parametrize(
    ("puts", "field", "saying"),
    [
        ([sub(vlan=0)], "trunk.vlan", "in 1..4094"),
        ([sub(vlan=4095)], "trunk.vlan", "outside 1..4094"),
        ([sub(parent="nobody")], "trunk.parent", "does not exist"),
        ([sub(parent="tenants/red/ports/a")], "trunk.parent", "another tenant's"),
        ([sub(parent="sub", name="blue/b")], "trunk.parent", "is a sub-port itself"),
        ([sub(parent="b", name="blue/b")], "trunk.parent", "is a sub-port itself"),
        ([sub(name="blue/b")], "trunk.vlan", "VLAN 100 of tenants/blue/ports/a is tenants/blue/ports/sub's"),
        ([sub(host="h2")], "host", "goes where its parent goes, and tenants/blue/ports/a is on h"),
        ([sub(destination="h2")], "destination", "is not: leave it out"),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(
    catalog: Catalog, puts: list[drafts.Port], field: str, saying: str
) -> None:
    catalog.apply([port("red/a", "prod/web")])
    with pytest.raises(Rejected, match=saying) as refused:
        catalog.apply(puts)
    assert refused.value.field == f"puts[0].spec.{field}"


def test_a_parent_stays_one_and_stays_while_it_has_sub_ports(catalog: Catalog) -> None:
    with pytest.raises(Conflict, match=f"{A} cannot go: {SUB} refers to it"):
        catalog.apply([], [A])
    catalog.apply([port("blue/b", WEB)])
    with pytest.raises(Conflict, match=f"is the parent of {SUB}"):
        catalog.apply([replace(port("blue/a", WEB, host="h1"), trunk=drafts.Trunk("b", 5))])


def test_two_in_one_request_cannot_have_one_vlan_and_two_may_swap() -> None:
    catalog = two_tenants()
    with pytest.raises(Conflict, match=f"VLAN 7 of {A} is {SUB}'s"):
        catalog.apply([port("blue/a", WEB), sub(vlan=7), sub("blue/b", vlan=7)])
    catalog.apply([port("blue/a", WEB), sub(vlan=7), sub("blue/b", vlan=8)])
    catalog.apply([sub(vlan=8), sub("blue/b", vlan=7)])
    assert [catalog.ports[name].trunk for name in (SUB, B)] == [Trunk(A, 8), Trunk(A, 7)]


def test_what_a_sub_ports_guest_announces_changes_nothing_else_of_it(catalog: Catalog) -> None:
    pairs = (drafts.AddressPair("10.0.2.0/24"),)
    catalog.apply([sub(allowed_address_pairs=pairs)])
    before = catalog.ports[SUB]
    said = AnnouncedAddress(Ip("10.0.2.99"), before.mac)
    heard = catalog.hear([Announcement(Name("hosts/h1"), SUB, said)])
    assert not heard.ignored
    catalog.apply(heard.puts)
    assert catalog.ports[SUB] == replace(before, announced_addresses=(said,))


@pytest.mark.parametrize(("field", "value"), [("sampling_rate", 9), ("mirror", drafts.Mirror(address="192.0.2.99"))])
def test_samples_and_mirrors_are_the_parents(catalog: Catalog, field: str, value: object) -> None:
    with pytest.raises(Rejected, match="an interface's: say it of the parent") as refused:
        catalog.apply([sub(**{field: value})])
    assert refused.value.field == f"puts[0].spec.{field}"


def test_a_host_that_cannot_gets_no_sub_port() -> None:
    catalog = two_tenants(without(Feature.TRUNK))
    with pytest.raises(Conflict, match="data plane ebpf, which lacks trunk") as refused:
        catalog.apply([port("blue/a", WEB, host="h1"), sub()])
    assert refused.value.field == "puts[1].spec.trunk"
    catalog.apply([port("blue/a", WEB), sub()])
    with pytest.raises(Conflict, match="lacks trunk"):
        catalog.apply([port("blue/a", WEB, host="h1")])

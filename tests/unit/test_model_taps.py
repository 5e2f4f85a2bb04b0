"""Sampling of hosts and mirrors of ports: what is chosen, what is refused, and what a host is told."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from strategies.intents import host, port, two_tenants, without
from weft.compiler.full import compile_all
from weft.kit.errors import Conflict, Rejected
from weft.model import drafts
from weft.model.catalog import Catalog
from weft.model.drafts import Draft
from weft.model.features import ABILITIES, AbilityTable, Feature, MirrorProtocol, SamplingProtocol
from weft.model.names import Kind, Name
from weft.model.objects import Mirror, Sampling
from weft.model.values import Ip
from weft.policy import rows
from weft.wire.objects import decode_spec, encode_spec, load

A, B = Name("tenants/blue/ports/a"), Name("tenants/blue/ports/b")
H1 = Name("hosts/h1")
ABLE: AbilityTable = {
    kind: replace(able, features=able.features | {Feature.SAMPLING, Feature.MIRRORING})
    for kind, able in ABILITIES.items()
}


@pytest.fixture
def catalog() -> Catalog:
    catalog = two_tenants(ABLE)
    catalog.apply([port("blue/b", "prod/web", host="h1")])
    return catalog


def sampled(*given: object) -> drafts.Host:
    return host("h1", sampling=drafts.Sampling(*given))


def mirrored(**given: object) -> drafts.Port:
    return port("blue/a", "prod/web", host="h1", mirror=drafts.Mirror(**given))


def test_what_is_left_out_is_chosen(catalog: Catalog) -> None:
    catalog.apply([sampled(100, "192.0.2.250"), mirrored(port="b")])
    assert catalog.hosts[H1].sampling == Sampling(100, Ip("192.0.2.250"), 6343, SamplingProtocol.SFLOW, 128)
    assert catalog.ports[A].mirror == Mirror(B, None, MirrorProtocol.ERSPAN, 1, from_guest=True, to_guest=True)
    catalog.apply([sampled(1, "2001:db8::1", None, "ipfix", 64)])
    assert catalog.hosts[H1].sampling == Sampling(1, Ip("2001:db8::1"), 4739, SamplingProtocol.IPFIX, 64)


def test_what_is_left_out_is_none(catalog: Catalog) -> None:
    catalog.apply([sampled(100, "192.0.2.250"), replace(mirrored(address="192.0.2.9"), sampling_rate=0)])
    catalog.apply([host("h1"), port("blue/a", "prod/web", host="h1")])
    assert catalog.hosts[H1].sampling is None
    assert (catalog.ports[A].sampling_rate, catalog.ports[A].mirror) == (None, None)


def test_a_host_is_told_of_both(catalog: Catalog) -> None:
    catalog.apply([sampled(100, "192.0.2.250"), replace(mirrored(address="192.0.2.9", session=7), sampling_rate=5)])
    scope = compile_all(catalog)[0]["host:hosts/h1"]
    told, row = scope["hosts", H1], scope["ports", A]
    assert isinstance(told, rows.Host)
    assert isinstance(row, rows.Port)
    assert told.sampling == catalog.hosts[H1].sampling
    assert (row.sampling_rate, row.mirror) == (5, catalog.ports[A].mirror)


@pytest.mark.parametrize(
    ("given", "field", "saying"),
    [
        (sampled(0, "192.0.2.1"), "sampling.rate", "one in 0 is outside 1..16777216"),
        (sampled(1, "host"), "sampling.collector", "'host' is not an IP address"),
        (sampled(1, "224.0.0.1"), "sampling.collector", "multicast"),
        (sampled(1, "192.0.2.1", 0), "sampling.port", "0 is no UDP port"),
        (sampled(1, "192.0.2.1", 1, "netflow"), "sampling.protocol", "'sflow' and 'ipfix' are"),
        (sampled(1, "192.0.2.1", 1, "sflow", 13), "sampling.header_bytes", "13 bytes of a frame are outside 14..256"),
        (port("blue/a", "prod/web", sampling_rate=-1), "sampling_rate", "one in -1 is outside 0..16777216; 0 is none"),
        (mirrored(), "mirror.port", "exactly one of port and address"),
        (mirrored(port="b", address="192.0.2.9"), "mirror.port", "exactly one of port and address"),
        (mirrored(port="a"), "mirror.port", "cannot be its own mirror"),
        (mirrored(port="tenants/red/ports/a"), "mirror.port", "another tenant's"),
        (mirrored(port="B"), "mirror.port", "'B' does not name a port"),
        (mirrored(port="nowhere"), "mirror.port", "tenants/blue/ports/nowhere does not exist; a mirror goes to a port"),
        (mirrored(address="127.0.0.1"), "mirror.address", "loopback"),
        (mirrored(address="192.0.2.9", protocol="gre4"), "mirror.protocol", "'gre' and 'erspan' are"),
        (mirrored(address="192.0.2.9", session=1024), "mirror.session", "session 1024 is outside 0..1023"),
        (mirrored(address="192.0.2.9", directions="out"), "mirror.directions", "'out' is none of 'both', 'from_guest'"),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(catalog: Catalog, given: Draft, field: str, saying: str) -> None:
    with pytest.raises(Rejected, match=saying) as refused:
        catalog.apply([given])
    assert refused.value.field == f"puts[0].spec.{field}"


def test_a_mirror_and_the_port_that_it_is_to_come_and_go_in_any_order(catalog: Catalog) -> None:
    watcher = Name("tenants/blue/ports/watcher")
    catalog.apply([mirrored(port="watcher"), port("blue/watcher", "prod/web", host="h1")])
    with pytest.raises(Conflict, match=r"blue/ports/watcher cannot go: tenants/blue/ports/a refers to it"):
        catalog.apply([], [watcher])
    went = catalog.apply([mirrored(address="192.0.2.9")], [watcher])
    with pytest.raises(Rejected, match="watcher does not exist"):
        catalog.apply([mirrored(port="watcher")])
    catalog.revert(went)
    catalog.apply([], [watcher, A])
    assert A not in catalog.ports


def test_a_mirror_is_to_a_port_with_an_interface(catalog: Catalog) -> None:
    child = port("blue/child", "prod/db", trunk=drafts.Trunk("b", 7))
    catalog.apply([child])
    with pytest.raises(Rejected, match=r"child is a sub-port, .* its parent tenants/blue/ports/b has one") as refused:
        catalog.apply([mirrored(port="child")])
    assert refused.value.field == "puts[0].spec.mirror.port"
    catalog.apply([port("blue/c", "prod/web", host="h1"), mirrored(port="c")])
    with pytest.raises(Conflict, match=r"the mirror of tenants/blue/ports/a goes to tenants/blue/ports/c") as refused:
        catalog.apply([port("blue/c", "prod/web", trunk=drafts.Trunk("b", 8))])
    assert refused.value.field == "puts[0].spec.trunk"


def test_a_mirror_to_nothing_that_an_older_store_has_is_let_be(catalog: Catalog) -> None:
    catalog.apply([port("blue/watcher", "prod/web"), mirrored(port="watcher")])
    older = Catalog(ABLE)
    older.load(each for kind in Kind for each in catalog.objects(kind).values() if not each.name.endswith("/watcher"))
    older.apply([replace(mirrored(port="watcher"), admin_state="down")])
    older.apply([], [A])
    with pytest.raises(Rejected, match="watcher does not exist"):
        older.apply([mirrored(port="watcher")])


@pytest.mark.parametrize(
    ("feature", "given"),
    [
        (Feature.SAMPLING, sampled(1, "192.0.2.1")),
        (Feature.SAMPLING, port("blue/a", "prod/web", host="h1", sampling_rate=1)),
        (Feature.MIRRORING, mirrored(port="b")),
    ],
)
def test_a_host_that_cannot_is_not_asked_to(feature: Feature, given: Draft) -> None:
    catalog = two_tenants(without(feature))
    with pytest.raises((Rejected, Conflict), match=f"lacks {feature}"):
        catalog.apply([given])


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        (H1, {"sampling": {"rate": 10, "collector": "192.0.2.1", "protocol": "ipfix"}}),
        (A, {"sampling_rate": 0}),
        (A, {"mirror": {"port": "b", "directions": "to_guest"}}),
        (A, {"mirror": {"address": "192.0.2.9", "session": 0, "protocol": "gre"}}),
    ],
)
def test_what_is_stored_is_read_back_and_what_is_shown_may_be_put_again(
    catalog: Catalog, name: Name, spec: dict[str, object]
) -> None:
    needed: dict[str, object] = {"virtual_subnet": "prod/web"}
    if name == H1:
        needed = {"uplinks": [{"interface": "eth1", "provider_network": "fabric"}]}
    catalog.apply([decode_spec(name, msgspec.json.encode(needed | spec))])
    now = catalog.get(name)
    assert now is not None
    assert load(name, encode_spec(now)) == now
    assert catalog.apply([decode_spec(name, encode_spec(now))]) == ()

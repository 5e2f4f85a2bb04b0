from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget import examples
from strategies.intents import ABLE
from unit.controller_world import BASE, WEB, port
from weft.controller.merge import merge
from weft.kit.errors import Rejected
from weft.model import drafts, objects
from weft.model.catalog import Catalog
from weft.model.names import Kind, Name
from weft.wire.objects import SPECS, Malformed, decode_spec, encode_spec, load

PORT = Name("tenants/blue/ports/p1")

EVERYTHING: list[tuple[str, dict[str, Any]]] = [
    *BASE,
    ("provider-networks/other", {"pools": [{"prefix": "198.51.100.0/24", "first": "198.51.100.9"}], "mtu_bytes": 9000}),
    (
        "hosts/h3",
        {"uplinks": [{"interface": "eth1", "provider_network": "other", "pool": "198.51.100.0/24", "vlan": 7}]},
    ),
    port(1),
    (
        "tenants/blue/ports/p2",
        {
            "virtual_subnet": "prod/web",
            "mac": "02-00-00-00-00-0A",
            "addresses": ["10.0.1.9"],
            "allowed_address_pairs": [{"prefix": "10.0.1.0/28"}, {"prefix": "fd00:1::7", "mac": "02:00:00:00:00:0b"}],
            "admin_state": "down",
            "dhcp": {"router": False},
            "dhcp_server": True,
        },
    ),
    (
        "tenants/blue/routing-domains/prod/virtual-subnets/told",
        {
            "prefixes": ["10.8.0.0/24", "fd00:8::/64"],
            "dhcp": {
                "router": False,
                "dns_servers": ["10.0.0.53", "fd00::53"],
                "search_domains": ["Blue.example.", "example.com"],
                "ntp_servers": ["10.0.0.123"],
                "routes": [{"prefix": "10.0.0.0/8"}, {"prefix": "172.16.0.0/12", "next_hop": "10.8.0.9"}],
                "lease_s": 600,
                "ipv6_mode": "slaac",
            },
        },
    ),
    ("tenants/blue/address-groups/offices", {"prefixes": ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]}),
    ("tenants/blue/security-groups/web", {}),
    ("tenants/blue/security-groups/flat", {"stateful": False}),
    ("tenants/blue/security-groups/lasting", {"keep_connections": True}),
    ("tenants/blue/security-groups/house", {"operator": True}),
    ("tenants/blue/security-groups/web/rules/any", {"direction": "egress", "protocol": "any"}),
    (
        "tenants/blue/security-groups/web/rules/http",
        {"direction": "ingress", "protocol": "TCP", "port_min": 80, "port_max": 81, "remote_address_group": "offices"},
    ),
    (
        "tenants/blue/security-groups/web/rules/ping",
        {"direction": "ingress", "family": "ipv6", "protocol": 58, "icmp_type": 128, "icmp_code": 0, "log": True},
    ),
    ("tenants/blue/security-groups/web/rules/mail", {"direction": "egress", "protocol": "6", "port_min": 25}),
    ("tenants/blue/security-groups/web/rules/esp", {"direction": "ingress", "protocol": 50, "remote_group": "flat"}),
    ("tenants/blue/security-groups/web/rules/v6", {"direction": "ingress", "remote_prefix": "2001:db8::/32"}),
    (
        "tenants/blue/security-groups/house/rules/never",
        {"direction": "egress", "action": "deny", "priority": 7, "remote_prefix": "192.0.2.0/24"},
    ),
    (
        "tenants/blue/ports/grouped",
        {"virtual_subnet": "prod/web", "security_groups": ["web"], "operator_groups": ["house"]},
    ),
    ("tenants/blue/ports/shut", {"virtual_subnet": "prod/web", "port_security": True}),
    ("tenants/blue/routing-domains/prod/customer-routes/out", {"prefix": "0.0.0.0/0", "next_hop": "10.0.1.9"}),
    (
        "tenants/blue/routing-domains/prod/customer-routes/link",
        {"prefix": "10.9.0.0/16", "virtual_subnet": "web", "metric": 5},
    ),
]


def test_every_object_is_read_back_as_it_was_written() -> None:
    catalog = Catalog()
    catalog.apply([decode_spec(Name(name), msgspec.json.encode(spec)) for name, spec in EVERYTHING])
    for kind in Kind:
        assert catalog.objects(kind)
        for name, value in catalog.objects(kind).items():
            assert load(name, encode_spec(value)) == value
    # What is shown can be put again, and is the same.
    again = [decode_spec(name, encode_spec(value)) for kind in Kind for name, value in catalog.objects(kind).items()]
    assert catalog.apply(again) == ()


def test_a_change_of_rule_under_way_is_stored_and_shown_and_not_the_callers_to_say() -> None:
    catalog = Catalog(ABLE)
    catalog.apply([decode_spec(Name(name), msgspec.json.encode(spec)) for name, spec in BASE])
    catalog.apply([decode_spec(WEB, b'{"prefixes":["10.0.1.0/24"],"rule":"vxlan"}')])
    under_way = catalog.virtual_subnets[WEB]
    shown = encode_spec(under_way)
    assert msgspec.json.decode(shown)["rule_change"] == {"sending": "nvgre", "accepted": ["nvgre", "vxlan"]}
    assert load(WEB, shown) == under_way
    assert catalog.apply([decode_spec(WEB, shown)]) == ()
    said = {"prefixes": ["10.0.1.0/24"], "rule_change": {"sending": "geneve", "accepted": ["geneve"]}}
    assert catalog.apply([decode_spec(WEB, msgspec.json.encode(said))]) == ()


def test_drafts_objects_and_specs_have_the_same_fields() -> None:
    for draft, kind in drafts.KINDS.items():
        (of,) = (of for of, other in objects.KINDS.items() if other is kind)
        fields = set(SPECS[kind].__struct_fields__) - {"number"}  # it is given by the catalog, and only shown
        assert fields == set(draft.__dataclass_fields__) - {"name"}
        assert fields == set(of.__dataclass_fields__) - {"name", "number"}


@pytest.mark.parametrize(
    ("name", "raw", "field", "message"),
    [
        (PORT, b"{}", "spec.virtual_subnet", "needed"),
        (PORT, b'{"virtual_subnet": 1}', "spec.virtual_subnet", "1: expected a string, got a whole number"),
        (
            PORT,
            b'{"virtual_subnet": "a", "macs": ""}',
            "spec.macs",
            "a port has no such field, but mac; it has virtual_subnet",
        ),
        (PORT, b'{"virtual_subnet": "a", "addresses": "10.0.0.1"}', "spec.addresses", "expected a list, got a string"),
        (PORT, b'{"virtual_subnet": "a", "addresses": ["a", 1]}', "spec.addresses[1]", "expected a string"),
        (
            PORT,
            b'{"virtual_subnet": "a", "allowed_address_pairs": [{"prefix": "a", "m": 1}]}',
            "spec.allowed_address_pairs[0].m",
            r"spec.allowed_address_pairs\[0\] has no such field; it has prefix, mac",
        ),
        (
            PORT,
            b'{"virtual_subnet": "a", "qos": {"to_guest": {"speed": 1}}}',
            "spec.qos.to_guest.speed",
            "spec.qos.to_guest has no such field; it has rate_bits_per_s, burst_bytes, ",
        ),
        (
            PORT,
            b'{"virtual_subnet": "a", "qos": {"to_guest": {"rate_bits_per_s": "10M"}}}',
            "spec.qos.to_guest.rate_bits_per_s",
            '"10M": expected a whole number, got a string',
        ),
        (
            "hosts/h1",
            b'{"uplinks": [{"interface": "a", "provider_network": "b"}, {}]}',
            "spec.uplinks[1].interface",
            "needed",
        ),
        (
            "provider-networks/p",
            b'{"pools": [], "mtu_bytes": 1.5}',
            "spec.mtu_bytes",
            "1.5: expected a whole number, got a number",
        ),
        ("provider-networks/p", b'{"pools": [], "mtu_bytes": true}', "spec.mtu_bytes", "got true or false"),
        ("tenants/t", b"[]", "spec", "expected a mapping, got a list"),
        ("tenants/t", b'"x"', "spec", "expected a mapping, got a string"),
    ],
)
def test_a_value_of_the_wrong_type_is_reported_at_its_field(name: str, raw: bytes, field: str, message: str) -> None:
    with pytest.raises(Rejected, match=message) as refused:
        decode_spec(Name(name), raw)
    assert refused.value.field == field
    assert not isinstance(refused.value, Malformed)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"description": "\xff"}', b'{"description": "\\ud800"}', b"{}x"])
def test_what_is_no_json_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode_spec(Name("tenants/t"), raw)


@examples(100)
@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), kind=st.sampled_from(list(Kind)))
def test_garbage_is_rejected_or_read_and_nothing_else(raw: bytes, kind: Kind) -> None:
    names = {Kind.TENANT: "tenants/t", Kind.PORT: PORT, Kind.HOST: "hosts/h"}
    with contextlib.suppress(Rejected):
        decode_spec(Name(names.get(kind, "provider-networks/n")), raw)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@examples(100)
@given(target=_JSON, patch=_JSON)
def test_a_merge_patch_does_what_rfc_7396_says(target: Any, patch: Any) -> None:
    merged = merge(target, patch)
    assert merge(merged, patch) == merged
    if not isinstance(patch, dict):
        assert merged == patch
        return
    for field, value in patch.items():
        if value is None:
            assert field not in merged
        elif not isinstance(value, dict):
            assert merged[field] == value
    if isinstance(target, dict):
        assert all(merged[field] == value for field, value in target.items() if field not in patch)

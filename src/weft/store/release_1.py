"""What schema version 1 (Weft 0.1) held, and what of version 2 it cannot. Knows no store.

Version 2 is whole where version 1 was not: a subnet from before broadcast and DHCP said nothing of them, and a tenant
from before security groups had no default group. And it has what came after: new kinds and fields, of which the older
release knows nothing and would end at the first. So what version 1 holds is a closed list, here, as that release had
it; whatever is added to the model is not in it, and is refused by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from weft.model.catalog import Catalog
from weft.model.drafts import Tenant
from weft.model.names import Kind, Name, find_kind, kind_of
from weft.wire.objects import encode_spec, load

#: Of a field: anything that is no object; one of these words; or an object (or a list of such) with these fields.
Shape: TypeAlias = "Collection[str] | Mapping[str, Shape] | None"

_RULES = frozenset({"nvgre", "vxlan", "geneve", "gre", "stt", "rewrite", "vlan"})
_LIMIT = dict.fromkeys(("rate_bits_per_s", "burst_bytes", "rate_packets_per_s", "burst_packets"))

#: By the word for the kind: a kind that is renamed or added later changes nothing of what was.
_HELD: Mapping[str, Mapping[str, Shape]] = {
    "tenant": {"description": None},
    "provider-network": {"pools": {"prefix": None, "first": None, "last": None}, "mtu_bytes": None},
    "host": {
        "uplinks": dict.fromkeys(("interface", "provider_network", "pas", "pool", "vlan")),
        "data_plane": frozenset({"ebpf"}),
        "sampling": {
            "rate": None, "collector": None, "port": None, "protocol": frozenset({"sflow", "ipfix"}),
            "header_bytes": None,
        },
    },
    "routing-domain": {"rdid": None},
    "virtual-subnet": {
        **dict.fromkeys(("prefixes", "vsid", "gateways", "router_mac", "mtu_bytes", "broadcast", "snooping")),
        **dict.fromkeys(("provider_group", "flood_limit_pps", "vlan", "provider_network", "external_gateway")),
        "rule": _RULES,
        "rule_change": {"sending": _RULES, "accepted": _RULES},
        "dhcp": {
            **dict.fromkeys(("enabled", "router", "dns_servers", "search_domains", "ntp_servers", "lease_s")),
            "routes": {"prefix": None, "next_hop": None},
            "ipv6_mode": frozenset({"stateful", "stateless", "slaac", "none"}),
        },
    },
    "address-group": {"prefixes": None, "number": None},
    "security-group": {"stateful": None, "operator": None, "number": None},
    "security-group-rule": {
        **dict.fromkeys(("protocol", "port_min", "port_max", "icmp_type", "icmp_code", "remote_prefix")),
        **dict.fromkeys(("remote_group", "remote_address_group", "priority", "log", "number")),
        "direction": frozenset({"ingress", "egress"}),
        "family": frozenset({"ipv4", "ipv6"}),
        "action": frozenset({"allow", "deny"}),
    },
    "port": {
        **dict.fromkeys(("virtual_subnet", "mac", "addresses", "host", "flood_limit_pps", "dhcp_server")),
        **dict.fromkeys(("destination", "sampling_rate", "security_groups", "operator_groups", "port_security")),
        "admin_state": frozenset({"up", "down"}),
        "allowed_address_pairs": {"prefix": None, "mac": None},
        "qos": {"from_guest": _LIMIT, "to_guest": _LIMIT, "dscp": None, "outer_dscp": None},
        "dhcp": {"enabled": None, "router": None},
        "announced_addresses": {"address": None, "mac": None},
        "mirror": {
            "port": None, "address": None, "protocol": frozenset({"gre", "erspan"}), "session": None,
            "directions": frozenset({"both", "from_guest", "to_guest"}),
        },
        "rewrites": {"address": None, "pa": None},
        "trunk": {"parent": None, "vlan": None},
    },
    "customer-route": dict.fromkeys(("prefix", "next_hop", "virtual_subnet", "metric")),
}  # fmt: skip

#: What a subnet had that did not say so.
_IMPLIED: Mapping[str, Any] = {
    "broadcast": True,
    "snooping": True,
    "flood_limit_pps": 1000,
    "dhcp": {
        "enabled": True,
        "router": True,
        "dns_servers": [],
        "search_domains": [],
        "ntp_servers": [],
        "routes": [],
        "lease_s": 86400,
        "ipv6_mode": "stateful",
    },
}

_encode = msgspec.json.encode
_decode = msgspec.json.decode


@dataclass(frozen=True, slots=True)
class Unsayable:
    """What of an object the older version cannot hold. may_go: the rest of the object is as good without it."""

    name: str
    field: str
    given: str
    may_go: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.field} = {self.given}" if self.field else f"{self.name} (a {self.given})"


def forward(name: str, value: bytes) -> bytes:
    if find_kind(name) is not Kind.VIRTUAL_SUBNET:
        return value
    said = _decode(value)
    return value if _IMPLIED.keys() <= said.keys() else _encode({**_IMPLIED, **said})


def complete(values: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Tenants' default groups, where they have none: as they would be made with a tenant that is put now."""
    catalog = Catalog()
    catalog.load(load(Name(name), value) for name, value in values.items() if find_kind(name) is not None)
    tenants = [Tenant(each.name, each.description) for each in catalog.tenants.values()]
    changes = catalog.apply(sorted(tenants, key=lambda each: each.name), [])
    return {**values, **{change.name: encode_spec(change.new) for change in changes if change.new is not None}}


def back(name: str, value: bytes) -> tuple[bytes | None, tuple[Unsayable, ...]]:
    if find_kind(name) is None:  # beside intent: tokens, quotas, the audit log; they are as they were
        return value, ()
    kind = kind_of(name).value
    shape = _HELD.get(kind)
    if shape is None:
        return None, (Unsayable(name, "", kind, may_go=True),)
    lost: list[Unsayable] = []

    def note(field: str, given: Any, may_go: bool) -> None:
        lost.append(Unsayable(name, field, _encode(given).decode()[:80], may_go))

    said = _decode(value)
    if kind == "port" and said.get("rewrites"):
        # The PA at the host that a port is moving to: without the word it would be a second one where it is.
        kept = [each for each in said["rewrites"] if not each.get("destination")]
        for n, each in enumerate(said["rewrites"]):
            if each not in kept:
                note(f"spec.rewrites[{n}].destination", True, may_go=True)
        said["rewrites"] = kept
    left = _without(said, shape, "spec", note)
    return (_encode(left) if lost else value), tuple(lost)


def _without(said: Any, shape: Shape, at: str, note: Callable[[str, Any, bool], None]) -> Any:
    """What of a value is in the shape."""
    if isinstance(said, list):
        return [_without(each, shape, f"{at}[{n}]", note) for n, each in enumerate(said)]
    if shape is None or said is None:
        return said
    if isinstance(shape, Mapping) and isinstance(said, dict):
        for field in said.keys() - shape.keys():
            note(f"{at}.{field}", said[field], True)
        return {field: _without(said[field], shape[field], f"{at}.{field}", note) for field in said if field in shape}
    if said not in shape:
        note(at, said, False)
    return said

"""What of all there is a tenant is shown, and what of it a tenant may say. Pure.

Where its ports run, and what the underlay is made of, is the operator's: those fields are neither shown to tenants nor
taken from them, and stay as they are when a tenant writes the rest. A name that is not the tenant's own is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from weft.controller.authorisation import Denied, Verdict
from weft.kit.errors import Missing, Rejected
from weft.model.names import PATTERNS, Kind, Name, find_kind, kind_of, label_of, tenant_of
from weft.model.objects import Object, SecurityGroup
from weft.wire import api as wire

#: Of each kind that tenants write: what they may say. Whatever is in neither table is the operator's.
THEIRS: Mapping[Kind, frozenset[str]] = {
    Kind.ROUTING_DOMAIN: frozenset(),
    Kind.VIRTUAL_SUBNET: frozenset({
        "prefixes", "gateways", "router_mac", "mtu_bytes", "broadcast", "snooping", "dhcp",
    }),
    Kind.PORT: frozenset({
        "virtual_subnet", "mac", "addresses", "allowed_address_pairs", "admin_state", "dhcp", "dhcp_server",
        "announced_addresses", "trunk", "security_groups", "port_security",
    }),
    Kind.CUSTOMER_ROUTE: frozenset({"prefix", "next_hop", "virtual_subnet", "metric"}),
    Kind.ADDRESS_GROUP: frozenset({"prefixes"}),
    Kind.SECURITY_GROUP: frozenset({"stateful", "keep_connections"}),
    Kind.SECURITY_GROUP_RULE: frozenset({
        "direction", "family", "protocol", "port_min", "port_max", "icmp_type", "icmp_code", "remote_prefix",
        "remote_group", "remote_address_group", "log",
    }),
}  # fmt: skip

#: What is the operator's: where things are, how they travel, and what costs others something.
OPERATORS: Mapping[Kind, frozenset[str]] = {
    Kind.ROUTING_DOMAIN: frozenset({"rdid"}),
    Kind.VIRTUAL_SUBNET: frozenset(
        {
            "vsid",
            "rule",
            "rule_change",
            "provider_group",
            "flood_limit_pps",
            "vlan",
            "provider_network",
            "external_gateway",
        }
    ),
    Kind.PORT: frozenset({
        "host", "destination", "rewrites", "qos", "flood_limit_pps", "sampling_rate", "mirror", "operator_groups",
    }),
    Kind.CUSTOMER_ROUTE: frozenset(),
    Kind.ADDRESS_GROUP: frozenset({"number"}),
    Kind.SECURITY_GROUP: frozenset({"operator", "number"}),
    Kind.SECURITY_GROUP_RULE: frozenset({"action", "priority", "number"}),
}  # fmt: skip

#: The fields of theirs, on any level, that name something, and of what kind.
REFERENCES: Mapping[str, Kind] = {
    "virtual_subnet": Kind.VIRTUAL_SUBNET,
    "parent": Kind.PORT,
    "security_groups": Kind.SECURITY_GROUP,
    "remote_group": Kind.SECURITY_GROUP,
    "remote_address_group": Kind.ADDRESS_GROUP,
}

_decode = msgspec.json.decode
_encode = msgspec.json.encode


def shown_spec(kind: Kind, spec: bytes) -> bytes:
    """A spec as its tenant sees it."""
    theirs = THEIRS.get(kind)
    if theirs is None:
        return spec  # a tenant itself
    return _encode({field: value for field, value in _decode(spec).items() if field in theirs})


def shown_status(
    tenant: Name, status: wire.PortStatus | wire.HostStatus | wire.SubnetStatus | dict[str, str]
) -> wire.PortStatus | wire.HostStatus | wire.SubnetStatus | dict[str, str]:
    match status:
        case wire.PortStatus(state=state, reason=reason):
            return wire.PortStatus(state=state, reason=scrubbed(reason, tenant))
        case wire.SubnetStatus(rule_phase=phase):
            return wire.SubnetStatus(rule_phase=phase)
        case _:
            return {}


def check_filter(kind: Kind, fields: Mapping[str, str]) -> None:
    for field in fields:
        if field in OPERATORS.get(kind, ()):
            known = ", ".join(sorted(THEIRS[kind]))
            raise Rejected(f"a {kind.value} has no field {field!r} to filter by; it has {known}", field)


def check_write(tenant: Name, name: Name, field: str = "name") -> None:
    """Whether an object is one that the tenant may put or delete."""
    kind = kind_of(name)
    if not PATTERNS[kind].startswith("tenants/") or tenant_of(name) != tenant:
        raise Missing(f"there is no {name}", field)
    if kind not in THEIRS:
        raise Denied(Verdict.FORBIDDEN, f"a {kind.value} is the operator's to change", field)


def check_group(group: Object | None, name: Name, field: str = "name") -> None:
    """Whether the tenant may change a security group, or a rule of it. group: as it is, if it is."""
    if isinstance(group, SecurityGroup) and group.operator:
        raise Denied(Verdict.FORBIDDEN, f"{name} is the operator's to change", field)


def check_said(tenant: Name, name: Name, spec: Any, field: str = "spec") -> None:
    """Whether a spec, or a patch of one, says nothing but what the tenant may say."""
    if not isinstance(spec, dict):
        return  # whoever decodes it says what it should be
    kind = kind_of(name)
    for each in spec:
        if each in OPERATORS[kind]:
            raise Denied(Verdict.FORBIDDEN, f"{each} of a {kind.value} is the operator's to say", f"{field}.{each}")
    for where, text in _texts(spec, field):
        if _is_anothers(text, tenant) or _is_anothers_in_short(where, text, tenant):
            raise Rejected(f"there is no {text}", where)


def kept(name: Name, spec: Any, present: bytes | None) -> bytes:
    """What a tenant wants an object to be, with what the operator has said of it."""
    if not isinstance(spec, dict) or present is None:
        return _encode(spec)
    operators = OPERATORS[kind_of(name)]
    if spec.get("trunk") is not None:
        operators = operators - {"host", "destination"}  # a sub-port is where its parent is
    return _encode({**{field: value for field, value in _decode(present).items() if field in operators}, **spec})


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield field, value
        case dict():
            for key, inner in value.items():
                yield from _texts(inner, f"{field}.{key}")
        case list():
            for rank, inner in enumerate(value):
                yield from _texts(inner, f"{field}[{rank}]")
        case _:
            pass


def _is_anothers(text: str, tenant: Name) -> bool:
    kind = find_kind(text)
    if kind is None:
        return False
    return not PATTERNS[kind].startswith("tenants/") or tenant_of(Name(text)) != tenant


def _is_anothers_in_short(where: str, text: str, tenant: Name) -> bool:
    """``red/prod/web`` is red's: with as many labels as there are, the first is the tenant's."""
    kind = REFERENCES.get(where.rpartition(".")[2].partition("[")[0])
    labels = text.split("/")
    return kind is not None and len(labels) == PATTERNS[kind].count("/") // 2 + 1 and labels[0] != label_of(tenant)


# As in _LABEL of weft.model.names, and with what may follow it in a sentence.
_NAMES = re.compile(r"(?:tenants|hosts|provider-networks)/[a-z0-9][a-z0-9-]*(?:/[a-z0-9][a-z0-9-]*)*")


def scrubbed(text: str, tenant: Name) -> str:
    """A message without the names that the tenant must not learn."""

    def safe(found: re.Match[str]) -> str:
        name = found[0]
        if name == tenant or name.startswith(f"{tenant}/"):
            return name
        return "a host" if name.startswith("hosts/") else "something that is not yours"

    return _NAMES.sub(safe, text)

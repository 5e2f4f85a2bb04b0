"""Names of objects: paths that say their own kind. Knows of no object but by its name.

A variable segment is a DNS label (RFC 1123): 1..63 of a-z 0-9 -, with no - at an end. A UUID is one.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NewType

from weft.kit.errors import Rejected

Name = NewType("Name", str)


class Kind(StrEnum):
    """The closed set of kinds, in an order in which none refers to a later one."""

    TENANT = "tenant"
    PROVIDER_NETWORK = "provider-network"
    HOST = "host"
    ROUTING_DOMAIN = "routing-domain"
    VIRTUAL_SUBNET = "virtual-subnet"
    ADDRESS_GROUP = "address-group"
    SECURITY_GROUP = "security-group"
    SECURITY_GROUP_RULE = "security-group-rule"
    PORT = "port"
    CUSTOMER_ROUTE = "customer-route"


#: What a name of each kind looks like, as people are told it.
PATTERNS: dict[Kind, str] = {
    Kind.TENANT: "tenants/T",
    Kind.PROVIDER_NETWORK: "provider-networks/N",
    Kind.HOST: "hosts/H",
    Kind.ROUTING_DOMAIN: "tenants/T/routing-domains/D",
    Kind.VIRTUAL_SUBNET: "tenants/T/routing-domains/D/virtual-subnets/S",
    Kind.ADDRESS_GROUP: "tenants/T/address-groups/A",
    Kind.SECURITY_GROUP: "tenants/T/security-groups/G",
    Kind.SECURITY_GROUP_RULE: "tenants/T/security-groups/G/rules/R",
    Kind.PORT: "tenants/T/ports/P",
    Kind.CUSTOMER_ROUTE: "tenants/T/routing-domains/D/customer-routes/R",
}

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_label_matches = re.compile(_LABEL).fullmatch

# Every kind in one expression: a name is looked at once, and the last group to match is its kind.
_GROUPS: dict[str, Kind] = {kind.name: kind for kind in Kind}
_name_matches = re.compile(
    rf"tenants/{_LABEL}(?:"
    rf"/ports/{_LABEL}(?P<PORT>)"
    rf"|/address-groups/{_LABEL}(?P<ADDRESS_GROUP>)"
    rf"|/security-groups/{_LABEL}(?:"
    rf"/rules/{_LABEL}(?P<SECURITY_GROUP_RULE>)"
    rf"|(?P<SECURITY_GROUP>))"
    rf"|/routing-domains/{_LABEL}(?:"
    rf"/virtual-subnets/{_LABEL}(?P<VIRTUAL_SUBNET>)"
    rf"|/customer-routes/{_LABEL}(?P<CUSTOMER_ROUTE>)"
    rf"|(?P<ROUTING_DOMAIN>))"
    rf"|(?P<TENANT>))"
    rf"|hosts/{_LABEL}(?P<HOST>)"
    rf"|provider-networks/{_LABEL}(?P<PROVIDER_NETWORK>)"
).fullmatch


def find_kind(text: str) -> Kind | None:
    """The kind that a text names, or None when it is no name."""
    match = _name_matches(text)
    return _GROUPS[match.lastgroup] if match and match.lastgroup else None


def kind_of(text: str) -> Kind:
    """The kind that a name is of. Raises Rejected, saying what is wrong with it, when it is no name."""
    kind = find_kind(text)
    if kind is None:
        raise Rejected(_complaint(text), "name")
    return kind


def parse_name(text: str) -> Name:
    """A name of any kind."""
    kind_of(text)
    return Name(text)


def parse_name_of(kind: Kind, text: str) -> Name:
    """A name of one kind."""
    if find_kind(text) is not kind:
        if find_kind(text) is None:
            raise Rejected(_complaint(text, kind), "name")
        raise Rejected(f"{text!r} names a {kind_of(text).value}, not a {kind.value} such as {PATTERNS[kind]}", "name")
    return Name(text)


def parse_label(text: str) -> str:
    """One variable segment of a name."""
    if not _label_matches(text):
        raise Rejected(f"{text!r} is not a DNS label: 1 to 63 of a-z, 0-9 and -, with no - at either end", "name")
    return text


def parent(name: Name) -> Name | None:
    """Whose child an object is: a tenant's or a routing domain's; None at the top."""
    head, _, _ = name.rpartition("/")
    owner, _, _ = head.rpartition("/")
    return Name(owner) if owner else None


def tenant_of(name: Name) -> Name:
    """The tenant whose an object is. Not for hosts and provider networks, which are nobody's."""
    return Name("/".join(name.split("/", 2)[:2]))


def domain_of(name: Name) -> Name:
    """The routing domain of a virtual subnet or a customer route."""
    return Name("/".join(name.split("/", 4)[:4]))


def group_of(name: Name) -> Name:
    """The security group of a rule."""
    return Name("/".join(name.split("/", 4)[:4]))


def label_of(name: Name) -> str:
    """The last segment: what an object is called among its siblings."""
    return name.rpartition("/")[2]


def join(kind: Kind, *labels: str) -> Name:
    """The name that these labels make: ``join(Kind.PORT, "blue", "web-1")``."""
    pieces = PATTERNS[kind].split("/")
    if len(labels) != len(pieces) // 2:
        raise Rejected(f"{'/'.join(labels)!r} is not of the form {PATTERNS[kind]}", "name")
    pieces[1::2] = [parse_label(label) for label in labels]
    return Name("/".join(pieces))


def resolve(kind: Kind, reference: str, base: Name | None = None) -> Name:
    """The name that a reference means, written in full or as labels below ``base``.

    ``base`` is an object whose surroundings the reference is written in: with base tenants/blue/ports/web-1 the
    subnet "prod/web" is tenants/blue/routing-domains/prod/virtual-subnets/web; from within a routing domain "web" is
    enough. Does not say that there is such an object.
    """
    if find_kind(reference) is kind:
        return Name(reference)
    labels = reference.split("/")
    wanted = PATTERNS[kind].count("/") // 2 + 1
    surroundings = base.split("/")[1::2] if base is not None else []
    missing = wanted - len(labels)
    if 0 <= missing <= max(len(surroundings) - 1, 0) and all(map(_label_matches, labels)):
        return join(kind, *surroundings[:missing], *labels)
    short = "/".join(PATTERNS[kind].split("/")[1::2][max(0, len(surroundings) - 1) :])
    raise Rejected(f"{reference!r} does not name a {kind.value}: write {PATTERNS[kind]}, or {short}")


def _complaint(text: str, kind: Kind | None = None) -> str:
    """What is wrong with what is no name, and what would be right."""
    segments = text.split("/")
    for known in [kind] if kind else Kind:
        fixed = PATTERNS[known].split("/")
        if len(fixed) == len(segments) and fixed[::2] == segments[::2]:
            bad = next((label for label in segments[1::2] if not _label_matches(label)), "")
            return (
                f"{text!r} is not a name: {bad!r} is not a DNS label, "
                "which is 1 to 63 of a-z, 0-9 and -, with no - at either end"
            )
    return f"{text!r} is not a name such as {PATTERNS[kind] if kind else ', '.join(PATTERNS.values())}"

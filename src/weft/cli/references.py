"""How users name things: kinds by singular, plural or a short word, objects by full or short names.

Never asks the controller whether what is named exists.
"""

from __future__ import annotations

from weft.kit.errors import Rejected
from weft.model.names import PATTERNS, Kind, Name, find_kind, resolve

#: Further words for a kind, beside its singular and its plural.
_WORDS = {
    Kind.TENANT: ("t",),
    Kind.PROVIDER_NETWORK: ("pn", "network", "networks"),
    Kind.HOST: ("h",),
    Kind.ROUTING_DOMAIN: ("rd", "domain", "domains"),
    Kind.VIRTUAL_SUBNET: ("vs", "subnet", "subnets"),
    Kind.ADDRESS_GROUP: ("ag",),
    Kind.SECURITY_GROUP: ("sg", "group", "groups"),
    Kind.SECURITY_GROUP_RULE: ("sgr", "rule", "security-group-rules"),
    Kind.PORT: ("p",),
    Kind.CUSTOMER_ROUTE: ("cr", "route", "routes"),
}


def plural(kind: Kind) -> str:
    return PATTERNS[kind].split("/")[-2]


_BY_WORD = {word: kind for kind in Kind for word in (kind.value, plural(kind), *_WORDS[kind])}


def kind(word: str) -> Kind | None:
    return _BY_WORD.get(word.lower())


def full(text: str, expected: Kind | None = None) -> Name:
    """A full name from a full or a short one. Without a kind, ``a/b`` is a port and ``a/b/c`` a virtual subnet."""
    text = text.strip("/")
    if expected is not None:
        if (of := find_kind(text)) not in (None, expected):
            raise Rejected(f"{text!r} is of kind {of.value}, and here one of kind {expected.value} is wanted")
        return resolve(expected, text)
    if find_kind(text) is not None:
        return Name(text)
    match text.count("/"):
        case 1:
            return resolve(Kind.PORT, text)
        case 2:
            return resolve(Kind.VIRTUAL_SUBNET, text)
        case _:
            raise Rejected(
                f"{text!r} is no name: write all of it, such as tenants/blue, or its kind before it "
                "(weft get tenant blue), or blue/web-1 for a port, blue/prod/web for a virtual subnet"
            )


def short(name: str) -> str:
    """What full() makes the name of again, given the kind."""
    return "/".join(name.split("/")[1::2]) if find_kind(name) else name


def collection(of: Kind, tenant: str | None = None, domain: str | None = None, group: str | None = None) -> str:
    """The path to list; ``-`` for a tenant, a domain or a security group that is not narrowed down."""
    chosen = {"T": tenant or "-", "D": domain or "-", "G": group or "-"}
    return "/".join(chosen.get(segment, segment) for segment in PATTERNS[of].split("/")[:-1])

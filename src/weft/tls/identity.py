"""Who a certificate says its holder is: one URI, such as weft://hosts.weft/h1. Says nothing of what they may do.

The kind is the URI's host part, so that an X.509 name constraint (RFC 5280 4.2.1.10) can hold an issuing authority to
one kind: the one that signs hosts' certificates cannot make an administrator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from weft.kit.errors import Rejected

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9.@_-]{0,61}[a-z0-9])?")


class Role(StrEnum):
    """What certificates are made for: a closed set."""

    ADMIN = "admin"
    OPERATOR = "operator"
    CONTROLLER = "controller"
    HOST = "host"
    ETCD_SERVER = "etcd-server"
    ETCD_CLIENT = "etcd-client"

    @property
    def domain(self) -> str:
        """The host part of the URIs of its holders."""
        return f"{self.value}s.weft"

    @property
    def serves(self) -> bool:
        """Whether others connect to its holder, who needs addresses in the certificate then."""
        return self in (Role.CONTROLLER, Role.ETCD_SERVER)


_DOMAINS = {role.domain: role for role in Role}


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """One holder. label: what it is called among those of its role; a host's is its name in hosts/NAME."""

    role: Role
    label: str

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.label):
            raise Rejected(f"{self.label!r} is not a name for a certificate: 1 to 63 of a-z, 0-9 and - . @ _", "name")

    @property
    def uri(self) -> str:
        return f"weft://{self.role.domain}/{self.label}"

    @classmethod
    def of_uri(cls, uri: str) -> Self | None:
        """None: it is no identity of ours."""
        scheme, _, rest = uri.partition("://")
        domain, _, label = rest.partition("/")
        role = _DOMAINS.get(domain)
        if scheme != "weft" or role is None or not _LABEL.fullmatch(label):
            return None
        return cls(role, label)

    @classmethod
    def of_names(cls, names: object) -> Self | None:
        """Of ``subjectAltName`` as ssl.SSLSocket.getpeercert gives it. None as well when there are several."""
        if not isinstance(names, tuple):
            return None
        uris = [pair[1] for pair in names if isinstance(pair, tuple) and len(pair) == 2 and pair[0] == "URI"]
        return cls.of_uri(uris[0]) if len(uris) == 1 and isinstance(uris[0], str) else None

    def __str__(self) -> str:
        return f"{self.role.value} {self.label}"


def parse_holder(text: str) -> Identity:
    """``role/label``, as in controller/c1."""
    role, slash, label = text.partition("/")
    if not slash or role not in {each.value for each in Role}:
        roles = ", ".join(each.value for each in Role)
        raise Rejected(f"{text!r} is not a role and a name such as controller/c1; roles are {roles}", "name")
    return Identity(Role(role), label)

"""What surrounds users, quotas and joining on /v1. A secret is in the answer that gives it out, and nowhere else."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

TokenRole = Literal["admin", "operator", "tenant-admin", "tenant-reader"]

#: What a user, a token's purpose or a tenant's short name may look like.
Text = Annotated[str, msgspec.Meta(max_length=200)]


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a new token. tenant: a label, of the tenant roles; expires_s: from now."""

    user: Annotated[str, msgspec.Meta(max_length=100)]
    role: TokenRole
    tenant: str | None = None
    expires_s: Annotated[int, msgspec.Meta(ge=60, le=10 * 366 * 86_400)] = 90 * 86_400
    description: Text = ""


class Token(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token as it is listed. secret: what to show as a bearer; only in the answer to its making."""

    id: str
    user: str
    role: TokenRole
    created: str
    expires: str
    tenant: str | None = None
    description: str = ""
    secret: str = ""


class Tokens(msgspec.Struct, frozen=True):
    items: list[Token]


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many objects a tenant may have, by kind; a kind that is not said has no limit."""

    limits: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


class TenantQuota(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant may have, and has."""

    tenant: str
    limits: dict[str, int]
    used: dict[str, int]


class Quotas(msgspec.Struct, frozen=True):
    items: list[TenantQuota]


class NewJoinToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a token for one host to join by, once."""

    expires_s: Annotated[int, msgspec.Meta(ge=60, le=30 * 86_400)] = 3600


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    host: str
    expires: str


class Join(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a join: the token, and a signing request (PEM) for a key that has not left the host."""

    token: Annotated[str, msgspec.Meta(max_length=400)]
    request: Annotated[str, msgspec.Meta(max_length=8192)]


class Renewal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a renewal: a signing request (PEM) for a new key."""

    request: Annotated[str, msgspec.Meta(max_length=8192)]


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A host's certificate with its authority's behind it, and what the deployment trusts (PEM, all of them)."""

    certificate: str
    ca: str


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What the deployment trusts (PEM)."""

    ca: str


class Revocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a revocation: the holder (role/label) whose certificates until now are not good any more."""

    holder: Annotated[str, msgspec.Meta(max_length=100)]


class Audited(msgspec.Struct, frozen=True):
    """A part of the audit log, oldest first. revision: to follow it from."""

    items: list[msgspec.Raw]
    revision: int

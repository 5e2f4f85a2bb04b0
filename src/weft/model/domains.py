"""Tenants and routing domains: when they are right. Chooses RDIDs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TypeAlias

from weft.kit.errors import Conflict, Rejected
from weft.model import drafts, shares, values
from weft.model.indexes import Indexes
from weft.model.names import Name, tenant_of
from weft.model.objects import RoutingDomain, Tenant
from weft.model.puts import Put, read
from weft.model.shares import USUAL_LIMITS
from weft.model.values import Rdid

TenantPut: TypeAlias = Put[drafts.Tenant, Tenant]
DomainPut: TypeAlias = Put[drafts.RoutingDomain, RoutingDomain]


def admit_tenants(ix: Indexes, puts: Sequence[TenantPut]) -> None:
    for put in puts:
        description = put.draft.description
        if description is None:
            description = put.old.description if put.old is not None else ""
        limits = put.old.limits if put.old is not None else USUAL_LIMITS
        if put.draft.limits is not None:
            try:
                limits = read("spec.limits", shares.parse, put.draft.limits)
            except Rejected as fault:
                raise fault.at(put.field) from None
        ix.insert(Tenant(put.name, description, limits))


def admit(ix: Indexes, puts: Sequence[DomainPut]) -> None:
    """Those that say their RDID, or have one, before those that choose."""
    choosing: list[DomainPut] = []
    for put in puts:
        try:
            require_tenant(ix, put.name)
            if put.draft.rdid is not None:
                rdid = read("spec.rdid", values.parse_rdid, put.draft.rdid)
            elif put.old is not None:
                rdid = put.old.rdid
            else:
                choosing.append(put)
                continue
            if (holder := ix.rdids.get(rdid)) is not None:
                raise Conflict(f"RDID {rdid} is taken by {holder}", "spec.rdid")
        except Rejected as fault:
            raise fault.at(put.field) from None
        ix.insert(RoutingDomain(put.name, rdid))
    for put in choosing:
        ix.insert(RoutingDomain(put.name, _choose(ix, put.name)))


def require_tenant(ix: Indexes, name: Name) -> None:
    """The tenant that a name lies below exists."""
    if (tenant := tenant_of(name)) not in ix.tenants:
        raise Rejected(f"{name} belongs to {tenant}, which does not exist", "name")


def _choose(ix: Indexes, name: Name) -> Rdid:
    for attempt in count():
        rdid = values.default_rdid(name, attempt)
        if rdid not in ix.rdids:
            return rdid
    raise AssertionError

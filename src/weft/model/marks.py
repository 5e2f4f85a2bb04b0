"""What a batch was judged against and what it changed, as words that two controllers compare. Judges nothing itself.

Two batches that were judged at the same time, by two catalogs, may both stand if neither wrote what the other was
judged by. So what a rule looks at beyond the objects of the batch must be among ``reads``, and what it may have looked
at elsewhere among ``writes``: too many words cost a second judgement, too few would let a thing be given twice.

- All that is a tenant's is judged within the tenant: routing domains, groups, ports, mirrors, trunks.
- VSIDs, RDIDs, PAs and numbers of groups and rules are everybody's: each value is a word of its own.
- A host, and what is placed on it; a provider network, and what is in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from weft.model.catalog import Catalog, Change
from weft.model.features import Rule
from weft.model.names import tenant_of
from weft.model.objects import (
    KINDS,
    AddressGroup,
    CustomerRoute,
    Host,
    Object,
    Port,
    ProviderNetwork,
    RoutingDomain,
    SecurityGroup,
    SecurityGroupRule,
    Tenant,
    VirtualSubnet,
)

# All PAs together: a provider network that changes its pools looks at every one.
_PAS = "pas"
_NETWORKS = "provider-networks"


@dataclass(slots=True)
class Marks:
    """reads: what must not have been written meanwhile. writes: what was, beside the objects themselves."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)

    def both(self, *words: str) -> None:
        self.reads.update(words)
        self.writes.update(words)


def marks_of(changes: Iterable[Change], catalog: Catalog) -> Marks:
    """Of changes that the catalog has just taken."""
    marks = Marks()
    for change in changes:
        for value in (change.old, change.new):
            if value is not None:
                _mark(marks, value, catalog)
    for host in catalog.filled:
        marks.both(f"room:{host}")  # what all tenants' rules share of it
    return marks


def _mark(marks: Marks, value: Object, catalog: Catalog) -> None:
    match value:
        case Port():
            marks.both(tenant_of(value.name))
            for host in value.hosts:
                marks.reads.add(host)
                marks.writes.add(_on(host))
            for each in value.rewrites:
                marks.both(f"pa:{each.pa}")
                marks.reads.add(_NETWORKS)
                marks.writes.add(_PAS)
        case VirtualSubnet():
            marks.both(tenant_of(value.name), f"vsid:{value.vsid}")
            if Rule.GRE in (value.rule, *value.accepted_rules):
                marks.both(f"vsid:{value.vsid >> 8}")  # NVGRE's key is its VSID, and a FlowID behind it
        case RoutingDomain():
            marks.both(tenant_of(value.name), f"rdid:{value.rdid}")
        case CustomerRoute():
            marks.both(tenant_of(value.name))
        case AddressGroup() | SecurityGroup() | SecurityGroupRule():
            marks.both(tenant_of(value.name), f"{KINDS[type(value)]}:{value.number}")
        case Tenant():
            marks.both(value.name)
        case Host():
            # Its ports are judged by what it can do and where it is, and it by them.
            marks.reads.add(_on(value.name))
            marks.both(*{tenant_of(port) for port in catalog.ports_on(value.name)})
            for uplink in value.uplinks:
                marks.reads.add(uplink.provider_network)
                marks.writes.add(_in(uplink.provider_network))
            for pa in value.pas:
                marks.both(f"pa:{pa}")
                marks.writes.add(_PAS)
        case ProviderNetwork():
            marks.both(_NETWORKS)
            marks.reads.update((_in(value.name), _PAS))
        case _:
            assert_never(value)


def _on(host: str) -> str:
    return f"on:{host}"


def _in(network: str) -> str:
    return f"in:{network}"

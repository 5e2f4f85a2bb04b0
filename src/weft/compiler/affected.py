"""Which objects' rows may follow from some changes. Names what may, and leaves it to others whether it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from weft.model.catalog import Catalog, Change
from weft.model.names import Name, domain_of, group_of
from weft.model.objects import (
    AddressGroup,
    CustomerRoute,
    Host,
    Port,
    ProviderNetwork,
    RoutingDomain,
    SecurityGroup,
    SecurityGroupRule,
    Tenant,
    VirtualSubnet,
)
from weft.model.values import Prefix

T = TypeVar("T")


@dataclass(slots=True)
class Affected:
    """Each once, in an order that does not depend on hashes."""

    hosts: dict[Name, None] = field(default_factory=dict)
    subnets: dict[Name, None] = field(default_factory=dict)
    ports: dict[Name, None] = field(default_factory=dict)
    security_groups: dict[Name, dict[Name, None]] = field(default_factory=dict)  # and their rules that changed
    address_groups: dict[Name, None] = field(default_factory=dict)
    prefixes: dict[Name, dict[Prefix, None]] = field(default_factory=dict)  # by domain
    routed_anew: dict[Name, None] = field(default_factory=dict)  # domains of which every route may change


def affected_by(catalog: Catalog, changes: Sequence[Change]) -> Affected:
    """What rests on the changed objects now. What did before and does no longer has changed itself."""
    found = Affected()
    for change in changes:
        match change.old, change.new:
            case (Port(), _) | (_, Port()):
                found.ports[change.name] = None
            case (SecurityGroup(), _) | (_, SecurityGroup()):
                found.security_groups.setdefault(change.name, {})
            case (SecurityGroupRule(), _) | (_, SecurityGroupRule()):
                found.security_groups.setdefault(group_of(change.name), {})[change.name] = None
            case (AddressGroup(), _) | (_, AddressGroup()):
                found.address_groups[change.name] = None
            case VirtualSubnet() as old, VirtualSubnet() as new:
                found.subnets[change.name] = None
                if (old.vsid, old.prefixes, old.external_gateway) != (new.vsid, new.prefixes, new.external_gateway):
                    found.routed_anew[domain_of(change.name)] = None
                before = (old.vsid, old.sending_rule, old.flood_limit_pps)
                if before != (new.vsid, new.sending_rule, new.flood_limit_pps):
                    _add(found.ports, catalog.ports_in(change.name))
            case VirtualSubnet(), _:
                found.subnets[change.name] = None
                found.routed_anew[domain_of(change.name)] = None
            case _, VirtualSubnet() as new:
                found.subnets[change.name] = None
                _add(found.prefixes.setdefault(domain_of(change.name), {}), new.prefixes)
            case (CustomerRoute(), _) | (_, CustomerRoute()):
                prefixes = found.prefixes.setdefault(domain_of(change.name), {})
                for route in (change.old, change.new):
                    if isinstance(route, CustomerRoute):
                        prefixes[route.prefix] = None
            case Host() as old, Host() as new:
                found.hosts[change.name] = None
                if old.first_pa != new.first_pa:
                    _add(found.ports, catalog.ports_on(change.name))
            case (Host(), _) | (_, Host()):
                found.hosts[change.name] = None
            case (ProviderNetwork(), _) | (_, ProviderNetwork()):
                _add(found.hosts, catalog.hosts_on(change.name))
            case RoutingDomain(), _:
                found.routed_anew[change.name] = None
                for subnet in catalog.subnets_of(change.name):
                    found.subnets[subnet] = None
                    _add(found.ports, catalog.ports_in(subnet))
            case (_, RoutingDomain()) | (Tenant(), _) | (_, Tenant()) | (None, None):
                pass
            case _ as never:
                assert_never(never)
    return found


def _add(to: dict[T, None], names: Iterable[T]) -> None:
    to.update(dict.fromkeys(names))

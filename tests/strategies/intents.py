"""Short ways to say what tenants and operators want, and to look at a catalog as a whole."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

from weft.model import drafts
from weft.model.allocation import LowestFree
from weft.model.catalog import Catalog
from weft.model.features import ABILITIES, AbilityTable, Feature
from weft.model.names import Kind


def tenant(name: str) -> drafts.Tenant:
    return drafts.Tenant(f"tenants/{name}")


def network(*pools: str, name: str = "fabric", mtu_bytes: int | None = None) -> drafts.ProviderNetwork:
    return drafts.ProviderNetwork(f"provider-networks/{name}", tuple(map(drafts.Pool, pools)), mtu_bytes)


def host(name: str, *pas: str, **more: Any) -> drafts.Host:
    """With the PAs given, or with one drawn."""
    return drafts.Host(f"hosts/{name}", (drafts.Uplink("eth1", "fabric", pas or None),), **more)


def domain(path: str, rdid: str | None = None) -> drafts.RoutingDomain:
    owner, label = path.split("/")
    return drafts.RoutingDomain(f"tenants/{owner}/routing-domains/{label}", rdid)


def subnet(path: str, *prefixes: str, **more: Any) -> drafts.VirtualSubnet:
    owner, routing_domain, label = path.split("/")
    name = f"tenants/{owner}/routing-domains/{routing_domain}/virtual-subnets/{label}"
    return drafts.VirtualSubnet(name, prefixes, **more)


def port(path: str, virtual_subnet: str, **more: Any) -> drafts.Port:
    owner, label = path.split("/")
    return drafts.Port(f"tenants/{owner}/ports/{label}", virtual_subnet, **more)


#: VRRP's for IPv4 and virtual router 51 (RFC 9568 section 7.3).
VIRTUAL_MAC = "00:00:5e:00:01:33"


def said(address: str, mac: str = VIRTUAL_MAC) -> drafts.AnnouncedAddress:
    return drafts.AnnouncedAddress(address, mac)


def route(path: str, prefix: str, **more: Any) -> drafts.CustomerRoute:
    owner, routing_domain, label = path.split("/")
    name = f"tenants/{owner}/routing-domains/{routing_domain}/customer-routes/{label}"
    return drafts.CustomerRoute(name, prefix, **more)


#: What data planes could do if each of them could do everything.
ABLE: AbilityTable = {kind: replace(able, features=frozenset(Feature)) for kind, able in ABILITIES.items()}


def without(feature: Feature) -> AbilityTable:
    """What data planes could do if none of them could do this."""
    return {kind: replace(able, features=able.features - {feature}) for kind, able in ABLE.items()}


def two_tenants(abilities: AbilityTable = ABILITIES) -> Catalog:
    """Blue and red with the same addresses, three hosts, and nobody there yet."""
    catalog = Catalog(abilities)
    catalog.apply(
        [
            network("192.0.2.0/24"),
            *(host(f"h{n}") for n in (1, 2, 3)),
            *(tenant(owner) for owner in ("blue", "red")),
            *(domain(f"{owner}/prod") for owner in ("blue", "red")),
            *(subnet(f"{owner}/prod/web", "10.0.1.0/24", "fd00:1::/64") for owner in ("blue", "red")),
            *(subnet(f"{owner}/prod/db", "10.0.2.0/24") for owner in ("blue", "red")),
        ]
    )
    return catalog


def reloaded(catalog: Catalog) -> Catalog:
    """Another catalog of the same objects, which has lived through nothing."""
    fresh = Catalog(catalog._abilities)
    fresh.load(thing for kind in Kind for thing in catalog.objects(kind).values())
    return fresh


def everything(catalog: Catalog) -> dict[str, Any]:
    """All that a catalog has and knows, as plain data; not the hints by which it finds free addresses fast."""
    catalog._room.catch_up()
    catalog._ix.settle()
    known = {name: _plain(value) for name, value in (vars(catalog._ix) | vars(catalog._room)).items()}
    for hint in ("_pools", "_journal", "_claimed", "_ix", "_takes", "filled"):
        del known[hint]
    known["names"] = {kind: list(catalog.names(kind)) for kind in Kind}
    return known


def _plain(value: Any) -> Any:
    if _is_constant(value):
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, LowestFree):
        return None
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    slots = getattr(type(value), "__slots__", ())
    if slots and not isinstance(value, str | int):
        return {slot: _plain(getattr(value, slot)) for slot in slots}
    return value


def _is_constant(value: Any) -> bool:
    """Whether it can never be anything else, and is equal only to what holds the same: it need not be taken apart."""
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    if not _is_frozen(type(value)):
        return value is None or isinstance(value, str | int | bytes)
    try:
        return _holds_constants(value)
    except TypeError:  # of what has no hash
        return False


@cache
def _holds_constants(value: Any) -> bool:
    return all(_is_constant(getattr(value, field.name)) for field in fields(value))


@cache
def _is_frozen(kind: type) -> bool:
    if not is_dataclass(kind) or kind.__eq__ is object.__eq__:
        return False
    return kind.__dataclass_params__.frozen and all(field.compare for field in fields(kind))

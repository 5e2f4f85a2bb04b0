"""Customer routes: when they are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from weft.kit.errors import Conflict, Rejected
from weft.model import drafts, values
from weft.model.indexes import DomainIndex, Indexes
from weft.model.names import Kind, Name, domain_of, resolve
from weft.model.objects import CustomerRoute
from weft.model.puts import Put, read
from weft.model.values import Ip, Prefix, ip_version

METRIC = 100

RoutePut: TypeAlias = Put[drafts.CustomerRoute, CustomerRoute]


def admit(ix: Indexes, puts: Sequence[RoutePut]) -> None:
    for put in puts:
        try:
            ix.insert(_route(ix, put))
        except Rejected as fault:
            raise fault.at(put.field) from None


def _route(ix: Indexes, put: RoutePut) -> CustomerRoute:
    draft = put.draft
    if (domain := domain_of(put.name)) not in ix.routing_domains:
        raise Rejected(f"{put.name} belongs to {domain}, which does not exist", "name")
    prefix = read("spec.prefix", values.parse_prefix, draft.prefix)
    metric = draft.metric if draft.metric is not None else put.old.metric if put.old is not None else METRIC
    read("spec.metric", values.parse_metric, metric)
    match draft.next_hop, draft.virtual_subnet:
        case str() as given, None:
            return CustomerRoute(put.name, prefix, _next_hop(ix, domain, prefix, given), None, metric)
        case None, str() as given:
            return CustomerRoute(put.name, prefix, None, _on_link(ix, domain, put.name, given), metric)
        case _:
            both = "neither is" if draft.next_hop is None else "both are"
            raise Rejected(f"a route has a next_hop or (on-link) a virtual_subnet; {both} given", "spec.next_hop")


def _next_hop(ix: Indexes, domain: Name, prefix: Prefix, given: str) -> Ip:
    next_hop = read("spec.next_hop", values.parse_ip, given)
    if ip_version(next_hop) != ip_version(prefix):
        raise Rejected(f"next hop {next_hop} is not of the IP version of {prefix}", "spec.next_hop")
    if (why := why_not_via(ix.domains[domain], next_hop)) is not None:
        raise Rejected(why, "spec.next_hop")
    return next_hop


def _on_link(ix: Indexes, domain: Name, route: Name, given: str) -> Name:
    subnet = read("spec.virtual_subnet", lambda text: resolve(Kind.VIRTUAL_SUBNET, text, route), given)
    if domain_of(subnet) != domain:
        raise Rejected(f"{subnet} is not in {domain}, whose route this is", "spec.virtual_subnet")
    if subnet not in ix.virtual_subnets:
        raise Rejected(f"{subnet} does not exist", "spec.virtual_subnet")
    return subnet


def why_not_via(domain: DomainIndex, next_hop: Ip) -> str | None:
    """Why nothing can be handed to this next hop, or None when it can."""
    subnet = domain.subnet_at(next_hop)
    if subnet is None:
        return f"next hop {next_hop} is outside every subnet of the routing domain"
    if domain.cas.get(next_hop) == subnet:
        return f"next hop {next_hop} is the gateway of {subnet}, which is where the packet comes from"
    return None


def check_of(ix: Indexes, domain: Name) -> None:
    """The routes of a domain whose subnets have changed still lead somewhere."""
    index = ix.domains[domain]
    for name in index.routes:
        next_hop = ix.customer_routes[name].next_hop
        if next_hop is not None and (why := why_not_via(index, next_hop)) is not None:
            raise Conflict(f"{name} would lead nowhere: {why}")

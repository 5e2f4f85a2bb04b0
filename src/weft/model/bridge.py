"""Virtual subnets that are bridged to a VLAN of the physical network: what they say, and who has which VLAN there.

A VLAN of a provider network is one subnet's, and none that hosts have PAs in: whoever is in it hears all of it.
"""

from __future__ import annotations

from dataclasses import replace

from weft.kit.errors import Conflict, Rejected
from weft.model import drafts
from weft.model.features import Rule
from weft.model.indexes import Indexes
from weft.model.names import Kind, Name, resolve
from weft.model.objects import Host, VirtualSubnet
from weft.model.puts import read
from weft.model.values import parse_vlan


def said(ix: Indexes, draft: drafts.VirtualSubnet, old: VirtualSubnet | None, subnet: VirtualSubnet) -> VirtualSubnet:
    """The subnet with what the draft says of its VLAN, or with what it had."""
    vlan = draft.vlan if draft.vlan is not None else old.vlan if old is not None else 0
    read("spec.vlan", parse_vlan, vlan)
    network = old.provider_network if old is not None else None
    if draft.provider_network is not None:
        network = read("spec.provider_network", _network, draft.provider_network)
    if network is not None and network not in ix.provider_networks:
        raise Rejected(f"{network} does not exist", "spec.provider_network")
    bridged = subnet.rule is Rule.VLAN
    if draft.external_gateway and not bridged:
        raise Rejected(
            f"with rule {subnet.rule} the gateway is on every host; only with rule vlan another machine can be it",
            "spec.external_gateway",
        )
    external = (
        draft.external_gateway if draft.external_gateway is not None else old is not None and old.external_gateway
    )
    made = replace(subnet, vlan=vlan, provider_network=network, external_gateway=external and bridged)
    if Rule.VLAN in made.accepted_rules:
        if not vlan:
            raise Rejected("rule vlan needs the VLAN, 1..4094", "spec.vlan")
        if network is None:
            raise Rejected("rule vlan needs the provider network that has the VLAN", "spec.provider_network")
    return made


def check(ix: Indexes, subnet: VirtualSubnet) -> None:
    """Its VLAN is nobody else's."""
    segment = subnet.segment
    if segment is None:
        return
    network, vlan = segment
    if (holder := ix.segments.get(segment)) is not None:
        raise Conflict(f"VLAN {vlan} of {network} is {holder}'s", "spec.vlan")
    for name in sorted(ix.hosts_on[network]):
        for uplink in ix.hosts[name].uplinks:
            if (uplink.provider_network, uplink.vlan) == segment:
                raise Conflict(
                    f"{name} has its PAs on {uplink.interface} in VLAN {vlan} of {network}: guests are not to be in it",
                    "spec.vlan",
                )


def check_uplinks(ix: Indexes, host: Host) -> None:
    """No subnet is in the VLAN of a host's PAs."""
    for rank, uplink in enumerate(host.uplinks):
        if uplink.vlan and (holder := ix.segments.get((uplink.provider_network, uplink.vlan))) is not None:
            raise Conflict(
                f"VLAN {uplink.vlan} of {uplink.provider_network} is {holder}'s: PAs are not to be in it",
                f"spec.uplinks[{rank}].vlan",
            )


def why_not_on(host: Host, subnet: VirtualSubnet) -> str | None:
    """Why the subnet's VLAN does not reach a host; None: it does, or there is none."""
    if subnet.segment is None or any(uplink.provider_network == subnet.provider_network for uplink in host.uplinks):
        return None
    return f"{host.name} has no uplink on {subnet.provider_network}, where {subnet.name} is VLAN {subnet.vlan}"


def _network(reference: str) -> Name:
    return resolve(Kind.PROVIDER_NETWORK, reference)

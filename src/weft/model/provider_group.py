"""Groups of the underlay, by which a subnet's broadcast and multicast go to all hosts at once: who can have one.

Several subnets may have the same group: what tells their packets apart is the VSID, as ever.
"""

from __future__ import annotations

from weft.kit.errors import Rejected
from weft.model import drafts
from weft.model.features import AbilityTable, Feature, Rule
from weft.model.objects import Host, VirtualSubnet
from weft.model.puts import read
from weft.model.values import Ip, ip_version, parse_provider_group

#: By which nothing can be sent to a group: what looks like TCP has one receiver; a VLAN carries floods by itself.
_WITHOUT = (Rule.STT, Rule.VLAN)


def said(draft: drafts.VirtualSubnet, old: VirtualSubnet | None) -> Ip | None:
    """The group that the draft asks for, or that the subnet had."""
    if draft.provider_group is None:
        return old.provider_group if old is not None else None
    if not draft.provider_group:
        return None
    return read("spec.provider_group", parse_provider_group, draft.provider_group)


def check(subnet: VirtualSubnet) -> None:
    """None of the rules that it travels by lacks one."""
    if subnet.provider_group is None:
        return
    for rule in subnet.carried_rules:
        if rule in _WITHOUT:
            raise Rejected(
                f"nothing goes to a group of the underlay, such as {subnet.provider_group}, by rule {rule}: "
                f"give another rule first, or no group",
                "spec.provider_group",
            )


def why_not_on(host: Host, subnet: VirtualSubnet, abilities: AbilityTable) -> str | None:
    """Why a host can have no part in the subnet's group; None: it can, or there is no group."""
    group = subnet.provider_group
    if group is None or host.first_pa is None:
        return None
    if Feature.PROVIDER_GROUP not in abilities[host.data_plane].features:
        return f"{host.name} has data plane {host.data_plane}, which lacks {Feature.PROVIDER_GROUP}"
    if ip_version(host.first_pa) != ip_version(group):
        return f"{host.name} has {host.first_pa} for its first PA, and {subnet.name} the group {group}"
    return None

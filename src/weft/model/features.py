"""What data planes can do, and what tenants' wishes need of them. Says nothing of how it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias


class Feature(StrEnum):
    """What a data plane may or may not be able to do."""

    NVGRE = "nvgre"
    VXLAN = "vxlan"
    GENEVE = "geneve"
    GRE = "gre"
    STT = "stt"
    REWRITE = "rewrite"
    VLAN = "vlan"
    UNDERLAY_IPV4 = "underlay-ipv4"
    UNDERLAY_IPV6 = "underlay-ipv6"
    QOS = "qos"
    SAMPLING = "sampling"
    MIRRORING = "mirroring"
    TRUNK = "trunk"
    PROVIDER_GROUP = "provider-group"
    SECURITY_GROUPS = "security-groups"


class Rule(StrEnum):
    """How a record's packets travel."""

    NVGRE = "nvgre"  # RFC 7637
    VXLAN = "vxlan"  # RFC 7348
    GENEVE = "geneve"  # RFC 8926
    GRE = "gre"  # RFC 2890: the key is the VSID, for peers that do not speak NVGRE
    STT = "stt"  # draft-davie-stt-08
    REWRITE = "rewrite"  # CAs become PAs, and back; what has none travels by FALLBACK
    VLAN = "vlan"  # IEEE 802.1Q: bridged to a VLAN of the physical network; what is routed travels by FALLBACK


class Ipv6Mode(StrEnum):
    """How guests get IPv6 addresses."""

    STATEFUL = "stateful"  # DHCPv6 gives the port's own
    STATELESS = "stateless"  # the guest makes it of its MAC (RFC 4862); DHCPv6 tells the rest
    SLAAC = "slaac"  # the guest makes it of its MAC; router advertisements tell the rest
    NONE = "none"  # neither advertisements nor DHCPv6

    @property
    def by_guest(self) -> bool:
        """Whether the guest makes its own address: the prefix and the modified EUI-64 of its MAC."""
        return self in (Ipv6Mode.STATELESS, Ipv6Mode.SLAAC)


class Direction(StrEnum):
    """Which way a security group's rule looks, from the guest."""

    INGRESS = "ingress"  # to the guest
    EGRESS = "egress"  # from it


class Family(StrEnum):
    """A version of IP, as rules name it."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def version(self) -> int:
        return 4 if self is Family.IPV4 else 6


class Action(StrEnum):
    """What becomes of a packet that a security group's rule matches."""

    ALLOW = "allow"
    DENY = "deny"


class SamplingProtocol(StrEnum):
    """How samples travel to a collector."""

    SFLOW = "sflow"  # version 5
    IPFIX = "ipfix"  # RFC 7011


class MirrorProtocol(StrEnum):
    """How a copy of a frame travels to an address."""

    GRE = "gre"  # RFC 2784 with key, Transparent Ethernet Bridging
    ERSPAN = "erspan"  # type II


class DataPlaneKind(StrEnum):
    """The data planes that a host may have."""

    EBPF = "ebpf"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What hosts of one data plane can be asked for. A bound here is one that the data plane has compiled in."""

    features: frozenset[Feature]
    max_pas: int


AbilityTable: TypeAlias = Mapping[DataPlaneKind, Abilities]

#: What each kind can do today: the controller refuses the rest at the door, before a host has to.
ABILITIES: AbilityTable = MappingProxyType(
    {
        DataPlaneKind.EBPF: Abilities(
            features=frozenset(
                {
                    Feature.NVGRE,
                    Feature.VXLAN,
                    Feature.GENEVE,
                    Feature.GRE,
                    Feature.STT,
                    Feature.REWRITE,
                    Feature.UNDERLAY_IPV4,
                    Feature.UNDERLAY_IPV6,
                    Feature.QOS,
                    Feature.SAMPLING,
                    Feature.MIRRORING,
                    Feature.TRUNK,
                    Feature.VLAN,
                    Feature.SECURITY_GROUPS,
                    Feature.PROVIDER_GROUP,
                }
            ),
            max_pas=8,  # MAX_PAS in the eBPF program's maps
        ),
    }
)

#: What a rule needs of the host of a port.
RULE_NEEDS: Mapping[Rule, Feature] = MappingProxyType(
    {
        Rule.NVGRE: Feature.NVGRE,
        Rule.VXLAN: Feature.VXLAN,
        Rule.GENEVE: Feature.GENEVE,
        Rule.GRE: Feature.GRE,
        Rule.STT: Feature.STT,
        Rule.REWRITE: Feature.REWRITE,
        Rule.VLAN: Feature.VLAN,
    }
)

_ETHERNET_BYTES = 14
_IP_BYTES: Mapping[int, int] = MappingProxyType({4: 20, 6: 40})
#: Between the outer IP header and the inner frame.
_TUNNEL_BYTES: Mapping[Rule, int] = MappingProxyType(
    {
        Rule.NVGRE: 8,  # GRE with a key
        Rule.VXLAN: 8 + 8,  # UDP, VXLAN
        Rule.GENEVE: 8 + 8,  # UDP, Geneve without options
        Rule.GRE: 8,
        Rule.STT: 20 + 18,  # what looks like TCP, STT
    }
)


#: How travels what a rule alone does not carry: what cannot be rewritten, to or from an address that has no PA; and
#: what is routed into a VLAN, since the routers' MAC, which every host has, is to be seen on no physical wire.
FALLBACK = Rule.NVGRE
#: The rules that need it.
LACKING = frozenset({Rule.REWRITE, Rule.VLAN})


def overhead_bytes(rule: Rule, version: int) -> int:
    """What a rule takes from the path's MTU, over PAs of this IP version: an inner packet may be so much shorter."""
    if rule in LACKING:
        return 0
    return _IP_BYTES[version] + _TUNNEL_BYTES[rule] + _ETHERNET_BYTES


def underlay_feature(version: int) -> Feature:
    """What a PA of this IP version needs of its host."""
    return Feature.UNDERLAY_IPV4 if version == 4 else Feature.UNDERLAY_IPV6

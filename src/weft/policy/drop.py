"""Why a packet is dropped: one closed list, the same in every data plane, in the CLI, in metrics and in traces.

Standard library only, and no import from Weft: the build of the eBPF program reads this file to write its C header.
Numbers are part of the pinned maps' layout: append, never renumber.
"""

from __future__ import annotations

from enum import IntEnum


class DropReason(IntEnum):
    """Member name in lower case is the name that users see."""

    PORT_UNBOUND = 1  #: no port is bound to the interface
    PORT_DOWN = 2  #: the port's admin state is down
    TRUNCATED = 3  #: a header is cut short
    MALFORMED = 4  #: a header contradicts itself or the packet's length
    VLAN_TAG = 5  #: IEEE 802.1Q or 802.1ad tag where none may be
    ETHERTYPE = 6  #: neither ARP, IPv4 nor IPv6 (from the uplink: neither IPv4 nor IPv6)
    SPOOFED_MAC = 7  #: source MAC is not the port's own nor an allowed address pair's
    SPOOFED_CA = 8  #: source address is not the port's own nor an allowed address pair's
    NO_RECORD = 9  #: nobody has the address (and no port of the subnet has the MAC)
    NO_ROUTE = 10  #: the routing domain has no route to the destination
    TTL_EXPIRED = 11  #: hop limit would reach zero
    TOO_BIG = 12  #: larger than the path takes; Fragmentation Needed or Packet Too Big was sent if allowed
    MULTICAST = 13  #: broadcast or multicast that is not carried
    ANNOUNCEMENT = 14  #: gratuitous ARP, ARP reply, neighbour or router advertisement, redirect: a hint, consumed here
    OWN_ADDRESS = 15  #: a question about the asking port's own address (duplicate address detection): silence is right
    TO_GATEWAY = 16  #: for the gateway itself and not an echo request
    OUTER_MALFORMED = 17  #: outer IP header contradicts itself
    OUTER_FRAGMENT = 18  #: outer packet is a fragment
    FORGED_SOURCE = 19  #: outer source is not where policy places the inner source
    RESERVED_VSID = 20  #: VSID outside 4096..16777214
    UNKNOWN_VSID = 21  #: no such virtual subnet on this host
    VSID_ACL = 22  #: no port with the destination MAC has the packet's VSID here
    NO_UNDERLAY = 23  #: the kernel has no route to the destination PA, or this host no PA of that family
    ENCAP_FAILED = 24  #: the kernel refused to add or remove the outer header
    UNSUPPORTED_RULE = 25  #: the record's rule is none that this data plane carries
    HAIRPIN = 26  #: would leave by the port that it came from
    ECN = 27  #: congestion marked outside, inner transport not ECN capable (RFC 6040 section 4.2)
    NOT_POLICY = 28  #: towards a guest, but not sent there by the data plane (the host's own stack)
    UPCALL_LIMIT = 29  #: for the agent, which a guest may ask so often and no more, or which does not keep up
    RATE_LIMIT = 30  #: more than the port may send or receive: its bucket is empty
    CRITICAL_OPTION = 33  #: Geneve with options that must be understood, and are not
    RULE_NOT_ACCEPTED = 34  #: came by a rule that its subnet does not travel by

    GUEST_SERVER = 32  #: answers DHCP or advertises a router, which the port may not
    FLOOD_LIMIT = 31  #: more broadcast and multicast than the port may send
    NO_MEMBER = 35  #: broadcast or multicast that nobody here or elsewhere is to have
    REASSEMBLY = 36  #: STT in several segments, which are not joined
    LOOP = 38  #: a frame of one who is here came in from outside, or the other way round: it has gone round

    SECURITY_GROUP = 39  #: no rule of the port's security groups lets it pass
    CONNECTION_INVALID = 40  #: of no connection, or not as its connection goes on (state, sequence numbers, tags)
    CONNECTION_LIMIT = 41  #: the port, its tenant or its other end has as many connections as it may
    FRAGMENT_OVERLAP = 42  #: a fragment over another of its datagram, or with more gaps than are kept
    CONNECTION_TABLE_FULL = 43  #: the host has as many connections as it can keep beyond what is its ports' own
    UNKNOWN_FRAGMENT = 44  #: a later fragment, and the first of its datagram has not passed
    MOVING = 45  #: for a port that is moving, and of no connection as this host knows it: the other one may know better

    @property
    def label(self) -> str:
        """The name that users see."""
        return self.name.lower()

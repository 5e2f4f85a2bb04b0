"""What a data plane hands to the agent of its host: one closed list of kinds. Holds nothing of what is handed up.

Standard library only, and no import from Weft: the build of the eBPF program reads this file to write its C header.
Numbers are part of what programs and agent share: append, never renumber.
"""

from __future__ import annotations

from enum import IntEnum


class UpcallKind(IntEnum):
    """Member name in lower case is the name that users see."""

    ANNOUNCEMENT = 1  #: a guest says that it has an address, which it may use: a hint
    DHCP4 = 2  #: a DHCPv4 client's message
    DHCP6 = 3  #: a DHCPv6 client's message
    ROUTER_SOLICITATION = 4  #: RFC 4861 section 4.1
    IGMP = 5  #: a group membership message
    MLD = 6  #: a multicast listener message
    PIM = 7  #: a multicast router speaks to others: a hint, and the packet goes on

    @property
    def label(self) -> str:
        """The name that users see."""
        return self.name.lower()

"""What a guest asked, answered: the one way in. Never raises, whatever a guest has sent."""

from __future__ import annotations

from weft.addressing import dhcp4, dhcp6, router
from weft.addressing.terms import Terms
from weft.policy.upcall import UpcallKind
from weft.reference import packet
from weft.reference.packet import Ip


def answer(terms: Terms, kind: UpcallKind, frame: bytes) -> bytes | None:
    """The frame for the guest; None: silence is right. ``frame`` has passed a data plane's checks for its kind."""
    asked = packet.parse(frame)
    if not isinstance(asked, Ip):
        return None
    match kind:
        case UpcallKind.DHCP4:
            return dhcp4.answer(terms, asked)
        case UpcallKind.DHCP6:
            return dhcp6.answer(terms, asked)
        case UpcallKind.ROUTER_SOLICITATION:
            return router.answer(terms, asked)
        case _:
            return None

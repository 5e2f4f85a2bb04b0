"""Ports on their way from one host to another: datapath.md, Moving. Never says when one moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from weft.policy.rows import Rule
from weft.reference.lookups import Host, Location
from weft.reference.verdict import Copies, Drop, ToPort, ToUnderlay, ToWire


def places(host: Host, location: Location) -> tuple[Location, ...]:
    """Where packets go: to the PA, and to the second one if that is of its family and not both are this host's."""
    also = location.also
    if also is None or len(also) != len(location.pa) or host.pas.issuperset((also, location.pa)):
        return (location,)
    if location.rule is Rule.VLAN and host.pas.isdisjoint((also, location.pa)):
        return (location,)  # one VLAN leads to both
    return location, replace(location, pa=also, also=None)


def everywhere(
    delivered: Sequence[ToPort | ToUnderlay | ToWire | Drop],
) -> Copies | ToPort | ToUnderlay | ToWire | Drop:
    """What becomes of a packet with several places to go to: dropped only when it reaches none."""
    arrived = tuple(each for each in delivered if not isinstance(each, Drop))
    match arrived:
        case ():
            return delivered[0]
        case (only,):
            return only
        case _:
            return Copies.of(arrived)

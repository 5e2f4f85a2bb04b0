"""What a port may send and receive: buckets, and marks. Reads no clock: the time comes in by argument.

A bucket holds nanobits and nanopackets, so that nothing is lost by rounding, whatever the rate and however often it is
asked. A packet passes while the bucket is not empty, and may leave it in debt: so a packet of any size passes, and over
time no more than the rate does. Docs: datapath.md, Quality of service.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from weft.policy.rows import Limit, Qos

NANO = 10**9
#: A packet counts as no more than this, so that a debt has a bound.
MOST_BYTES = 1 << 24


class Direction(Enum):
    FROM_GUEST = 0
    TO_GUEST = 1


@dataclass(slots=True)
class Bucket:
    """What is left, of bits and of packets. at_ns 0: never asked, and full."""

    nanobits: int = 0
    nanopackets: int = 0
    at_ns: int = 0

    def take(self, limit: Limit, now_ns: int, frame_bytes: int) -> bool:
        """Whether a frame passes at this time; if so it is taken out."""
        fresh = self.at_ns == 0
        elapsed_ns = max(now_ns - self.at_ns, 0)
        passes = True
        if limit.rate_bits_per_s is not None:
            most = limit.burst_bytes * 8 * NANO
            self.nanobits = most if fresh else min(most, self.nanobits + elapsed_ns * limit.rate_bits_per_s)
            passes = self.nanobits > 0
        if limit.rate_packets_per_s is not None:
            most = limit.burst_packets * NANO
            self.nanopackets = most if fresh else min(most, self.nanopackets + elapsed_ns * limit.rate_packets_per_s)
            passes = passes and self.nanopackets > 0
        self.at_ns = max(self.at_ns, now_ns)
        if passes and limit.rate_bits_per_s is not None:
            self.nanobits -= min(frame_bytes, MOST_BYTES) * 8 * NANO
        if passes and limit.rate_packets_per_s is not None:
            self.nanopackets -= NANO
        return passes


def limit_of(qos: Qos, direction: Direction) -> Limit | None:
    return qos.from_guest if direction is Direction.FROM_GUEST else qos.to_guest

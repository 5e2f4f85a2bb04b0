"""What a port may send and receive, and how its packets are marked. Measures nothing: data planes do.

A rate counts the bytes of whole Ethernet frames as the guest sees them, without the outer headers of the underlay.
"""

from __future__ import annotations

from weft.kit.errors import Rejected
from weft.model import drafts
from weft.model.features import AbilityTable, Feature
from weft.model.objects import Host, Limit, Qos
from weft.model.puts import read

#: 8 kbit/s: below it one frame takes seconds. 1 Tbit/s: more than a port has, and a bucket of 64 bits has room for it.
RATE_FIRST_BITS, RATE_LAST_BITS = 8_000, 10**12
RATE_LAST_PACKETS = 10**9
BURST_FIRST_BYTES = 1514  #: an Ethernet frame of 1500 bytes: less, and nothing would ever find the bucket full
BURST_LAST_BYTES = 1 << 28
BURST_LAST_PACKETS = 1 << 20

#: What is chosen for a burst: this much of the rate. More than the 200 ms that a TCP sender waits before it tries again
#: (Linux's least retransmission time-out), so that nothing of the rate is lost while it does; and less than 5 % of 5 s.
#: Never less than ten frames.
BURST_MS = 225
BURST_FRAMES = 10

DSCP_LAST = 63
COPY = "copy"


def resolve(draft: drafts.Qos) -> Qos:
    """Every field said; bursts chosen where they are not."""
    return Qos(
        _limit("from_guest", draft.from_guest),
        _limit("to_guest", draft.to_guest),
        None if draft.dscp is None else read("dscp", _parse_dscp, draft.dscp),
        0 if draft.outer_dscp is None else read("outer_dscp", _parse_outer_dscp, draft.outer_dscp),
    )


def _limit(field: str, draft: drafts.Limit | None) -> Limit | None:
    return None if draft is None else read(field, _parse_limit, draft)


def _parse_limit(draft: drafts.Limit) -> Limit | None:
    bits, packets = draft.rate_bits_per_s, draft.rate_packets_per_s
    if bits is not None and not RATE_FIRST_BITS <= bits <= RATE_LAST_BITS:
        raise Rejected(
            f"{bits} bits/s are outside {RATE_FIRST_BITS}..{RATE_LAST_BITS}; leave the rate out for no limit, "
            "and have admin_state down for nothing at all",
            "rate_bits_per_s",
        )
    if packets is not None and not 1 <= packets <= RATE_LAST_PACKETS:
        raise Rejected(
            f"{packets} packets/s are outside 1..{RATE_LAST_PACKETS}; leave the rate out for no limit",
            "rate_packets_per_s",
        )
    burst_bytes = _burst(
        "burst_bytes", draft.burst_bytes, bits, BURST_FIRST_BYTES, BURST_LAST_BYTES, BURST_FRAMES * BURST_FIRST_BYTES, 8
    )
    burst_packets = _burst("burst_packets", draft.burst_packets, packets, 1, BURST_LAST_PACKETS, BURST_FRAMES, 1)
    if bits is None and packets is None:
        return None
    return Limit(bits, burst_bytes, packets, burst_packets)


def _burst(field: str, given: int | None, rate: int | None, first: int, last: int, least: int, per_unit: int) -> int:
    """0 where there is no rate. per_unit: of the rate's unit in the burst's."""
    if rate is None:
        if given is not None:
            raise Rejected(f"a burst of {given} without a rate that it is of", field)
        return 0
    if given is None:
        return min(max(rate * BURST_MS // (1000 * per_unit), least), last)
    if not first <= given <= last:
        why = f"; a frame of {BURST_FIRST_BYTES} bytes has to fit" if given < first and per_unit == 8 else ""
        raise Rejected(f"a burst of {given} is outside {first}..{last}{why}", field)
    return given


def _parse_dscp(value: int) -> int:
    if not 0 <= value <= DSCP_LAST:
        raise Rejected(f"DSCP {value} is outside 0..{DSCP_LAST}")
    return value


def _parse_outer_dscp(value: int | str) -> int | None:
    if isinstance(value, str):
        if value != COPY:
            raise Rejected(f"{value!r} is no outer DSCP; 0..{DSCP_LAST} and {COPY!r} are")
        return None
    return _parse_dscp(value)


def why_not_on(host: Host, qos: Qos, abilities: AbilityTable) -> str | None:
    """Why a port with this cannot run on a host, or None when it can."""
    if qos != Qos() and Feature.QOS not in abilities[host.data_plane].features:
        return f"{host.name} has data plane {host.data_plane}, which lacks {Feature.QOS}"
    return None

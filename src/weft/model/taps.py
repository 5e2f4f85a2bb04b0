"""What operators see of traffic: samples of a host's, and copies of a port's. Chooses defaults, and judges values."""

from __future__ import annotations

from collections.abc import Iterable

from weft.kit.errors import Conflict, Rejected
from weft.model import drafts, values
from weft.model.features import AbilityTable, Feature, MirrorProtocol, SamplingProtocol
from weft.model.indexes import Indexes
from weft.model.names import Kind, Name, resolve, tenant_of
from weft.model.objects import Host, Mirror, Port, Sampling
from weft.model.puts import Put, read

RATE_LAST = 1 << 24
HEADER_FIRST, HEADER_BYTES, HEADER_LAST = 14, 128, 256
#: Where collectors listen: sflow.org; IANA's number for IPFIX.
PORTS = {SamplingProtocol.SFLOW: 6343, SamplingProtocol.IPFIX: 4739}
SESSION_LAST = 1023  # ERSPAN has ten bits for it

_DIRECTIONS = {"both": (True, True), "from_guest": (True, False), "to_guest": (False, True)}


def sampling(draft: drafts.Sampling) -> Sampling:
    protocol = SamplingProtocol.SFLOW
    if draft.protocol is not None:
        protocol = read("protocol", _parse_protocol, draft.protocol)
    port = PORTS[protocol] if draft.port is None else draft.port
    if not 1 <= port <= 65_535:
        raise Rejected(f"{port} is no UDP port; 1..65535 are", "port")
    header_bytes = HEADER_BYTES if draft.header_bytes is None else draft.header_bytes
    if not HEADER_FIRST <= header_bytes <= HEADER_LAST:
        raise Rejected(f"{header_bytes} bytes of a frame are outside {HEADER_FIRST}..{HEADER_LAST}", "header_bytes")
    if not 1 <= draft.rate <= RATE_LAST:
        raise Rejected(f"one in {draft.rate} is outside 1..{RATE_LAST}; leave sampling out for none", "rate")
    return Sampling(draft.rate, read("collector", _unicast, draft.collector), port, protocol, header_bytes)


def parse_rate(value: int) -> int:
    """Of a port: 0 is none."""
    if not 0 <= value <= RATE_LAST:
        raise Rejected(f"one in {value} is outside 0..{RATE_LAST}; 0 is none")
    return value


def mirror(draft: drafts.Mirror, of: Name) -> Mirror:
    """Of a port: to one port of its own tenant, or to an address of the physical network."""
    if (draft.port is None) == (draft.address is None):
        raise Rejected("exactly one of port and address says where to", "port")
    directions = _DIRECTIONS.get("both" if draft.directions is None else draft.directions)
    if directions is None:
        known = ", ".join(map(repr, _DIRECTIONS))
        raise Rejected(f"{draft.directions!r} is none of {known}", "directions")
    session = 1 if draft.session is None else draft.session
    if not 0 <= session <= SESSION_LAST:
        raise Rejected(f"session {session} is outside 0..{SESSION_LAST}", "session")
    protocol = MirrorProtocol.ERSPAN if draft.protocol is None else read("protocol", _parse_mirror, draft.protocol)
    to = None
    if draft.port is not None:
        to = read("port", lambda text: resolve(Kind.PORT, text, of), draft.port)
        if tenant_of(to) != tenant_of(of):
            raise Rejected(f"{to} is another tenant's; {tenant_of(of)} sees its own traffic only", "port")
        if to == of:
            raise Rejected(f"{to} cannot be its own mirror", "port")
    address = None if draft.address is None else read("address", _unicast, draft.address)
    return Mirror(to, address, protocol, session, *directions)


def check_mirrors(ix: Indexes, puts: Iterable[Put[drafts.Port, Port]]) -> None:
    """A mirror that a batch gives is to a port that is there at the batch's end, at an interface of its own. What was
    there before mirrors were looked at is let be.
    """
    for put in puts:
        port, old = ix.ports[put.name], put.old
        if port.mirror is not None and (to := port.mirror.port) is not None:
            before = None if old is None or old.mirror is None else old.mirror.port
            if to != before and (why := _why_not_to(ix.ports.get(to), to)) is not None:
                raise Rejected(why, f"{put.field}.spec.mirror.port")
        if port.trunk is not None and old is not None and old.trunk is None and (of := ix.watched.get(put.name)):
            why = f"the mirror of {next(iter(of))} goes to {put.name}: as a sub-port it has no interface to copy to"
            raise Conflict(why, f"{put.field}.spec.trunk")


def _why_not_to(port: Port | None, name: Name) -> str | None:
    if port is None:
        return f"{name} does not exist; a mirror goes to a port of the same tenant that is there, or to an address"
    if port.trunk is not None:
        return f"{name} is a sub-port, with no interface of its own; its parent {port.trunk.parent} has one"
    return None


def mirror_draft(of: Mirror | None) -> drafts.Mirror | None:
    """What would make the same mirror."""
    return None if of is None else drafts.Mirror(of.port, of.address, of.protocol, of.session, directions(of))


def directions(of: Mirror) -> str:
    """As it is written."""
    return next(name for name, both in _DIRECTIONS.items() if both == (of.from_guest, of.to_guest))


def why_not_on(host: Host, rate: int | None, mirror: Mirror | None, abilities: AbilityTable) -> str | None:
    """Why a port with this cannot run on a host, or None when it can."""
    features = abilities[host.data_plane].features
    for wanted, need in ((rate, Feature.SAMPLING), (mirror, Feature.MIRRORING)):
        if wanted is not None and need not in features:
            return f"{host.name} has data plane {host.data_plane}, which lacks {need}"
    return None


def _unicast(text: str) -> values.Ip:
    address = values.parse_ip(text)
    if (why := values.why_not_unicast(values.address_network(address))) is not None:
        raise Rejected(f"nobody can be reached at {address}: {why}")
    return address


def _parse_protocol(text: str) -> SamplingProtocol:
    try:
        return SamplingProtocol(text)
    except ValueError:
        raise Rejected(f"{text!r} is no protocol of samples; 'sflow' and 'ipfix' are") from None


def _parse_mirror(text: str) -> MirrorProtocol:
    try:
        return MirrorProtocol(text)
    except ValueError:
        raise Rejected(f"{text!r} is no protocol of mirrors; 'gre' and 'erspan' are") from None

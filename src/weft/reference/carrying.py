"""Connections on their way from one host to another: as the tracker has them, and as they travel. Sends none."""

from __future__ import annotations

from collections.abc import Mapping

from weft.contracts.connections import Awaited, Carried, Half
from weft.kit.errors import Rejected
from weft.policy.connections import CARRIED_FLAGS, State
from weft.reference.conntrack import Connection, Control, Expectation, Key
from weft.reference.tcp import Pending, Tcp

_HEARD, _FINISHED, _CHALLENGED, _PENDING, _PENDING_SIDE, _REFUSED, _TOLD = 1, 4, 16, 32, 64, 128, 256
_LINE, _RELATED, _CONTROL_SIDE = 512, 2048, 4096
_TCP = 6
_MS_NS = 10**6
_NOTHING = Half(0, 0, 0, 0)


def carried(key: Key, of: Connection, now_ns: int, spoken_of: tuple[int, Expectation] | None = None) -> Carried:
    """spoken_of: a data connection that is still to come, and the port that it is of."""
    flags = (_REFUSED if of.refused else 0) | (_TOLD if of.told else 0)
    halves = (_tags(of, 0), _tags(of, 1))
    pending, scale = (0, 0, 0), (0, 0)
    control, awaited = 0, None
    if spoken_of is not None:
        port, expectation = spoken_of
        awaited = Awaited(port, expectation.opener, (now_ns - expectation.began_ns) // _MS_NS)
    if of.related is not None:
        flags |= _RELATED | (_CONTROL_SIDE if of.related.opener else 0)
        control = of.related.number
    if (tcp := of.tcp) is not None:
        flags |= sum(_LINE << side for side in (0, 1) if tcp.line[side])
        flags |= tcp.heard * _HEARD | tcp.finished * _FINISHED | (_CHALLENGED if tcp.challenged else 0)
        if tcp.pending is not None:
            flags |= _PENDING | (_PENDING_SIDE if tcp.pending.side else 0)
            pending = (tcp.pending.end, tcp.pending.window, tcp.pending.scale)
        halves = (_half(tcp, 0), _half(tcp, 1))
        scale = (tcp.scale[0], tcp.scale[1])
    return Carried(
        key.protocol, key.local, key.remote, key.local_port, key.remote_port, key.asked, of.state, of.opener, flags,
        (of.expires_ns - now_ns) // _MS_NS, (now_ns - of.began_ns) // _MS_NS, (of.packets[0], of.packets[1]),
        (of.bytes[0], of.bytes[1]), halves, of.rule, pending, of.code, scale, control, awaited,
    )  # fmt: skip


def _tags(of: Connection, side: int) -> Half:
    return _NOTHING._replace(end=of.tags[side], edge=of.waiting[side])


def _half(tcp: Tcp, side: int) -> Half:
    return Half(tcp.end[side], tcp.edge[side], tcp.window[side], tcp.acked[side])


def taken(
    port: str, of: Carried, now_ns: int, timeouts_s: Mapping[State, int], ftp_port: int
) -> tuple[Key, Connection, tuple[int, Expectation] | None]:
    """A connection, and what it has spoken of. Raises Rejected for what cannot be a connection. ftp_port: what this
    host listens to, 0: no FTP.
    """
    try:
        of = of.held(ftp_port)
        state = State(of.state)
    except ValueError as fault:
        raise Rejected(f"no connection is {of}: {fault}", "connections") from fault
    flags = of.flags & CARRIED_FLAGS
    found = Connection(
        state, int(bool(of.opener)), now_ns + max(min(of.left_ms, timeouts_s[state] * 1000), 0) * _MS_NS,
        now_ns - of.age_ms * _MS_NS, of.code, 0, of.rule, bool(flags & _REFUSED), list(of.packets), list(of.octets),
    )  # fmt: skip
    found.told = bool(flags & _TOLD)
    if flags & _RELATED:
        found.related = Control(1 if flags & _CONTROL_SIDE else 0, of.control)
    if of.protocol == _TCP:
        tcp = found.tcp = Tcp(state, found.opener)
        for side, half in enumerate(of.halves):
            tcp.end[side], tcp.edge[side], tcp.window[side], tcp.acked[side] = half
        tcp.scale = list(of.scale)
        tcp.heard, tcp.finished = flags & 3 * _HEARD, (flags // _FINISHED) & 3
        tcp.line = [bool(flags & _LINE << side) for side in (0, 1)]
        tcp.challenged = bool(flags & _CHALLENGED)
        if flags & _PENDING:
            tcp.pending = Pending(1 if flags & _PENDING_SIDE else 0, *of.pending)
    else:
        found.tags = [half.end for half in of.halves]
        found.waiting = [half.edge for half in of.halves]
    key = Key(port, of.protocol, of.local, of.remote, of.local_port, of.remote_port, of.asked)
    if of.awaited is None or of.awaited.age_ms >= timeouts_s[State.EXPECTED] * 1000:
        return key, found, None
    began_ns = now_ns - of.awaited.age_ms * _MS_NS
    expires_ns = began_ns + timeouts_s[State.EXPECTED] * 1000 * _MS_NS
    return key, found, (of.awaited.port, Expectation(key, of.awaited.opener, began_ns, expires_ns, found.rule))

"""Who talks to whom in a connection, in words. Knows no connection but by the fields that it is listed with."""

from __future__ import annotations

_WITH_PORTS = frozenset({"tcp", "udp", "dccp", "sctp", "udplite"})
_ICMP = frozenset({"icmp", "icmpv6"})
#: What FTP expects names one end's port; the other end opens from whichever it likes.
_EXPECTED = "expected"


def ends(
    *, protocol: str, state: str, begun_by: str, local: str, local_port: int, remote: str, remote_port: int
) -> tuple[str, str, str]:
    """The guest, which way it was begun, and the other. ICMP has identifier and type for ports: who asks shows them."""
    by_guest = begun_by == "guest"
    guest, other = local, remote
    if protocol in _WITH_PORTS:
        guest, other = f"{local} {_port(local_port, state)}", f"{remote} {_port(remote_port, state)}"
    elif protocol in _ICMP:
        query = f"type {remote_port} id {local_port}"
        guest, other = (f"{local} {query}", remote) if by_guest else (local, f"{remote} {query}")
    return guest, "->" if by_guest else "<-", other


def _port(number: int, state: str) -> str:
    return "any" if state == _EXPECTED and number == 0 else str(number)

"""Who asks: from the door that a connection came in by, its certificate, or the token in a request.

Never takes a bad token for none: who shows one is its holder, or nobody.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias, assert_never
from urllib.parse import urlsplit

from starlette.types import Scope

from weft.client.credentials import is_loopback
from weft.controller import authorisation
from weft.controller.authorisation import Caller, Denied, Verdict
from weft.controller.doors import PEER, Door, Peer
from weft.model.names import Kind, Name, find_kind
from weft.tls.identity import Identity, Role

#: Gives the caller that a bearer token is of; None: it is not one of the kind that this is for. Raises Denied.
Bearer: TypeAlias = Callable[[str], Awaitable[Caller | None]]

#: Whether a certificate has been called back: by its holder, and when it was made (Unix time).
Revoked: TypeAlias = Callable[[Identity, float], bool]


class Callers:
    """Finds out who asks. trusts_loopback: plain HTTP on this machine is the operator's, as a unix socket is."""

    def __init__(
        self,
        bearers: Sequence[Bearer] = (),
        *,
        trusts_loopback: bool = True,
        revoked: Revoked = lambda _identity, _begins_s: False,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._bearers = bearers
        self._trusts_loopback = trusts_loopback
        self._revoked = revoked
        self._now_s = now_s

    async def of(self, scope: Scope) -> Caller:
        """Raises Denied for what claims to be somebody and is not."""
        peer: Peer | None = scope.get(PEER)
        where = peer.address if peer else ""
        headers = _headers(scope)
        shown = headers.get(b"authorization")
        if shown is not None:
            return await self._bearer(shown, where)
        if peer is None or not _comes_from_a_program(headers, peer.door):
            return Caller(authorisation.Role.NOBODY, where=where)
        match peer.door:
            case Door.LOCAL | Door.OPEN:
                return Caller(authorisation.Role.ADMIN, f"{peer.door.value} {where}", where=where)
            case Door.LOOPBACK if self._trusts_loopback:
                return Caller(authorisation.Role.ADMIN, f"{peer.door.value} {where}", where=where)
            case Door.LOOPBACK:
                return Caller(authorisation.Role.NOBODY, where=where)
            case Door.TLS:
                return self._holder(peer)
            case _:
                assert_never(peer.door)

    async def _bearer(self, header: bytes, where: str) -> Caller:
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            for each in self._bearers:
                found = await each(token.strip())
                if found is not None:
                    return Caller(found.role, found.name, found.of, where)
        raise Denied(Verdict.UNKNOWN, "the token is none of this controller's, or no longer good", "authorization")

    def _holder(self, peer: Peer) -> Caller:
        identity = peer.identity
        if identity is None:
            return Caller(authorisation.Role.NOBODY, where=peer.address)
        if peer.ends_s <= self._now_s():  # since the handshake
            raise Denied(Verdict.UNKNOWN, f"the certificate of {identity} has expired")
        if self._revoked(identity, peer.begins_s):
            raise Denied(Verdict.UNKNOWN, f"the certificate of {identity} has been revoked")
        match identity.role:
            case Role.ADMIN:
                return Caller(authorisation.Role.ADMIN, identity.uri, where=peer.address)
            case Role.OPERATOR:
                return Caller(authorisation.Role.OPERATOR, identity.uri, where=peer.address)
            case Role.HOST if find_kind(name := f"hosts/{identity.label}") is Kind.HOST:
                return Caller(authorisation.Role.HOST, identity.uri, Name(name), peer.address)
            case Role.CONTROLLER:
                return Caller(authorisation.Role.CONTROLLER, identity.uri, where=peer.address)
            case Role.HOST | Role.ETCD_SERVER | Role.ETCD_CLIENT:
                return Caller(authorisation.Role.NOBODY, where=peer.address)
            case _:
                assert_never(identity.role)


def _headers(scope: Scope) -> Mapping[bytes, bytes]:
    wanted = (b"authorization", b"host", b"origin", b"sec-fetch-site")
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in wanted:
            if name in found:
                raise Denied(Verdict.UNKNOWN, f"{name.decode()} is given twice")
            found[name] = value
    return found


def _comes_from_a_program(headers: Mapping[bytes, bytes], door: Door) -> bool:
    """Or from a page of ours. Another's page can make a browser ask, with the certificate or the place that it has."""
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        return False
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc != host:
        return False
    if door is not Door.LOOPBACK:
        return True
    # Its own name for this machine would make a page of any site one of "ours" (DNS rebinding).
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False

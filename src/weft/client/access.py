"""Users, quotas, joining and the audit log, by a Client. Never keeps what it is told."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec

from weft.client.client import AsyncClient, Client
from weft.kit.errors import Rejected, Retry
from weft.tls.certificates import Certificate
from weft.wire import access as wire

_WAIT_S = 30.0
# Of an answer that anybody may have given.
_MOST_BYTES = 256 << 10


def whoami(client: Client) -> dict[str, Any]:
    return client.ask("GET", "/v1/whoami", dict[str, Any])


def tokens(client: Client) -> list[wire.Token]:
    return client.ask("GET", "/v1/tokens", wire.Tokens).items


def make_token(client: Client, wanted: wire.NewToken) -> wire.Token:
    return client.ask("POST", "/v1/tokens", wire.Token, wanted)


def revoke_token(client: Client, id_: str) -> None:
    client.ask("DELETE", f"/v1/tokens/{id_}", type(None))


def quotas(client: Client) -> list[wire.TenantQuota]:
    return client.ask("GET", "/v1/quotas", wire.Quotas).items


def quota(client: Client, tenant: str) -> wire.TenantQuota:
    return client.ask("GET", f"/v1/quotas/{tenant}", wire.TenantQuota)


def set_quota(client: Client, tenant: str, limits: dict[str, int]) -> wire.TenantQuota:
    return client.ask("PUT", f"/v1/quotas/{tenant}", wire.TenantQuota, wire.Quota(limits=limits))


def audited(client: Client, most: int) -> tuple[list[dict[str, Any]], int]:
    """The newest entries, oldest first, and the revision to follow them from."""
    found = client.ask("GET", "/v1/audit", wire.Audited, limit=str(most))
    return [msgspec.json.decode(each) for each in found.items], found.revision


def follow_audit(client: Client, revision: int | None = None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(revision, entries) as they come; ends with the connection. ApiError 410: what was between is gone."""
    params = {} if revision is None else {"revision": str(revision)}
    for line in client.lines("/v1/audit/follow", **params):
        found = msgspec.json.decode(line)
        yield found["revision"], found.get("entries", [])


def make_join_token(client: Client, host: str, expires_s: int) -> wire.JoinToken:
    wanted = wire.NewJoinToken(expires_s=expires_s)
    return client.ask("POST", f"/v1/hosts/{host}/join-tokens", wire.JoinToken, wanted)


def revoke(client: Client, holder: str) -> None:
    """The holder's (role/label) certificates until now are not good any more."""
    client.ask("POST", "/v1/revocations", type(None), wire.Revocation(holder=holder))


def join(client: Client, token: str, request: str) -> wire.Issued:
    return client.ask("POST", "/v1/join", wire.Issued, wire.Join(token=token, request=request))


async def renew(client: AsyncClient, host: str, request: str) -> wire.Issued:
    """host: its full name."""
    return await client.ask("POST", f"/v1/{host}/certificate", wire.Issued, wire.Renewal(request=request))


def fetch_root(url: str, fingerprint: str) -> bytes:
    """The root with this fingerprint (SHA-256), asked of a controller that nobody has reason to believe yet.

    Whatever it answers, nothing else comes back: who is in between can only be silent, or tell the truth.
    """
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        with (
            httpx2.Client(verify=unverified, timeout=_WAIT_S, trust_env=False) as http,
            http.stream("GET", f"{url.rstrip('/')}/v1/ca") as answer,
        ):
            body = b""
            for chunk in answer.iter_raw():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise Rejected(f"{url} answers too much to be a controller")
    except httpx2.HTTPError as error:
        raise Retry(f"no controller answers at {url}: {error}") from error
    try:
        trust = msgspec.json.decode(body, type=wire.Trust)
    except msgspec.DecodeError as error:
        raise Retry(f"the answer of {url} is not one of a controller that lets hosts join: {body[:200]!r}") from error
    for each in Certificate.all_of_pem(trust.ca.encode()):
        if each.fingerprint == fingerprint:
            return each.pem
    raise Rejected(f"the controller at {url} is of another deployment than the token: nothing was sent to it", "join")

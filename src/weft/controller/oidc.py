"""Users of an OpenID Connect issuer: JWTs (RFC 7519) that it has signed, for us, in time. Never asks it about a user.

Keys are the issuer's (JWKS, RFC 7517), kept and asked for again when one is unknown or they are old; while the issuer
does not answer, the ones that are known stay good for a day.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jwt
import msgspec
import structlog

from weft.controller.authorisation import Caller, Denied, Role, Verdict
from weft.kit.errors import Rejected, Retry
from weft.model.names import Name, parse_label
from weft.tls import files
from weft.wire.objects import decode_body

_log = structlog.stdlib.get_logger("weft.oidc")

# By the kind of key: a token does not choose how it is checked. Nothing symmetric: JWKS are public.
_ALGORITHMS: Mapping[str, Sequence[str]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}

_LEEWAY_S = 30
_FRESH_S = 3600.0
_STALE_S = 86_400.0
#: Between two questions: whoever makes up keys must not make us ask for each.
_AGAIN_S = 15.0
_WAIT_S = 5.0
_MOST_BYTES = 1 << 20
_MOST_TOKEN = 16 << 10
_MOST_SAID = 300


class _Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    claim: str
    value: str
    role: str
    tenant: str | None = None


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    issuer: str
    audience: str
    grants: list[_Grant]
    user: str = "sub"
    ca: str | None = None


_FILE = msgspec.json.Decoder(_Settings)


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


class _Jwks(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Grant:
    """Whoever has this value in this claim (or among its values) has this role."""

    claim: str
    value: str
    role: Role
    tenant: Name | None = None

    def is_for(self, claims: Mapping[str, Any]) -> bool:
        said = claims.get(self.claim)
        return said == self.value or (isinstance(said, list) and self.value in said)


@dataclass(frozen=True, slots=True)
class Settings:
    """Whom to believe, and what its users may do: the first grant that is for one. user: the claim of the name."""

    issuer: str
    audience: str
    grants: tuple[Grant, ...]
    user: str = "sub"
    ca: Path | None = None


def read_settings(path: Path) -> Settings:
    """A file in YAML. Raises Rejected."""
    import yaml

    try:
        given = msgspec.json.encode(yaml.safe_load(files.read(path)))
        said = decode_body(given, _FILE, _Settings, "the file")
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise Rejected(f"{path} does not say how to know users: {error}", "oidc") from error
    except Rejected as fault:
        where = f"{fault.field}: " if fault.field else ""
        raise Rejected(f"{path} does not say how to know users: {where}{fault.message}", "oidc") from fault
    if not said.issuer.startswith("https://") and not said.issuer.startswith(("http://127.0.0.1", "http://[::1]")):
        raise Rejected(f"{path}: an issuer is at https://…, not at {said.issuer}", "oidc")
    ca = None if said.ca is None else Path(said.ca)
    if ca is not None:
        try:
            ssl.create_default_context(cafile=str(ca))
        except OSError as error:
            why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
            raise Rejected(
                f"{path}: ca {ca} does not say whom the issuer's https is believed by: {why}", "oidc"
            ) from error
    if not said.grants:
        raise Rejected(
            f"{path}: grants is empty, so nobody could do anything: name a claim, a value and a role", "oidc"
        )
    grants = tuple(_grant(each, f"{path}: grants[{place}]") for place, each in enumerate(said.grants))
    return Settings(said.issuer, said.audience, grants, said.user, ca)


def _grant(said: _Grant, where: str) -> Grant:
    try:
        role = Role(said.role)
    except ValueError:
        role = Role.NOBODY
    if role in (Role.NOBODY, Role.HOST):
        known = "admin, operator, tenant-admin, tenant-reader"
        raise Rejected(f"{where}.role: {said.role!r} is no role of users: {known} are", "oidc")
    if role.is_tenants != (said.tenant is not None):
        names = (
            "names a tenant, and this one names none" if role.is_tenants else f"names no tenant, not {said.tenant!r}"
        )
        raise Rejected(f"{where}.tenant: a grant of {role.value} {names}", "oidc")
    try:
        tenant = None if said.tenant is None else Name(f"tenants/{parse_label(said.tenant)}")
    except Rejected as fault:
        raise Rejected(f"{where}.tenant: {fault.message}", "oidc") from fault
    return Grant(said.claim, said.value, role, tenant)


class Oidc:
    """One issuer's users."""

    def __init__(self, settings: Settings, now_s: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now_s = now_s
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_s = self._known_s = float("-inf")
        self._asking = asyncio.Lock()

    async def bearer(self, token: str) -> Caller | None:
        """The caller that a token is of; None: it is none of this issuer's. Raises Denied when it is, and not good."""
        if token.count(".") != 2 or len(token) > _MOST_TOKEN:
            return None
        try:
            header = jwt.get_unverified_header(token)
            unverified = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            return None
        if unverified.get("iss") != self._settings.issuer:
            return None
        kid = str(header.get("kid", ""))
        keys = await self._keys_of(kid)
        try:
            try:
                claims = self._checked(token, keys)
            except jwt.InvalidSignatureError:
                # A token that does not say by which key: it may be one that we do not know yet.
                if kid or not await self._ask(keys):
                    raise
                claims = self._checked(token, await self._keys_of(kid))
        except jwt.InvalidAudienceError as error:
            wanted, given = self._settings.audience, unverified.get("aud")
            why = f"the token is not good: it is for {given!r}, and here those for {wanted!r} are"
            raise Denied(Verdict.UNKNOWN, why[:_MOST_SAID], "authorization") from error
        except jwt.PyJWTError as error:
            raise Denied(Verdict.UNKNOWN, f"the token is not good: {error}", "authorization") from error
        return self._caller(claims)

    def _checked(self, token: str, keys: Sequence[jwt.PyJWK]) -> Mapping[str, Any]:
        if not keys:
            raise jwt.InvalidKeyError("it is signed by a key that its issuer does not have")
        claims: Mapping[str, Any] = jwt.decode(
            token,
            keys[0].key,
            algorithms=list(_ALGORITHMS[keys[0].key_type or ""]),
            audience=self._settings.audience,
            issuer=self._settings.issuer,
            options={"require": ["exp", "iss", "aud", "sub"], "verify_exp": False, "verify_nbf": False,
                     "verify_iat": False},
        )  # fmt: skip
        self._check_time(claims)
        return claims

    def _check_time(self, claims: Mapping[str, Any]) -> None:
        """As the library does, but by a clock that is given."""
        now_s = self._now_s()
        for claim in ("exp", "nbf"):
            if not isinstance(claims.get(claim, 0), int | float):
                raise jwt.DecodeError(f"{claim} is no number")
        if claims["exp"] + _LEEWAY_S <= now_s:
            raise jwt.ExpiredSignatureError("it has expired")
        if claims.get("nbf", now_s) - _LEEWAY_S > now_s:
            raise jwt.ImmatureSignatureError("it is not good yet")

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        user = str(claims.get(self._settings.user) or claims["sub"])[:200]
        for grant in self._settings.grants:
            if grant.is_for(claims):
                return Caller(grant.role, f"oidc/{user}", grant.tenant)
        asked = ", ".join(dict.fromkeys(grant.claim for grant in self._settings.grants))
        raise Denied(
            Verdict.FORBIDDEN,
            f"{user} has no role here: no grant is for what the token says in {asked}",
            "authorization",
        )

    async def _keys_of(self, kid: str) -> Sequence[jwt.PyJWK]:
        """One at most. OpenID Connect Core 10.1: where an issuer has but one, a token need not name it."""
        if not self._find(kid) or self._now_s() - self._known_s > _FRESH_S:
            await self._ask(self._find(kid))
        if self._now_s() - self._known_s > _STALE_S:
            raise Retry("the issuer of the token does not answer, and its keys are too old")
        return self._find(kid)

    def _find(self, kid: str) -> Sequence[jwt.PyJWK]:
        if not kid and len(self._keys) == 1:
            return list(self._keys.values())
        return [self._keys[kid]] if kid in self._keys else []

    async def _ask(self, found: Sequence[jwt.PyJWK]) -> bool:
        """Whether there are other keys now than those that somebody has ``found``."""
        async with self._asking:
            if self._now_s() - self._asked_s > _AGAIN_S:
                self._asked_s = self._now_s()
                try:
                    self._keys = await _fetch(self._settings)
                    self._known_s = self._now_s()
                except Retry as error:
                    _log.warning("the issuer's keys cannot be had", issuer=self._settings.issuer, reason=str(error))
            return all(key not in self._keys.values() for key in found)


async def _fetch(settings: Settings) -> dict[str, jwt.PyJWK]:
    verify: ssl.SSLContext | bool = True
    if settings.ca is not None:
        verify = ssl.create_default_context(cafile=str(settings.ca))
    try:
        async with httpx2.AsyncClient(verify=verify, timeout=_WAIT_S, trust_env=False) as http:
            where = f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = msgspec.json.decode(await _get(http, where), type=_Discovery)
            if found.issuer != settings.issuer:
                raise Retry(f"{where} is of the issuer {found.issuer}")
            jwks = msgspec.json.decode(await _get(http, found.jwks_uri), type=_Jwks)
    except (httpx2.HTTPError, httpx2.InvalidURL, msgspec.DecodeError) as error:
        raise Retry(f"{type(error).__name__}: {error}") from error
    keys: dict[str, jwt.PyJWK] = {}
    for each in jwks.keys:
        try:
            key = jwt.PyJWK.from_dict(each)
        except jwt.PyJWTError:
            continue  # of a kind that we do not know
        if key.key_type in _ALGORITHMS and each.get("use", "sig") == "sig":
            keys[key.key_id or ""] = key
    return keys


async def _get(http: httpx2.AsyncClient, url: str) -> bytes:
    async with http.stream("GET", url) as answer:
        if answer.status_code != 200:
            raise Retry(f"{url} answers {answer.status_code}")
        body = b""
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise Retry(f"{url} answers too much")
        return body

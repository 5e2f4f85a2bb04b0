"""Users' tokens, hosts' tokens to join by, quotas, and certificates that were called back: what is kept of them.

Never keeps a secret: a token has 256 bits of chance in it, so its SHA-256 tells nothing to whoever reads the store.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from weft.contracts.store import PreconditionFailed
from weft.controller.authorisation import Caller, Denied, Role, Verdict
from weft.controller.beside import Extra
from weft.controller.service import Difference, Service
from weft.kit.errors import Conflict, Missing, Rejected
from weft.model.catalog import Change
from weft.model.names import PATTERNS, Kind, Name, kind_of, label_of, parse_label, tenant_of
from weft.model.objects import Host
from weft.tls.certificates import BACKDATED
from weft.tls.identity import Identity
from weft.tls.identity import Role as HolderRole
from weft.wire import access as wire
from weft.wire.api import Action

TOKENS = "access/tokens"
JOINS = "access/joins"
QUOTAS = "access/quotas"
REVOKED = "access/revoked"

#: Kinds that a tenant's quota may be of.
COUNTED = tuple(kind for kind in Kind if PATTERNS[kind].startswith("tenants/T/"))

_JOIN = "weft-join"
_USER = "weft"
# The audit log has it.
_USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.@_+-]*")

_encode = msgspec.json.encode


class _Token(msgspec.Struct, frozen=True):
    """As it is kept."""

    user: str
    role: wire.TokenRole
    tenant: str | None
    created_s: float
    ends_s: float
    description: str
    digest: str


class _Join(msgspec.Struct, frozen=True):
    host: str
    ends_s: float
    digest: str


class _Limits(msgspec.Struct, frozen=True):
    limits: dict[str, int]


_TOKEN = msgspec.json.Decoder(_Token)
_JOIN_RECORD = msgspec.json.Decoder(_Join)
_LIMITS = msgspec.json.Decoder(_Limits)
_REVOKED_S = msgspec.json.Decoder(float)


class Access:
    """All of it, over one service."""

    def __init__(self, service: Service, now_s: Callable[[], float] = time.time) -> None:
        self._service = service
        self._beside = service.beside
        self._now_s = now_s
        service.admit = self.admit

    # -- users --

    async def bearer(self, token: str) -> Caller | None:
        """The caller that a token is of; None: it is no token of ours, or not good any more."""
        parts = token.split("_")
        if len(parts) != 3 or parts[0] != _USER:
            return None
        stored = self._beside.get(f"{TOKENS}/{parts[1]}")
        if stored is None:
            return None
        kept = _TOKEN.decode(stored.value)
        if not _is(parts[2], kept.digest) or kept.ends_s <= self._now_s():
            return None
        return Caller(Role(kept.role), f"user/{kept.user}", None if kept.tenant is None else Name(kept.tenant))

    async def make_token(self, wanted: wire.NewToken) -> wire.Token:
        if not _USER_NAME.fullmatch(wanted.user):
            raise Rejected(
                f"{wanted.user!r} is not a user's name: letters, digits and . @ _ + - make one, such as ann", "user"
            )
        tenant: Name | None = None
        if Role(wanted.role).is_tenants:
            if wanted.tenant is None:
                raise Rejected(f"a {wanted.role} is of a tenant: say which", "tenant")
            tenant = Name(f"tenants/{parse_label(wanted.tenant.removeprefix('tenants/'))}")
            self._service.get(tenant)
        elif wanted.tenant is not None:
            raise Rejected(f"an {wanted.role} is no tenant's", "tenant")
        now_s, id_, secret = self._now_s(), secrets.token_hex(8), secrets.token_hex(32)
        ends_s = now_s + wanted.expires_s
        kept = _Token(wanted.user, wanted.role, tenant, now_s, ends_s, wanted.description, _digest(secret))
        name = f"{TOKENS}/{id_}"
        shown = _listed(id_, kept)
        done = [_done(name, "create", None, _encode(shown))]
        await self._service.keep(Extra(puts={name: _encode(kept)}), {name: 0}, done)
        return msgspec.structs.replace(shown, secret=f"{_USER}_{id_}_{secret}")

    def tokens(self) -> list[wire.Token]:
        """Those that have expired are not listed any more."""
        now_s = self._now_s()
        found = ((_id(name), _TOKEN.decode(stored.value)) for name, stored in self._beside.below(TOKENS))
        return [_listed(id_, kept) for id_, kept in found if kept.ends_s > now_s]

    async def revoke_token(self, id_: str) -> None:
        name = f"{TOKENS}/{id_}"
        stored = self._beside.get(name)
        if stored is None:
            raise Missing(f"there is no token {id_}")
        # Those that have expired go with it: nothing else would ever take them away.
        gone = [name, *self._expired()]
        shown = _encode(_listed(id_, _TOKEN.decode(stored.value)))
        await self._service.keep(Extra(deletes=gone), {}, [_done(name, "delete", shown, None)])

    def _expired(self) -> list[str]:
        now_s = self._now_s()
        return [name for name, stored in self._beside.below(TOKENS) if _TOKEN.decode(stored.value).ends_s <= now_s] + [
            name for name, stored in self._beside.below(JOINS) if _JOIN_RECORD.decode(stored.value).ends_s <= now_s
        ]

    # -- hosts --

    async def make_join_token(self, host: Name, wanted: wire.NewJoinToken, fingerprint: str) -> wire.JoinToken:
        """fingerprint: of the root that the host is to believe in."""
        self._service.get(host)
        id_, secret = secrets.token_hex(8), secrets.token_hex(32)
        ends_s = self._now_s() + wanted.expires_s
        name = f"{JOINS}/{id_}"
        shown = wire.JoinToken(token="", host=host, expires=_date(ends_s))
        await self._service.keep(
            Extra(puts={name: _encode(_Join(host, ends_s, _digest(secret)))}, deletes=self._expired()),
            {name: 0},
            [_done(name, "create", None, _encode({"host": host, "expires": shown.expires}))],
        )
        return msgspec.structs.replace(shown, token=f"{_JOIN}_{id_}_{secret}_{fingerprint}")

    async def use_join_token(self, token: str) -> Name:
        """The host that it was for. Good once: whoever comes second is denied, and both at once are not let in."""
        parts = token.split("_")
        name = f"{JOINS}/{parts[1]}" if len(parts) == 4 and parts[0] == _JOIN else ""
        stored = self._beside.get(name)
        if stored is not None:
            kept = _JOIN_RECORD.decode(stored.value)
            if _is(parts[2], kept.digest) and kept.ends_s > self._now_s() and self._service.find(kept.host):
                try:
                    done = [_done(name, "delete", _encode({"host": kept.host}), None)]
                    await self._service.keep(Extra(deletes=[name]), {name: stored.revision}, done)
                except PreconditionFailed:
                    pass
                else:
                    return Name(kept.host)
        raise Denied(Verdict.UNKNOWN, "the token to join by is none of this deployment's, or used, or expired", "token")

    def admit(self, changes: Sequence[Change], extra: Extra) -> None:
        """Refuses a batch for its quotas. A host that goes takes its certificates with it, in the same commit: who has
        one is not let in when another host gets the name.
        """
        self.check_quotas(changes, extra)
        for change in changes:
            if isinstance(change.old, Host) and change.new is None:
                gone = Identity(HolderRole.HOST, label_of(change.name))
                extra.puts[_revoked(gone)] = _encode(self._now_s())

    async def revoke(self, identity: Identity) -> None:
        """Its certificates that were made until now are not good any more. A host's that is gone are not since then."""
        if identity.role is HolderRole.HOST:
            self._service.get(Name(f"hosts/{identity.label}"))
        name = _revoked(identity)
        await self._service.keep(
            Extra(puts={name: _encode(self._now_s())}), {}, [_done(name, "create", None, _encode(identity.uri))]
        )

    def is_revoked(self, identity: Identity, begins_s: float) -> bool:
        stored = self._beside.get(_revoked(identity))
        if stored is None:
            return False
        # Certificates are dated back, in whole seconds.
        return begins_s + BACKDATED.total_seconds() < int(_REVOKED_S.decode(stored.value))

    # -- quotas --

    def quota(self, tenant: Name) -> wire.TenantQuota:
        limits = self._limits(tenant)
        used = {kind.value: self._service.count_below(kind, f"{tenant}/") for kind in COUNTED}
        return wire.TenantQuota(tenant=tenant, limits=limits, used=used)

    def quotas(self) -> list[wire.TenantQuota]:
        return [self.quota(Name(f"tenants/{_id(name)}")) for name, _ in list(self._beside.below(QUOTAS))]

    async def set_quota(self, tenant: Name, wanted: wire.Quota) -> wire.TenantQuota:
        """A limit below what there is takes nothing away: it lets nothing more in."""
        self._service.get(tenant)
        known = [kind.value for kind in COUNTED]
        for kind in wanted.limits:
            if kind not in known:
                raise Rejected(f"there is no quota of {kind!r}; there is one of {', '.join(known)}", f"limits.{kind}")
        name = _quota_of(tenant)
        before = self._beside.get(name)
        after = _encode(_Limits(dict(wanted.limits)))
        done = [_done(name, "update" if before else "create", before.value if before else None, after)]
        if wanted.limits:
            await self._service.keep(Extra(puts={name: after}), {}, done)
        elif before is not None:
            await self._service.keep(Extra(deletes=[name]), {}, [_done(name, "delete", before.value, None)])
        return self.quota(tenant)

    def check_quotas(self, changes: Sequence[Change], extra: Extra) -> None:
        """Refuses a batch by which a tenant would have more of a kind than it may; with the batch, all or nothing.

        What other controllers write meanwhile cannot make it wrong: whoever changes anything of a tenant is judged
        again when another has (``weft.model.marks``), and so is whoever was judged by a quota that has changed.
        """
        for (tenant, kind), more in _grown(changes).items():
            if (name := _quota_of(tenant)) and self._beside.get(name) is not None:
                extra.reads.add(name)
                most = self._limits(tenant).get(kind.value)
                has = self._service.count_below(kind, f"{tenant}/")
                if most is not None and more > 0 and has + more > most:
                    raise Conflict(
                        f"{tenant} may have {most} of the kind {kind.value} and has {has}: no room for {more} more",
                        "quota",
                    )

    def _limits(self, tenant: Name) -> dict[str, int]:
        stored = self._beside.get(_quota_of(tenant))
        return {} if stored is None else _LIMITS.decode(stored.value).limits


def _done(name: str, action: Action, before: bytes | None, after: bytes | None) -> Difference:
    return Difference(Name(name), action, before, after)


def _grown(changes: Iterable[Change]) -> Counter[tuple[Name, Kind]]:
    grown: Counter[tuple[Name, Kind]] = Counter()
    for change in changes:
        if change.old is None or change.new is None:
            kind = kind_of(change.name)
            if kind in COUNTED:
                grown[tenant_of(change.name), kind] += 1 if change.old is None else -1
    return grown


def _quota_of(tenant: Name) -> str:
    return f"{QUOTAS}/{_id(tenant)}"


def _revoked(identity: Identity) -> str:
    return f"{REVOKED}/{identity.role.value}.{identity.label}"


def _id(name: str) -> str:
    return name.rpartition("/")[2]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _is(secret: str, digest: str) -> bool:
    return hmac.compare_digest(_digest(secret), digest)


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def _listed(id_: str, kept: _Token) -> wire.Token:
    return wire.Token(
        id=id_,
        user=kept.user,
        role=kept.role,
        created=_date(kept.created_s),
        expires=_date(kept.ends_s),
        tenant=kept.tenant,
        description=kept.description,
    )

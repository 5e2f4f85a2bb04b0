"""REST /v1 beside intent: users, quotas, joining, the audit log. Parses, calls and answers; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from weft.contracts.store import Batch
from weft.controller import audit, requests, streams
from weft.controller.access import Access
from weft.controller.api import Handlers
from weft.controller.audit import Audit
from weft.controller.kinds import RESOURCES
from weft.controller.requests import json_answer
from weft.controller.service import Service
from weft.controller.signing import Signer
from weft.kit.errors import Conflict
from weft.model.names import Kind
from weft.tls.identity import parse_holder
from weft.wire import access as wire
from weft.wire.objects import decode_body

MOST_BODY_BYTES = 64 << 10
MAX_PAGE, PAGE = 1000, 100

_NEW_TOKEN = msgspec.json.Decoder(wire.NewToken)
_QUOTA = msgspec.json.Decoder(wire.Quota)
_NEW_JOIN = msgspec.json.Decoder(wire.NewJoinToken)
_JOIN = msgspec.json.Decoder(wire.Join)
_RENEWAL = msgspec.json.Decoder(wire.Renewal)
_REVOCATION = msgspec.json.Decoder(wire.Revocation)


class AccessApi:
    """The handlers. signer None: this controller has no key to sign hosts with, and says so."""

    def __init__(
        self,
        service: Service,
        access: Access,
        log: Audit,
        stopping: asyncio.Event,
        signer: Signer | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        bookmark_s: float = 5.0,
    ) -> None:
        self._service = service
        self._access = access
        self._log = log
        self._stopping = stopping
        self._signer = signer
        self._now = now
        self._bookmark_s = bookmark_s

    def routes(self) -> Mapping[str, Handlers]:
        return {
            "/v1/tokens": {"GET": self._tokens, "POST": self._make_token},
            "/v1/tokens/{token}": {"DELETE": self._revoke_token},
            "/v1/quotas": {"GET": self._quotas},
            "/v1/quotas/{tenant}": {"GET": self._quota, "PUT": self._set_quota},
            "/v1/audit": {"GET": self._audited},
            "/v1/audit/follow": {"GET": self._follow},
            "/v1/revocations": {"POST": self._revoke},
            "/v1/ca": {"GET": self._trust},
            "/v1/join": {"POST": self._join},
            "/v1/hosts/{host}/join-tokens": {"POST": self._make_join_token},
            "/v1/hosts/{host}/certificate": {"POST": self._renew},
        }

    # -- users and quotas --

    async def _tokens(self, request: Request) -> Response:
        requests.nothing_else(requests.query(request))
        return json_answer(wire.Tokens(self._access.tokens()))

    async def _make_token(self, request: Request) -> Response:
        wanted = decode_body(await requests.body(request, MOST_BODY_BYTES), _NEW_TOKEN)
        return json_answer(await self._access.make_token(wanted), 201, {"cache-control": "no-store"})

    async def _revoke_token(self, request: Request) -> Response:
        await self._access.revoke_token(request.path_params["token"])
        return Response(status_code=204)

    async def _quotas(self, request: Request) -> Response:
        requests.nothing_else(requests.query(request))
        return json_answer(wire.Quotas(self._access.quotas()))

    async def _quota(self, request: Request) -> Response:
        tenant = RESOURCES[Kind.TENANT].name(request.path_params)
        self._service.get(tenant)
        return json_answer(self._access.quota(tenant))

    async def _set_quota(self, request: Request) -> Response:
        wanted = decode_body(await requests.body(request, MOST_BODY_BYTES), _QUOTA)
        return json_answer(await self._access.set_quota(RESOURCES[Kind.TENANT].name(request.path_params), wanted))

    # -- who did what --

    async def _audited(self, request: Request) -> Response:
        query = requests.query(request)
        most = requests.number(query.pop("limit", str(PAGE)), "limit", 1, MAX_PAGE)
        requests.nothing_else(query)
        return json_answer(wire.Audited(self._log.entries(most), self._service.revision))

    async def _follow(self, request: Request) -> Response:
        query = requests.query(request)
        now = self._service.revision
        since = requests.number(query.pop("revision", str(now)), "revision", 0)
        requests.nothing_else(query)
        chunks = streams.watch(self._service.watch(since), _entries, since, now, bookmark_s=self._bookmark_s)
        return await requests.stream(request, chunks, self._stopping)

    # -- certificates --

    async def _trust(self, _request: Request) -> Response:
        return json_answer(wire.Trust(ca=self._signs().trusted.decode()))

    async def _make_join_token(self, request: Request) -> Response:
        host = RESOURCES[Kind.HOST].name(request.path_params)
        wanted = decode_body(await requests.body(request, MOST_BODY_BYTES), _NEW_JOIN)
        made = await self._access.make_join_token(host, wanted, self._signs().fingerprint)
        return json_answer(made, 201, {"cache-control": "no-store"})

    async def _join(self, request: Request) -> Response:
        wanted = decode_body(await requests.body(request, MOST_BODY_BYTES), _JOIN)
        sign = partial(self._signs().sign, wanted.request, self._now())
        self._signs().check(wanted.request)  # before the token is spent
        host = await self._access.use_join_token(wanted.token)
        return json_answer(sign(host))

    async def _renew(self, request: Request) -> Response:
        host = RESOURCES[Kind.HOST].name(request.path_params)
        self._service.get(host)
        wanted = decode_body(await requests.body(request, MOST_BODY_BYTES), _RENEWAL)
        return json_answer(self._signs().sign(wanted.request, self._now(), host))

    async def _revoke(self, request: Request) -> Response:
        wanted = decode_body(await requests.body(request, MOST_BODY_BYTES), _REVOCATION)
        await self._access.revoke(parse_holder(wanted.holder))
        return Response(status_code=204)

    def _signs(self) -> Signer:
        if self._signer is None:
            raise Conflict(
                "this controller has no key to sign hosts with: start it with --issuer-certificate and --issuer-key"
            )
        return self._signer


def _entries(batch: Batch) -> bytes | None:
    entries = [msgspec.Raw(value) for name, value in batch.puts.items() if name.startswith(f"{audit.PLACE}/")]
    return msgspec.json.encode({"revision": batch.revision, "entries": entries}) + b"\n" if entries else None

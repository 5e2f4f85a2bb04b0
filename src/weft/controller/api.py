"""REST /v1: one table of kinds and verbs. Parses, calls the service and answers; decides nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias, TypeVar

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from weft.contracts.store import Batch, Compacted, Unsure
from weft.controller import (
    authorisation,
    cuts,
    merge,
    mirrors,
    moves,
    openapi,
    questions,
    requests,
    rules,
    streams,
    tenants,
    tracing,
)
from weft.controller.audit import CALLER
from weft.controller.authorisation import Action, Caller, Denied, Verdict
from weft.controller.beside import is_intent
from weft.controller.callers import Callers
from weft.controller.doors import PEER
from weft.controller.kinds import RESOURCES, Resource, continue_after, filter_by, read_continue
from weft.controller.limits import WAITS, Limits, Patient, TooMany, Waits
from weft.controller.metrics import Figures, Metrics
from weft.controller.service import Condition, ConditionFailed, Difference, Held, Outcome, Put, Service
from weft.feed.log import Gone
from weft.kit.errors import Conflict, Missing, Rejected, Retry
from weft.model.announcements import Announcement, Unheeded
from weft.model.names import Kind, Name, find_kind, group_of, kind_of, label_of
from weft.model.objects import AnnouncedAddress, Host, Port, VirtualSubnet
from weft.model.puts import read
from weft.model.values import parse_ip, parse_mac
from weft.wire import api as wire
from weft.wire import carried, listed, problem
from weft.wire import cuts as wire_cuts
from weft.wire.knows import FIRST, KNOWS
from weft.wire.objects import Malformed, decode_body, encode_spec

MAX_BODY_BYTES = 64 << 20
MAX_ANNOUNCEMENTS_BYTES = 1 << 20
MAX_PAGE, PAGE = 1000, 500

#: How often it is looked whether the callers of streams may still listen.
LOOK_AGAIN_S = 5.0

#: A host has so long to list a port's connections.
LIST_S = 10.0

# A controller that has nothing to tell the others says so this often.
_STILL_HERE_S = 1.0

# Bodies up to this size are decoded in the event loop: a few milliseconds.
_INLINE_BYTES = 256 << 10

_log = structlog.stdlib.get_logger("weft.api")

_T = TypeVar("_T")
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
_Status: TypeAlias = wire.PortStatus | wire.HostStatus | wire.SubnetStatus | dict[str, str]

Handlers: TypeAlias = Mapping[str, Handler]

_CALLER = "weft.caller"
_NO_HANDLERS: Mapping[str, Handlers] = {}

_APPLY = msgspec.json.Decoder(wire.ApplyRequest)
_SPEC = msgspec.json.Decoder(wire.Spec)
_STATUS = msgspec.json.Decoder(wire.StatusReport)
_ANNOUNCEMENTS = msgspec.json.Decoder(wire.Announcements)
_TRACE = msgspec.json.Decoder(wire.TraceRequest)
_LISTED = msgspec.json.Decoder(listed.Connections)
_PASSED_ON = msgspec.json.Decoder(wire.PassedOn)


class _Item(msgspec.Struct, frozen=True):
    """wire.Item as it is written: the spec is JSON already."""

    name: str
    kind: str
    revision: int
    spec: msgspec.Raw
    status: _Status


class _Page(msgspec.Struct, frozen=True, omit_defaults=True):
    items: list[_Item]
    revision: int
    next: str | None = msgspec.field(name="continue", default=None)


class _Change(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    action: wire.Action
    before: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    after: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Applied(msgspec.Struct, frozen=True):
    revision: int
    changes: list[_Change]
    cut: wire_cuts.Cuts | msgspec.UnsetType = msgspec.UNSET


class _Event(msgspec.Struct, frozen=True):
    revision: int
    puts: list[_Item]
    deletes: list[str]


class Api:
    """The handlers, around one service. stopping: set, it ends every stream, so that the server can end."""

    def __init__(
        self,
        service: Service,
        stopping: asyncio.Event,
        callers: Callers,
        more: Mapping[str, Handlers],
        figures: Figures,
        limits: Limits,
        *,
        bookmark_s: float = 5.0,
    ) -> None:
        self._service = service
        self._callers = callers
        self._more = more
        self._limits = limits
        self._stopping = stopping
        self._bookmark_s = bookmark_s
        self._metrics = Metrics(service, figures)

    def routes(self) -> list[Route]:
        return [
            *(route for resource in RESOURCES.values() for route in self._of(resource)),
            self._route("/v1/tenants/{tenant}/ports/{port}/connections", GET=self._connections),
            self._route("/v1/apply", POST=self._apply),
            self._route("/v1/watch", GET=self._watch),
            self._route("/v1/trace", POST=self._trace),
            self._route("/v1/hosts/{host}/feed", GET=self._feed),
            self._route("/v1/hosts/{host}/status", POST=self._report),
            self._route("/v1/hosts/{host}/announcements", POST=self._announce),
            self._route("/v1/hosts/{host}/answers/{question}", POST=self._answer),
            self._route("/v1/hosts/{host}/connections", GET=self._carried),
            *(self._route(path, None, **handlers) for path, handlers in self._more.items()),
            self._route("/v1/statuses", GET=self._tell),
            self._route("/v1/questions", POST=self._pass_on),
            self._route("/v1/whoami", GET=self._whoami),
            self._route("/healthz", GET=self._health),
            self._route("/metrics", GET=self._scrape),
            self._route("/openapi.json", GET=self._describe),
        ]

    def _of(self, resource: Resource) -> Iterable[Route]:
        yield self._route(f"/v1/{resource.collection}", resource, GET=partial(self._list, resource))
        yield self._route(
            f"/v1/{resource.path}",
            resource,
            GET=partial(self._get, resource),
            PUT=partial(self._put, resource),
            PATCH=partial(self._patch, resource),
            DELETE=partial(self._delete, resource),
        )

    def _route(self, path: str, resource: Resource | None = None, **verbs: Handler) -> Route:
        # A route that nobody has decided on ends here, before it is there.
        actions = {} if resource else {verb: authorisation.of_route(verb, path) for verb in verbs}

        async def endpoint(request: Request) -> Response:
            # HEAD comes with GET, by Starlette's doing.
            verb = "GET" if request.method == "HEAD" else request.method
            with self._metrics.request(request.method, path) as measured:
                answer = await _answered(admitted, verb, request)
                measured(answer.status_code)
                return answer

        async def admitted(verb: str, request: Request) -> Response:
            caller = request.scope[_CALLER] = await self._caller(request.scope)
            CALLER.set(caller)
            request.scope[requests.UNTIL] = partial(self._until_others, request.scope, caller)
            action = actions[verb] if resource is None else _action(resource, verb, path, request)
            self._limits.count(caller)
            _admit(caller, action, request, resource)
            self._limits.occupy(caller, action, request.scope)
            await self._reach(request.headers.get(wire.AT_LEAST))
            answer = await verbs[verb](request)
            answer.headers[wire.SEEN] = f"{self._service.revision}@{self._service.history}"
            return answer

        return Route(path, endpoint, methods=list(verbs))

    async def _reach(self, seen: str | None) -> None:
        """Whoever has seen more of this store than there is here is not shown less: it comes soon, or is at another."""
        if seen is None:
            return
        revision, _, history = seen.partition("@")
        if wire.store_of(history) == wire.store_of(self._service.history):
            await self._service.reach(requests.number(revision, wire.AT_LEAST, 0))

    async def _caller(self, scope: Scope) -> Caller:
        where = peer.address if (peer := scope.get(PEER)) else ""
        self._limits.check_guesses(where)
        try:
            return await self._callers.of(scope)
        except Denied as denied:
            if denied.verdict is Verdict.UNKNOWN:
                self._limits.guessed_wrong(where)
            raise

    async def _until_others(self, scope: Scope, caller: Caller) -> None:
        """Returns when who was let in would not be any more: its token is revoked, its certificate has ended."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            try:
                if await self._callers.of(scope) != caller:
                    return
            except Denied:
                return
            except Retry:
                continue  # nobody can tell just now

    async def _body(self, request: Request, most_bytes: int | None = None) -> bytes:
        most = MAX_BODY_BYTES if most_bytes is None else most_bytes
        return await requests.body(request, self._limits.most_bytes(request.scope[_CALLER], most))

    # -- objects --

    async def _get(self, resource: Resource, request: Request) -> Response:
        name = resource.name(request.path_params)
        return self._object(name, self._service.get(name), _tenant(request))

    async def _list(self, resource: Resource, request: Request) -> Response:
        query = requests.query(request)
        limit = requests.number(query.pop("limit", str(PAGE)), "limit", 1, MAX_PAGE)
        token = query.pop("continue", None)
        after = "" if token is None else read_continue(token)
        tenant = _tenant(request)
        variables = dict(request.path_params)
        if tenant is not None:
            tenants.check_filter(resource.kind, query)
            variables["tenant"] = label_of(tenant)  # of "-", all that there is for it
        prefix, beyond = resource.selection(variables)
        if tenant is not None and resource.kind is Kind.TENANT:
            beyond = tenant.__eq__
        chosen = filter_by(resource, query) if query else None
        wanted = None
        if beyond or chosen:

            def wanted(name: Name, value: Any) -> bool:
                return (beyond is None or beyond(name)) and (chosen is None or chosen(name, value))

        listed = await self._service.page(resource.kind, prefix, limit, after=after, wanted=wanted)
        items = [self._item(name, held, tenant) for name, held in listed.items]
        token = continue_after(listed.items[-1][0]) if listed.more and listed.items else None
        return requests.json_answer(_Page(items, listed.revision, token))

    async def _put(self, resource: Resource, request: Request) -> Response:
        name = resource.name(request.path_params)
        condition = _condition(request)
        body = decode_body(await self._body(request), _SPEC)
        tenant = _tenant(request)
        if tenant is None:
            outcome = await self._service.put(name, body.spec, condition)
        else:
            self._check_write(tenant, name)
            tenants.check_said(tenant, name, msgspec.json.decode(body.spec))
            outcome = await self._service.put(name, body.spec, condition, tenants.kept)
        created = any(each.name == name and each.action == "create" for each in outcome.differences)
        return self._written(name, outcome, tenant, 201 if created else 200)

    async def _patch(self, resource: Resource, request: Request) -> Response:
        name = resource.name(request.path_params)
        condition = _condition(request)
        patch = merge.parse(await self._body(request))
        tenant = _tenant(request)
        if tenant is not None:
            self._check_write(tenant, name)
            tenants.check_said(tenant, name, patch)
        outcome = await self._service.patch(name, partial(merge.merge, patch=patch), condition)
        return self._written(name, outcome, tenant, 200)

    async def _delete(self, resource: Resource, request: Request) -> Response:
        name = resource.name(request.path_params)
        if (tenant := _tenant(request)) is not None:
            self._check_write(tenant, name)
        await self._service.delete(name, _condition(request))
        return Response(status_code=204)

    def _check_write(self, tenant: Name, name: Name, field: str = "name") -> None:
        tenants.check_write(tenant, name, field)
        if kind_of(name) in (Kind.SECURITY_GROUP, Kind.SECURITY_GROUP_RULE):
            held = self._service.find(group_of(name))
            tenants.check_group(None if held is None else held.value, name, field)

    async def _apply(self, request: Request) -> Response:
        query = requests.query(request)
        dry_run = requests.boolean(query.pop("dry_run", "false"), "dry_run")
        connections = requests.boolean(query.pop("connections", "false"), "connections")
        if connections and not dry_run:
            raise Rejected("which connections are cut is said of a dry run: dry_run=true", "connections")
        requests.nothing_else(query)
        raw = await self._body(request)
        puts, deletes = await _inline_or_thread(len(raw), lambda: _read_apply(raw))
        tenant = _tenant(request)
        if tenant is not None:
            for n, put in enumerate(puts):
                self._check_write(tenant, put.name, f"puts[{n}].name")
                tenants.check_said(tenant, put.name, msgspec.json.decode(put.spec), f"puts[{n}].spec")
            for n, name in enumerate(deletes):
                self._check_write(tenant, name, f"deletes[{n}]")
        outcome = await self._service.apply(
            puts, deletes, dry_run=dry_run, rework=tenants.kept if tenant else None, connections=connections
        )
        said: wire_cuts.Cuts | msgspec.UnsetType = msgspec.UNSET
        if connections:
            said = await cuts.ask(self._service.questions, outcome.asked)
            said = cuts.for_tenant(said) if tenant else said
        size = sum(len(each.after or b"") for each in outcome.differences)
        return await _inline_or_thread(size, lambda: requests.json_answer(_applied(outcome, tenant, said)))

    def _written(self, name: Name, outcome: Outcome, tenant: Name | None, status: int) -> Response:
        # What was written, not what is there by now: the next writer may have been quicker than this answer.
        for each in outcome.differences:
            if each.name == name and each.after is not None:
                return _object_answer(self._shown(name, each.after, outcome.revision, tenant), status)
        return self._object(name, self._service.get(name), tenant, status)

    def _object(self, name: Name, held: Held, tenant: Name | None, status: int = 200) -> Response:
        return _object_answer(self._item(name, held, tenant), status)

    def _item(self, name: Name, held: Held, tenant: Name | None) -> _Item:
        return self._seen(name, held.revision, encode_spec(held.value), self._status(name, held), tenant)

    def _shown(self, name: Name, spec: bytes, revision: int, tenant: Name | None) -> _Item:
        held = self._service.find(name)
        return self._seen(name, revision, spec, self._status(name, held) if held else {}, tenant)

    def _seen(self, name: Name, revision: int, spec: bytes, status: _Status, tenant: Name | None) -> _Item:
        """tenant: by whom; None: by somebody who may see all of it."""
        kind = kind_of(name)
        if tenant is not None:
            spec, status = tenants.shown_spec(kind, spec), tenants.shown_status(tenant, status)
        return _Item(name, kind.value, revision, msgspec.Raw(spec), status)

    def _status(self, name: Name, held: Held) -> _Status:
        match held.value:
            case Port() as port:
                status = self._service.statuses.port(name, port.host)
                if port.destination is not None:
                    move = moves.status(self._service, held, port, port.destination)
                    status = msgspec.structs.replace(status, move=move)
                if (why := mirrors.why_idle(self._service, port)) is not None:
                    status = msgspec.structs.replace(status, mirror=why)
                return status
            case Host():
                return self._service.statuses.host(name)
            case VirtualSubnet() as subnet:
                return rules.status(self._service, held, subnet)
            case _:
                return {}

    # -- streams --

    async def _watch(self, request: Request) -> Response:
        query = requests.query(request)
        now = self._service.revision
        since = requests.number(query.pop("revision", str(now)), "revision", 0)
        prefix = query.pop("prefix", "").strip("/")
        requests.nothing_else(query)
        tenant = _tenant(request)
        chunks = streams.watch(
            self._service.watch(since),
            partial(self._event, prefix, tenant),
            since,
            now,
            bookmark_s=self._bookmark_s,
        )
        return await requests.stream(request, chunks, self._stopping)

    def _event(self, prefix: str, tenant: Name | None, batch: Batch) -> bytes | None:
        def wanted(name: str) -> bool:
            return all(not each or name == each or name.startswith(f"{each}/") for each in (prefix, tenant))

        puts = [
            self._shown(Name(name), value, batch.revision, tenant)
            for name, value in batch.puts.items()
            if wanted(name) and is_intent(name)
        ]
        deletes = [name for name in batch.deletes if wanted(name) and is_intent(name)]
        return requests.encode(_Event(batch.revision, puts, deletes)) + b"\n" if puts or deletes else None

    async def _feed(self, request: Request) -> Response:
        query = requests.query(request)
        since = None if "revision" not in query else requests.number(query.pop("revision"), "revision", 0)
        history = query.pop("history", "")
        requests.nothing_else(query)
        host = RESOURCES[Kind.HOST].name(request.path_params)
        self._service.get(host)
        knows, answers = request.headers.get(KNOWS, FIRST), wire.ANSWERS in request.headers
        chunks = self._service.follow(host, since, history, knows, answers=answers)
        return await requests.stream(request, chunks, self._stopping)

    # -- the rest --

    async def _report(self, request: Request) -> Response:
        host = RESOURCES[Kind.HOST].name(request.path_params)
        self._service.report(host, decode_body(await self._body(request), _STATUS))
        return Response(status_code=204)

    async def _tell(self, request: Request) -> Response:
        requests.nothing_else(requests.query(request))
        lines = self._service.statuses.tell()
        told = streams.told(lines, every_s=_STILL_HERE_S, first=KNOWS not in request.headers)
        return await requests.stream(request, told, self._stopping)

    async def _connections(self, request: Request) -> Response:
        """A port's connections, from its host."""
        requests.nothing_else(requests.query(request))
        name = RESOURCES[Kind.PORT].name(request.path_params)
        held = self._service.get(name)
        host = held.value.host if isinstance(held.value, Port) else None
        if host is None:
            return requests.json_answer(listed.Connections())
        try:
            said = await self._service.questions.ask(host, "list", {"port": name}, timeout_s=LIST_S)
            found = _LISTED.decode(said)
        except (questions.Unanswered, msgspec.DecodeError) as error:
            why = str(error) if _tenant(request) is None else "the port's host has not answered"
            raise questions.Unanswered(why) from error
        # It speaks for this port.
        own = [each for each in found.connections if each.port == name]
        return requests.json_answer(msgspec.structs.replace(found, connections=own))

    async def _pass_on(self, request: Request) -> Response:
        """For another controller, of a host that is connected here."""
        asked = decode_body(await self._body(request, 2 * questions.MOST_QUESTION_BYTES), _PASSED_ON)
        answer = await self._service.questions.ask_here(asked.host, asked.what, asked.body, timeout_s=asked.timeout_s)
        return Response(answer, media_type="application/octet-stream")

    async def _announce(self, request: Request) -> Response:
        host = RESOURCES[Kind.HOST].name(request.path_params)
        self._service.get(host)
        body = decode_body(await self._body(request, MAX_ANNOUNCEMENTS_BYTES), _ANNOUNCEMENTS)
        heard = await self._service.hear([_announcement(host, n, each) for n, each in enumerate(body.announcements)])
        for each in heard.ignored:
            if each.reason not in (Unheeded.NO_NEWS, Unheeded.ELSEWHERE):
                _log.info("announcements are not heeded", host=host, port=each.announcement.port, first=each.why)
                break  # a guest must not fill our disk with what it may not do
        return Response(status_code=204)

    async def _answer(self, request: Request) -> Response:
        query = requests.query(request)
        refused = query.pop("refused", "")
        requests.nothing_else(query)
        host = RESOURCES[Kind.HOST].name(request.path_params)
        body = await self._body(request, questions.MOST_ANSWER_BYTES)
        self._service.questions.answer(host, request.path_params["question"], body, refused)
        return Response(status_code=204)

    async def _carried(self, request: Request) -> Response:
        """Connections of a port that is moving to a host, as the host has them that it comes from."""
        query = requests.query(request)
        port, after = query.pop("port", ""), requests.number(query.pop("after", "0"), "after", 0)
        former = query.pop("from", None)
        requests.nothing_else(query)
        host = RESOURCES[Kind.HOST].name(request.path_params)
        found = await moves.connections(self._service, host, port, after, former)
        return Response(found, media_type=carried.CONTENT_TYPE)

    async def _trace(self, request: Request) -> Response:
        return requests.json_answer(await tracing.run(self._service, decode_body(await self._body(request), _TRACE)))

    async def _whoami(self, request: Request) -> Response:
        caller: Caller = request.scope[_CALLER]
        return requests.json_answer(
            {"name": caller.name, "role": caller.role.value, "of": caller.of, "where": caller.where}
        )

    async def _health(self, _request: Request) -> Response:
        if self._service.broken.is_set():
            raise Retry("the controller is about to start over")
        return requests.json_answer(
            {"status": "ok", "revision": self._service.revision, "schema": self._service.schema}
        )

    async def _scrape(self, _request: Request) -> Response:
        return Response(self._metrics.exposition(), media_type=self._metrics.content_type)

    async def _describe(self, _request: Request) -> Response:
        return requests.json_answer(openapi.document())


def create_app(
    service: Service,
    stopping: asyncio.Event,
    callers: Callers | None = None,
    more: Mapping[str, Handlers] = _NO_HANDLERS,
    figures: Figures = tuple,
    limits: Limits | None = None,
    waits: Waits = WAITS,
    *,
    bookmark_s: float = 5.0,
) -> Starlette:
    """The ASGI application. callers: by default, whoever comes in by this machine's own doors is let in.

    more: further paths with their handlers by method, which have to be decided on like all others.
    """
    api = Api(service, stopping, callers or Callers(), more, figures, limits or Limits(), bookmark_s=bookmark_s)
    return Starlette(
        routes=list(api.routes()),
        middleware=[Middleware(Patient, waits)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )


# -- who may --


def _tenant(request: Request) -> Name | None:
    """The one tenant that there is for the caller; None: the caller is no tenant's."""
    caller: Caller = request.scope[_CALLER]
    return caller.tenant


def _action(resource: Resource, verb: str, path: str, request: Request) -> Action:
    if path.endswith(resource.collection):
        return authorisation.of_collection(resource.kind, request.path_params.get("tenant"))
    return authorisation.of_object(resource.kind, verb)


def _asked_of(request: Request, resource: Resource | None) -> str:
    """What a handler would name that does not find it: the object, or what would be listed."""
    if resource is not None:
        return request.url.path.removeprefix("/v1/")
    variables = request.path_params
    tenant = f"tenants/{variables['tenant']}"
    return f"{tenant}/ports/{variables['port']}" if "port" in variables else tenant


def _admit(caller: Caller, action: Action, request: Request, resource: Resource | None) -> None:
    variables = request.path_params
    owner = next((Name(f"{each}s/{variables[each]}") for each in ("tenant", "host") if each in variables), None)
    match authorisation.decide(caller, action, owner):
        case Verdict.ALLOWED:
            return
        case Verdict.UNKNOWN:
            raise Denied(Verdict.UNKNOWN, "say who you are: with a client certificate, or a bearer token")
        case Verdict.HIDDEN:
            raise Denied(Verdict.HIDDEN, f"there is no {_asked_of(request, resource)}")
        case Verdict.FORBIDDEN:
            raise Denied(Verdict.FORBIDDEN, authorisation.reason(caller, action))


def _denied(denied: Denied) -> Response:
    match denied.verdict:
        case Verdict.UNKNOWN:
            return _problem(401, denied.detail, denied.field, {"www-authenticate": "Bearer"})
        case Verdict.HIDDEN:
            return _problem(404, denied.detail, denied.field)
        case _:
            return _problem(403, denied.detail, denied.field)


# -- errors --


async def _answered(handler: Callable[[str, Request], Awaitable[Response]], verb: str, request: Request) -> Response:
    try:
        return await handler(verb, request)
    except Denied as denied:
        return _denied(denied)
    except TooMany as error:
        return _problem(429, error.detail, headers={"retry-after": str(error.retry_after_s)})
    except Rejected as error:
        tenant = _tenant(request)
        message = error.message if tenant is None else tenants.scrubbed(error.message, tenant)
        return _problem(_status_of(error), message, error.field)
    except ConditionFailed as error:
        return _problem(412, str(error))
    except (Gone, Compacted) as error:
        return _problem(410, str(error), "revision")
    except questions.NotConnected as error:
        return _problem(503, str(error), headers={"retry-after": "1"})
    except questions.Unanswered as error:
        return _problem(502, str(error))
    except Unsure as error:
        return _problem(504, f"{error}; look before you write it again")
    except Retry as error:
        return _problem(503, str(error), headers={"retry-after": "1"})
    except requests.TooLarge as error:
        return _problem(413, f"the body is larger than {error.most_bytes} bytes; send it in parts")
    except ClientDisconnect:
        return Response(status_code=400)  # to nobody


def _status_of(error: Rejected) -> int:
    match error:
        case Malformed():
            return 400
        case Conflict():
            return 409
        case Missing() if "spec" not in error.field.split("."):
            return 404
        case _:
            return 422


def _problem(status: int, detail: str, field: str = "", headers: Mapping[str, str] | None = None) -> Response:
    body = problem.encode(problem.problem(status, detail, field))
    return Response(body, status, dict(headers or {}), media_type=problem.CONTENT_TYPE)


async def _refused(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself: paths and methods that are not in the table."""
    if not isinstance(error, HTTPException):
        raise TypeError(f"{type(error).__name__} is no HTTPException")
    if error.status_code == 404:
        return _problem(404, f"there is nothing at {request.url.path}; /openapi.json says what there is")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _problem(405, f"{request.method} is not for {request.url.path}; {allowed}", headers=error.headers)
    return _problem(error.status_code, error.detail, headers=error.headers)


async def _failed(_request: Request, _error: Exception) -> Response:
    """A bug. The server logs it; the caller learns no more than that it was not they."""
    return _problem(500, "the controller failed at this; its log says how")


# -- requests --


_ETAG = re.compile(r'\s*"([0-9]{1,19})"\s*')


def _condition(request: Request) -> Condition:
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    revisions: frozenset[int] | None = None
    exists: bool | None = None
    if match is not None and match.strip() == "*":
        exists = True
    elif match is not None:
        found = [_ETAG.fullmatch(tag) for tag in match.split(",")]
        revisions = frozenset(int(tag[1]) for tag in found if tag)
        if None in found:
            raise Rejected(f'{match!r} is not a revision in quotes such as "42"', "If-Match")
    if none_match is not None:
        if none_match.strip() != "*":
            raise Rejected(f"{none_match!r} is not *, which is all that is understood here", "If-None-Match")
        if exists:
            raise Rejected("If-Match and If-None-Match contradict each other", "If-None-Match")
        exists = False
    return Condition(revisions, exists)


def _read_apply(raw: bytes) -> tuple[list[Put], list[Name]]:
    body = decode_body(raw, _APPLY)
    return (
        [Put(_name(entry.name, f"puts[{n}].name"), entry.spec) for n, entry in enumerate(body.puts)],
        [_name(text, f"deletes[{n}]") for n, text in enumerate(body.deletes)],
    )


def _announcement(host: Name, rank: int, said: wire.Announced) -> Announcement:
    address = read(f"announcements[{rank}].address", parse_ip, said.address)
    mac = read(f"announcements[{rank}].mac", parse_mac, said.mac)
    return Announcement(host, said.port, AnnouncedAddress(address, mac))


def _name(text: str, field: str) -> Name:
    if find_kind(text) is None:
        try:
            kind_of(text)
        except Rejected as error:
            raise Rejected(error.message, field) from error
    return Name(text)


# -- answers --


def _object_answer(item: _Item, status: int) -> Response:
    return requests.json_answer(item, status, {"etag": f'"{item.revision}"'})


def _applied(outcome: Outcome, tenant: Name | None, cut: wire_cuts.Cuts | msgspec.UnsetType) -> _Applied:
    return _Applied(outcome.revision, [_change(each, tenant) for each in outcome.differences], cut)


def _change(each: Difference, tenant: Name | None) -> _Change:
    def seen(spec: bytes | None) -> msgspec.Raw | msgspec.UnsetType:
        if spec is None:
            return msgspec.UNSET
        return msgspec.Raw(spec if tenant is None else tenants.shown_spec(kind_of(each.name), spec))

    return _Change(each.name, each.action, seen(each.before), seen(each.after))


async def _inline_or_thread(size: int, work: Callable[[], _T]) -> _T:
    return work() if size <= _INLINE_BYTES else await asyncio.to_thread(work)

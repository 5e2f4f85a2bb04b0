"""/openapi.json: OpenAPI 3.1, made of the API's own table and structs. No part is kept by hand."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

import msgspec

from weft.controller.kinds import RESOURCES, Resource
from weft.wire import access, carried, listed, problem
from weft.wire import api as wire
from weft.wire.objects import SPECS

_JSON, _LINES = "application/json", "application/x-ndjson"
_REF = "#/components/schemas/{name}"

_STATUSES = {"port": wire.PortStatus, "host": wire.HostStatus, "virtual-subnet": wire.SubnetStatus}


@cache
def document() -> dict[str, Any]:
    structs = [
        *SPECS.values(),
        wire.ApplyRequest,
        wire.Applied,
        wire.PassedOn,
        listed.Connections,
        wire.Event,
        wire.TraceRequest,
        wire.Traced,
        wire.StatusReport,
        wire.Announcements,
        wire.PortStatus,
        wire.MoveStatus,
        wire.HostStatus,
        wire.SubnetStatus,
        access.Token,
        access.Tokens,
        access.NewToken,
        access.Quota,
        access.TenantQuota,
        access.Quotas,
        access.NewJoinToken,
        access.JoinToken,
        access.Join,
        access.Renewal,
        access.Issued,
        access.Trust,
        access.Revocation,
    ]
    _, components = msgspec.json.schema_components(structs, ref_template=_REF)
    components["Problem"] = _problem()
    paths: dict[str, Any] = {}
    for resource in RESOURCES.values():
        title = _title(resource)
        components[title] = _item(resource)
        components[f"{title}List"] = _list(title)
        components[f"{title}Put"] = _body_of_put(resource)
        paths[f"/v1/{resource.collection}"] = _collection(resource)
        paths[f"/v1/{resource.path}"] = _object(resource)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Weft",
            "version": _version(),
            "description": "What tenants want of their networks, and what hosts need to know of it.",
        },
        "paths": {**paths, **_others(), **_access()},
        "components": {"schemas": components},
    }


def _version() -> str:
    try:
        return metadata.version("weft")
    except metadata.PackageNotFoundError:  # run from a source tree that nobody installed
        return "0"


def _title(resource: Resource) -> str:
    return "".join(word.capitalize() for word in resource.kind.value.split("-"))


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(name=name)}


def _problem() -> dict[str, Any]:
    fields = {field: {"type": "string"} for field in ("type", "title", "detail", "field")}
    return {
        "title": "Problem",
        "description": problem.Problem.__doc__,
        "type": "object",
        "properties": {**fields, "status": {"type": "integer"}},
        "required": ["type", "title", "status"],
    }


def _item(resource: Resource) -> dict[str, Any]:
    status = _STATUSES.get(resource.kind.value)
    return {
        "title": _title(resource),
        "type": "object",
        "properties": {
            "name": {"type": "string", "examples": [resource.path]},
            "kind": {"const": resource.kind.value},
            "revision": {"type": "integer"},
            "spec": _ref(SPECS[resource.kind].__name__),
            "status": _ref(status.__name__) if status else {"type": "object"},
        },
        "required": ["name", "kind", "revision", "spec", "status"],
    }


def _list(title: str) -> dict[str, Any]:
    return {
        "title": f"{title}List",
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": _ref(title)},
            "revision": {"type": "integer"},
            "continue": {"type": "string"},
        },
        "required": ["items", "revision"],
    }


def _body_of_put(resource: Resource) -> dict[str, Any]:
    return {
        "title": f"{_title(resource)}Put",
        "type": "object",
        "properties": {"spec": _ref(SPECS[resource.kind].__name__)},
        "required": ["spec"],
        "additionalProperties": False,
    }


def _labels(names: tuple[str, ...], *, wildcards: bool = False) -> list[dict[str, Any]]:
    means_all = {"description": "a label; - means all"} if wildcards else {}
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}, **means_all} for name in names]


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}


_IF_MATCH = _header("If-Match", 'the revision it must be at, in quotes: "42"')
_IF_NONE_MATCH = _header("If-None-Match", "*: only if it does not exist")
_REVISION = _query("revision", {"type": "integer", "minimum": 0}, "what was seen last: only what came after it is sent")
_HISTORY = _query("history", {"type": "string"}, "of the bookmark that the revision is from")


def _answer(description: str, schema: dict[str, Any] | None = None, media: str = _JSON) -> dict[str, Any]:
    return {"description": description, **({"content": {media: {"schema": schema}}} if schema else {})}


def _operation(
    id_: str,
    summary: str,
    answers: dict[str, dict[str, Any]],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    media: str = _JSON,
) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": id_, "summary": summary}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": {media: {"schema": body}}}
    operation["responses"] = {**answers, "default": _answer("why not", _ref("Problem"), problem.CONTENT_TYPE)}
    return operation


def _collection(resource: Resource) -> dict[str, Any]:
    title = _title(resource)
    parameters = [
        *_labels(resource.labels[:-1], wildcards=True),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 500}, "objects in one answer"),
        _query("continue", {"type": "string"}, "from the former answer"),
        *(
            _query(field, {"type": "string"}, "only those with this value; a reference in full or short")
            for field in sorted(resource.fields)
        ),
    ]
    return {
        "get": _operation(
            f"list{title}s", f"{resource.kind.value}s, by name",
            {"200": _answer("a part of the list", _ref(f"{title}List"))}, parameters=parameters,
        )
    }  # fmt: skip


def _object(resource: Resource) -> dict[str, Any]:
    title, kind = _title(resource), resource.kind.value
    is_there = {"200": _answer("the object", _ref(title))}
    return {
        "parameters": _labels(resource.labels),
        "get": _operation(f"get{title}", f"One {kind}", is_there),
        "put": _operation(
            f"put{title}", f"Create or replace a {kind}", {**is_there, "201": _answer("the new object", _ref(title))},
            parameters=[_IF_MATCH, _IF_NONE_MATCH], body=_ref(f"{title}Put"),
        ),
        "patch": _operation(
            f"patch{title}", f"Change fields of a {kind} (RFC 7396)", is_there,
            parameters=[_IF_MATCH], body={"type": "object", "properties": {"spec": {"type": "object"}}},
            media="application/merge-patch+json",
        ),
        "delete": _operation(
            f"delete{title}", f"Remove a {kind} that nothing refers to", {"204": _answer("it is gone")},
            parameters=[_IF_MATCH],
        ),
    }  # fmt: skip


def _others() -> dict[str, Any]:
    host = _labels(("host",))
    prefix = _query("prefix", {"type": "string"}, "only this object and what is below it")
    cut = _query(
        "connections", {"type": "boolean", "default": False},
        "of a dry run: say which connections that are there now would be cut (hosts are asked: some seconds)",
    )  # fmt: skip
    dry_run = _query("dry_run", {"type": "boolean", "default": False}, "say what would change, and change nothing")
    return {
        "/v1/apply": {
            "post": _operation(
                "apply", "Many objects at once, all or nothing, in any order",
                {"200": _answer("what changed", _ref("Applied"))}, parameters=[dry_run, cut], body=_ref("ApplyRequest"),
            )
        },
        "/v1/watch": {
            "get": _operation(
                "watch", "Every change, a line each; 410 when the revision is too old",
                {"200": _answer("lines", _ref("Event"), _LINES)}, parameters=[_REVISION, prefix],
            )
        },
        "/v1/trace": {
            "post": _operation(
                "trace", "What would become of a packet", {"200": _answer("step by step", _ref("Traced"))},
                body=_ref("TraceRequest"),
            )
        },
        "/v1/hosts/{host}/feed": {
            "get": _operation(
                "feed", "The rows that a host needs, a frame a line; 410 when the revision is too old",
                {"200": _answer("lines", {"type": "object"}, _LINES)}, parameters=[*host, _REVISION, _HISTORY],
            )
        },
        "/v1/hosts/{host}/status": {
            "post": _operation(
                "report", "What a host has applied, and how its ports are", {"204": _answer("noted")},
                parameters=host, body=_ref("StatusReport"),
            )
        },
        "/v1/hosts/{host}/announcements": {
            "post": _operation(
                "announce", "What guests on a host say they have: they get what policy lets them have",
                {"204": _answer("heard")}, parameters=host, body=_ref("Announcements"),
            )
        },
        "/v1/hosts/{host}/answers/{question}": {
            "post": _operation(
                "answer", "What a host was asked in its feed (one that says the header weft-answers is)",
                {"204": _answer("heard")},
                parameters=[
                    *host, *_labels(("question",)), _query("refused", {"type": "string"}, "why it says nothing"),
                ],
                body={"type": "string", "format": "binary"}, media="application/octet-stream",
            )
        },
        "/v1/hosts/{host}/connections": {
            "get": _operation(
                "carried", "Connections of a port that is moving to the host, from the host that it leaves",
                {"200": _answer("a piece of them", {"type": "string", "format": "binary"}, carried.CONTENT_TYPE)},
                parameters=[
                    *host, _query("port", {"type": "string"}, "tenants/T/ports/P"),
                    _query("after", {"type": "integer", "minimum": 0}, "the piece that was the last; 0: begin"),
                    _query("from", {"type": "string"}, "hosts/H, when the port has arrived from there"),
                ],
            )
        },
        "/v1/statuses": {
            "get": _operation(
                "statuses", "What hosts say to this controller, as NDJSON: for the other controllers of the store",
                {"200": _answer("lines, until one of both ends it", {"type": "string"}, "application/x-ndjson")},
            )
        },
        "/v1/tenants/{tenant}/ports/{port}/connections": {
            "get": _operation(
                "connections", "A port's connections, as its host has them now",
                {"200": _answer("the first of them, and how many there are", _ref("Connections"))},
                parameters=_labels(("tenant", "port")),
            )
        },
        "/v1/questions": {
            "post": _operation(
                "passOn", "A question to a host that is connected here, for the other controllers of the store",
                {"200": _answer("its answer", {"type": "string", "format": "binary"}, "application/octet-stream")},
                body=_ref("PassedOn"),
            )
        },
        "/v1/whoami": {
            "get": _operation(
                "whoami", "Who the caller is to the controller: name, role, and of which tenant or host",
                {"200": _answer("the caller", {"type": "object"})},
            )
        },
        "/healthz": {"get": _operation("health", "Whether all is well", {"200": _answer("it is", {"type": "object"})})},
        "/metrics": {
            "get": _operation("metrics", "Prometheus", {"200": _answer("figures", {"type": "string"}, "text/plain")})
        },
        "/openapi.json": {
            "get": _operation("describe", "This document", {"200": _answer("OpenAPI", {"type": "object"})})
        },
    }  # fmt: skip


def _access() -> dict[str, Any]:
    host, tenant, token = _labels(("host",)), _labels(("tenant",)), _labels(("token",))
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "the newest so many")
    return {
        "/v1/tokens": {
            "get": _operation("listTokens", "The tokens that are good", {"200": _answer("them", _ref("Tokens"))}),
            "post": _operation(
                "createToken", "A token for a user; its secret is in this answer only",
                {"201": _answer("the token", _ref("Token"))}, body=_ref("NewToken"),
            ),
        },
        "/v1/tokens/{token}": {
            "delete": _operation("revokeToken", "End a token now", {"204": _answer("it is gone")}, parameters=token)
        },
        "/v1/quotas": {
            "get": _operation("listQuotas", "Every tenant's that has one", {"200": _answer("them", _ref("Quotas"))})
        },
        "/v1/quotas/{tenant}": {
            "get": _operation(
                "getQuota", "What a tenant may have, and has", {"200": _answer("it", _ref("TenantQuota"))},
                parameters=tenant,
            ),
            "put": _operation(
                "setQuota", "How many of each kind a tenant may have", {"200": _answer("it", _ref("TenantQuota"))},
                parameters=tenant, body=_ref("Quota"),
            ),
        },
        "/v1/audit": {
            "get": _operation(
                "listAudit", "What was done last, by whom and from where",
                {"200": _answer("entries, oldest first", {"type": "object"})}, parameters=[limit],
            )
        },
        "/v1/audit/follow": {
            "get": _operation(
                "followAudit", "What is done, as it is done; 410 when the revision is too old",
                {"200": _answer("lines", {"type": "object"}, _LINES)}, parameters=[_REVISION],
            )
        },
        "/v1/revocations": {
            "post": _operation(
                "revokeCertificates", "A holder's certificates until now are not good any more",
                {"204": _answer("noted")}, body=_ref("Revocation"),
            )
        },
        "/v1/ca": {"get": _operation("trust", "What the deployment trusts", {"200": _answer("PEM", _ref("Trust"))})},
        "/v1/join": {
            "post": _operation(
                "join", "A host's first certificate, for a token", {"200": _answer("it", _ref("Issued"))},
                body=_ref("Join"),
            )
        },
        "/v1/hosts/{host}/join-tokens": {
            "post": _operation(
                "createJoinToken", "A token by which a host joins, once", {"201": _answer("it", _ref("JoinToken"))},
                parameters=host, body=_ref("NewJoinToken"),
            )
        },
        "/v1/hosts/{host}/certificate": {
            "post": _operation(
                "renewCertificate", "A host's next certificate", {"200": _answer("it", _ref("Issued"))},
                parameters=host, body=_ref("Renewal"),
            )
        },
    }  # fmt: skip

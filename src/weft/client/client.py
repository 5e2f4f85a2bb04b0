"""Client and AsyncClient: /v1 as typed calls, over TCP or a unix socket. Neither repeats what may have been done.

Of several controllers one is asked; the next when that one does not answer, or says that it cannot (503).

A refused connection is Retry (time's turn); an answer that says no is ApiError (whose turn: its status).
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from weft.client.credentials import NONE, Credentials
from weft.client.endpoints import CONNECT_S, DEFAULT_URL, EndPoints, address
from weft.client.liveness import KEEPALIVE, asking, asking_beside
from weft.kit.errors import Rejected, Retry
from weft.tls.contexts import ClientTls
from weft.wire import problem
from weft.wire.api import ANSWERS, MOST_ANNOUNCED, Announced, Applied, Event, Item, Page, StatusReport, Traced
from weft.wire.knows import KNOWS, OURS

#: One put of an apply: the object's name and its spec.
Put: TypeAlias = tuple[str, Mapping[str, Any]]

_T = TypeVar("_T")


class ApiError(Exception):
    """The controller said no. status and field as in its problem details; never raised for a broken connection."""

    def __init__(self, status: int, title: str, detail: str = "", field: str = "") -> None:
        super().__init__(f"{field}: {detail}" if field else (detail or f"{status} {title}"))
        self.status = status
        self.title = title
        self.detail = detail
        self.field = field


def _check(status: int, body: bytes) -> None:
    if status >= 400:
        found = problem.decode(status, body)
        raise ApiError(status, found.title, found.detail, found.field)


def _decode(body: bytes, type_: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.DecodeError as error:
        raise Retry(f"the answer is not one of a Weft controller: {error}") from error


def _path(name: str) -> str:
    return "/v1/" + quote(name.strip("/"), safe="/")


def _body(value: object) -> bytes:
    return msgspec.json.encode(value)


def _preconditions(if_match: int | None, create_only: bool) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if if_match is not None:
        headers["if-match"] = f'"{if_match}"'
    if create_only:
        headers["if-none-match"] = "*"
    return headers


def _apply_body(puts: Iterable[Put], deletes: Iterable[str]) -> bytes:
    return _body({"puts": [{"name": name, "spec": spec} for name, spec in puts], "deletes": list(deletes)})


def _watch_query(revision: int | None, prefix: str) -> dict[str, str]:
    query = {} if revision is None else {"revision": str(revision)}
    if prefix:
        query["prefix"] = prefix
    return query


def _feed_query(revision: int | None, history: str) -> dict[str, str]:
    if revision is None:
        return {}
    return {"revision": str(revision), "history": history} if history else {"revision": str(revision)}


def _list_query(limit: int, filters: Mapping[str, str], after: str | None) -> dict[str, str]:
    query = {"limit": str(limit), **filters}
    if after is not None:
        query["continue"] = after
    return query


def _trace_body(
    source: str, to: str | None, frame: bytes | None, protocol: str | None = None, port: int | None = None
) -> bytes:
    if (to is None) == (frame is None):
        raise Rejected("a trace needs either an address to reach or a frame, and not both")
    if frame is not None:
        return _body({"from": source, "frame": frame.hex()})
    return _body({"from": source, "to": to, "protocol": protocol, "port": port})


def _announced_bodies(announced: Sequence[Announced]) -> Iterator[bytes]:
    for first in range(0, len(announced), MOST_ANNOUNCED):
        yield _body({"announcements": announced[first : first + MOST_ANNOUNCED]})


def _fault(url: str, error: Exception) -> Retry:
    if (doubt := _doubt(error)) is not None:
        return Retry(
            f"whoever answers at {url} is not believed to be the controller: {doubt.verify_message}; WEFT_CA (ca) says"
            " of which authorities it is to be, and its certificate at which addresses it is found"
        )
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Retry(f"no controller answers at {url}: {error}")
    return Retry(
        f"the connection to the controller at {url} broke: {str(error) or type(error).__name__}{_hint(url, error)}"
    )


def _doubt(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Why the certificate of the other end was not taken, if that is what is at the bottom of it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def _hint(url: str, error: Exception) -> str:
    """Who ends a connection without a word does not say why: these are what it is where it happens every time."""
    if not isinstance(error, httpx2.RemoteProtocolError):
        return ""
    of = "the certificate that was shown may be of an authority that it does not know"
    return f" ({of if url.startswith('https:') else 'it may want https'})"


def _verified_by(tls: ClientTls | None) -> ssl.SSLContext | bool:
    # Reading the machine's certificates takes longer than most commands, and only https needs them.
    return False if tls is None else tls.context


# Any silence longer than this on a stream is a dead connection: the controller says something every 5 s.
_STREAM_SILENCE_S = 12.0

#: Whoever waits for somebody else gets so long to say that there is no answer.
_GRACE_S = 1.0

#: So long a controller may wait for a host that is asked for its connections (controller/moves.py), and for another
#: controller that it asks of it.
CARRIED_S = 12.0

# A TLS 1.3 server refuses a certificate after the handshake: that alert comes as it is, through the HTTP client.
_BROKEN = (httpx2.HTTPError, ssl.SSLError)

# One of several controllers that says nothing for so long (it is stopped, or very busy) is passed over, where a request
# may be repeated; the last is given all the time there is.
_PATIENCE_S = 1.6

_REFUSED = 422

# It cannot do it now, and nothing was done.
_CANNOT = 503


def _timeouts(timeout_s: float, ends: EndPoints, read_s: float | None = None) -> httpx2.Timeout:
    connect_s = min(timeout_s, 10.0 if len(ends) == 1 else CONNECT_S)
    return httpx2.Timeout(timeout_s, connect=connect_s, read=read_s or timeout_s)


def _patience(again: bool, left: int, timeout_s: float, ends: EndPoints) -> httpx2.Timeout:
    return _timeouts(timeout_s, ends, min(timeout_s, _PATIENCE_S) if left and again else None)


def _may_repeat(again: bool, error: Exception) -> bool:
    """Whether nothing can have come of a request, or nothing that would come of it twice."""
    return again or isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)


def _is_of_the_first(fault: ApiError, report: StatusReport) -> bool:
    """Whether a controller refuses a report for what the first release did not know."""
    return fault.status == _REFUSED and report.as_at_first() != report


def _lines(pending: bytes, chunk: bytes) -> tuple[list[bytes], bytes]:
    *lines, rest = (pending + chunk).split(b"\n")
    return [line for line in lines if line], rest


class Client:
    """The controller, from ordinary code. Not to be shared between threads while it streams."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = 60.0,
        credentials: Credentials = NONE,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._ends = EndPoints(url)
        self._tls = next((tls for each in self._ends.urls if (tls := credentials.tls(each))), None)
        self._timeout_s = timeout_s
        self._https = [self._open(each, credentials, transport) for each in self._ends.urls]

    def _open(self, url: str, credentials: Credentials, transport: httpx2.BaseTransport | None) -> httpx2.Client:
        base, socket = address(url)
        return httpx2.Client(
            base_url=base,
            transport=transport
            or httpx2.HTTPTransport(
                uds=socket, verify=_verified_by(self._tls), socket_options=None if socket else KEEPALIVE
            ),
            headers=credentials.headers(url),
            timeout=_timeouts(self._timeout_s, self._ends),
            trust_env=False,
        )

    @property
    def url(self) -> str:
        """Of the controller that is asked next."""
        return self._ends.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for http in self._https:
            http.close()

    def check_certificates(self) -> bool:
        """Whether the certificate's files were replaced: new connections are by the new ones. Raises Rejected."""
        return self._tls is not None and self._tls.check()

    def get(self, name: str) -> Item:
        return _decode(self._call("GET", _path(name)), Item)

    def page(self, collection: str, *, limit: int = 500, after: str | None = None, **filters: str) -> Page:
        """One part of a list; ``after`` is the former part's ``next``."""
        return _decode(self._call("GET", _path(collection), params=_list_query(limit, filters, after)), Page)

    def list(self, collection: str, *, limit: int = 500, **filters: str) -> Iterator[Item]:
        """Every object of the collection, asked for in parts of ``limit``."""
        after: str | None = None
        while True:
            part = self.page(collection, limit=limit, after=after, **filters)
            yield from part.items
            if (after := part.next) is None:
                return

    def put(
        self, name: str, spec: Mapping[str, Any], *, if_match: int | None = None, create_only: bool = False
    ) -> Item:
        headers = _preconditions(if_match, create_only)
        return _decode(self._call("PUT", _path(name), content=_body({"spec": spec}), headers=headers), Item)

    def patch(self, name: str, spec: Mapping[str, Any], *, if_match: int | None = None) -> Item:
        """RFC 7396: a null takes a field away, an object is merged, all else replaces."""
        headers = _preconditions(if_match, False)
        return _decode(self._call("PATCH", _path(name), content=_body({"spec": spec}), headers=headers), Item)

    def delete(self, name: str, *, if_match: int | None = None) -> None:
        self._call("DELETE", _path(name), headers=_preconditions(if_match, False))

    def apply(
        self,
        puts: Iterable[Put] = (),
        deletes: Iterable[str] = (),
        *,
        dry_run: bool = False,
        connections: bool = False,
    ) -> Applied:
        """All or nothing, in any order. connections: of a dry run, also say which would be cut."""
        params = {"dry_run": "true"} if dry_run else {}
        params |= {"connections": "true"} if connections else {}
        return _decode(self._call("POST", "/v1/apply", content=_apply_body(puts, deletes), params=params), Applied)

    def trace(
        self,
        source: str,
        *,
        to: str | None = None,
        frame: bytes | None = None,
        protocol: str | None = None,
        port: int | None = None,
    ) -> Traced:
        """protocol (icmp, tcp, udp), port: of the packet that is made to reach ``to``."""
        body = _trace_body(source, to, frame, protocol, port)
        return _decode(self._call("POST", "/v1/trace", content=body), Traced)

    def report(self, host: str, report: StatusReport) -> None:
        """Say what a host (full name) has applied and how its ports are."""
        try:
            self._call("POST", _path(host) + "/status", content=_body(report), again=True)
        except ApiError as fault:
            if not _is_of_the_first(fault, report):
                raise
            self._call("POST", _path(host) + "/status", content=_body(report.as_at_first()), again=True)

    def announce(self, host: str, announced: Sequence[Announced]) -> None:
        """Say what guests on a host (full name) have announced, in order. They get what policy lets them have."""
        for body in _announced_bodies(announced):
            self._call("POST", _path(host) + "/announcements", content=body)

    def health(self) -> dict[str, Any]:
        return _decode(self._call("GET", "/healthz"), dict[str, Any])

    def ask(self, method: str, path: str, answer: type[_T], body: object = None, **params: str) -> _T:
        """Any other request; what a path means is its module's to know (``weft.client.access``)."""
        content = b"" if body is None else _body(body)
        headers = {} if body is None else {"content-type": "application/json"}
        found = self._call(method, path, content=content, headers=headers, params=params)
        return _decode(found or b"null", answer)

    def watch(self, revision: int | None = None, prefix: str = "") -> Iterator[Event]:
        """Every change after ``revision`` (None: from now), and bookmarks. Ends with the connection.

        ApiError 410: the revision is too old; list again.
        """
        pending = b""
        for chunk in self._stream("/v1/watch", _watch_query(revision, prefix)):
            lines, pending = _lines(pending, chunk)
            for line in lines:
                yield _decode(line, Event)

    def lines(self, path: str, **params: str) -> Iterator[bytes]:
        """The lines of any other stream."""
        pending = b""
        for chunk in self._stream(path, params):
            lines, pending = _lines(pending, chunk)
            yield from lines

    def feed(self, host: str, revision: int | None = None, history: str = "") -> Iterator[bytes]:
        """The bytes of a host's feed, in pieces as they come. history: of the bookmark that ``revision`` is from."""
        return self._stream(_path(host) + "/feed", _feed_query(revision, history), {KNOWS: OURS})

    def _call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        again: bool | None = None,
        **arguments: Any,
    ) -> bytes:
        """again: whether it may be asked of several controllers, each of which may have heard it; else reads may."""
        again = method == "GET" if again is None else again
        for left in reversed(range(len(self._ends))):
            at = self._ends.at
            try:
                answer = self._https[at].request(
                    method,
                    path,
                    headers={**(headers or {}), **self._ends.headers()},
                    **{"timeout": _patience(again, left, self._timeout_s, self._ends), **arguments},
                )
            except _BROKEN as error:
                self._ends.failed(at)
                if left and _may_repeat(again, error):
                    continue
                raise _fault(self._ends.urls[at], error) from error
            if answer.status_code == _CANNOT:
                self._ends.failed(at)
                if left:
                    continue
            _check(answer.status_code, answer.content)
            self._ends.note(answer.headers)
            return answer.content
        raise AssertionError("the last try answers or raises")

    def _stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Iterator[bytes]:
        timeout = _timeouts(self._timeout_s, self._ends, _STREAM_SILENCE_S)
        at = self._ends.at
        try:
            with self._https[at].stream("GET", path, params=params, timeout=timeout, headers=headers) as answer:
                if answer.status_code == _CANNOT:
                    self._ends.failed(at)
                if answer.status_code >= 400:
                    _check(answer.status_code, answer.read())
                with asking_beside(answer.extensions if len(self._ends) > 1 else {}):
                    yield from answer.iter_raw()
        except _BROKEN as error:
            self._ends.failed(at)
            raise _fault(self._ends.urls[at], error) from error


class AsyncClient:
    """The controller, from asyncio code. Every call may be cancelled."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = 60.0,
        credentials: Credentials = NONE,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._ends = EndPoints(url)
        self._tls = next((tls for each in self._ends.urls if (tls := credentials.tls(each))), None)
        self._timeout_s = timeout_s
        self._https = [self._open(each, credentials, transport) for each in self._ends.urls]
        self._fed_by = 0  # whose feed was asked for last

    def _open(
        self, url: str, credentials: Credentials, transport: httpx2.AsyncBaseTransport | None
    ) -> httpx2.AsyncClient:
        base, socket = address(url)
        return httpx2.AsyncClient(
            base_url=base,
            transport=transport
            or httpx2.AsyncHTTPTransport(
                uds=socket, verify=_verified_by(self._tls), socket_options=None if socket else KEEPALIVE
            ),
            headers=credentials.headers(url),
            timeout=_timeouts(self._timeout_s, self._ends),
            trust_env=False,
        )

    @property
    def url(self) -> str:
        """Of the controller that is asked next."""
        return self._ends.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for http in self._https:
            await http.aclose()

    def check_certificates(self) -> bool:
        """Whether the certificate's files were replaced: new connections are by the new ones. Raises Rejected."""
        return self._tls is not None and self._tls.check()

    async def get(self, name: str) -> Item:
        return _decode(await self._call("GET", _path(name)), Item)

    async def page(self, collection: str, *, limit: int = 500, after: str | None = None, **filters: str) -> Page:
        """One part of a list; ``after`` is the former part's ``next``."""
        return _decode(await self._call("GET", _path(collection), params=_list_query(limit, filters, after)), Page)

    async def list(self, collection: str, *, limit: int = 500, **filters: str) -> AsyncIterator[Item]:
        """Every object of the collection, asked for in parts of ``limit``."""
        after: str | None = None
        while True:
            part = await self.page(collection, limit=limit, after=after, **filters)
            for item in part.items:
                yield item
            if (after := part.next) is None:
                return

    async def put(
        self, name: str, spec: Mapping[str, Any], *, if_match: int | None = None, create_only: bool = False
    ) -> Item:
        headers = _preconditions(if_match, create_only)
        return _decode(await self._call("PUT", _path(name), content=_body({"spec": spec}), headers=headers), Item)

    async def patch(self, name: str, spec: Mapping[str, Any], *, if_match: int | None = None) -> Item:
        """RFC 7396: a null takes a field away, an object is merged, all else replaces."""
        headers = _preconditions(if_match, False)
        return _decode(await self._call("PATCH", _path(name), content=_body({"spec": spec}), headers=headers), Item)

    async def delete(self, name: str, *, if_match: int | None = None) -> None:
        await self._call("DELETE", _path(name), headers=_preconditions(if_match, False))

    async def apply(
        self,
        puts: Iterable[Put] = (),
        deletes: Iterable[str] = (),
        *,
        dry_run: bool = False,
        connections: bool = False,
    ) -> Applied:
        """All or nothing, in any order. connections: of a dry run, also say which would be cut."""
        params = {"dry_run": "true"} if dry_run else {}
        params |= {"connections": "true"} if connections else {}
        body = _apply_body(puts, deletes)
        return _decode(await self._call("POST", "/v1/apply", content=body, params=params), Applied)

    async def trace(
        self,
        source: str,
        *,
        to: str | None = None,
        frame: bytes | None = None,
        protocol: str | None = None,
        port: int | None = None,
    ) -> Traced:
        """protocol (icmp, tcp, udp), port: of the packet that is made to reach ``to``."""
        body = _trace_body(source, to, frame, protocol, port)
        return _decode(await self._call("POST", "/v1/trace", content=body), Traced)

    async def report(self, host: str, report: StatusReport) -> None:
        """Say what a host (full name) has applied and how its ports are."""
        try:
            await self._call("POST", _path(host) + "/status", content=_body(report), again=True)
        except ApiError as fault:
            if not _is_of_the_first(fault, report):
                raise
            await self._call("POST", _path(host) + "/status", content=_body(report.as_at_first()), again=True)

    async def announce(self, host: str, announced: Sequence[Announced]) -> None:
        """Say what guests on a host (full name) have announced, in order. They get what policy lets them have."""
        for body in _announced_bodies(announced):
            await self._call("POST", _path(host) + "/announcements", content=body)

    async def answer(self, host: str, question: str, body: bytes, refused: str = "") -> None:
        """Say what a host (full name) was asked in its feed; refused: why it says nothing."""
        params = {"refused": refused} if refused else {}
        path = f"{_path(host)}/answers/{quote(question, safe='')}"
        # Whoever asked waits for it; to the others it says nothing.
        await self._call_each("POST", path, [self._fed_by], content=body, params=params)

    async def carried(self, host: str, port: str, after: int, former: str = "") -> bytes:
        """Of a port that is moving to a host, the connections behind the piece of that rank (wire/carried.py). former:
        it has arrived from there, and this is the last that is asked.
        """
        first, count = self._ends.at, len(self._ends)
        params = {"port": port, "after": after} | ({"from": former} if former else {})
        return await self._call_each(
            "GET", _path(host) + "/connections", [(first + n) % count for n in range(count)],
            params=params, timeout=_timeouts(self._timeout_s, self._ends, CARRIED_S),
        )  # fmt: skip

    async def pass_on(self, host: str, what: str, body: object, timeout_s: float) -> bytes:
        """To another controller of the same store: a question to a host that is connected to it; its answer."""
        asked = {"host": host, "what": what, "body": body, "timeout_s": timeout_s}
        return await self._call("POST", "/v1/questions", content=_body(asked), timeout=timeout_s + _GRACE_S)

    async def statuses(self) -> AsyncGenerator[bytes, None]:
        """What hosts say to this controller, line by line: for another controller of the same store."""
        pending = b""
        async with contextlib.aclosing(self._stream("/v1/statuses", {}, {KNOWS: OURS})) as chunks:
            async for chunk in chunks:
                lines, pending = _lines(pending, chunk)
                for line in lines:
                    yield line

    async def health(self) -> dict[str, Any]:
        return _decode(await self._call("GET", "/healthz"), dict[str, Any])

    async def ask(self, method: str, path: str, answer: type[_T], body: object = None, **params: str) -> _T:
        """Any other request; what a path means is its module's to know (``weft.client.access``)."""
        content = b"" if body is None else _body(body)
        headers = {} if body is None else {"content-type": "application/json"}
        found = await self._call(method, path, content=content, headers=headers, params=params)
        return _decode(found or b"null", answer)

    async def watch(self, revision: int | None = None, prefix: str = "") -> AsyncIterator[Event]:
        """Every change after ``revision`` (None: from now), and bookmarks. Ends with the connection.

        ApiError 410: the revision is too old; list again.
        """
        pending = b""
        async with contextlib.aclosing(self._stream("/v1/watch", _watch_query(revision, prefix))) as chunks:
            async for chunk in chunks:
                lines, pending = _lines(pending, chunk)
                for line in lines:
                    yield _decode(line, Event)

    def feed(self, host: str, revision: int | None = None, history: str = "") -> AsyncIterator[bytes]:
        """The bytes of a host's feed, in pieces as they come. history: of the bookmark that ``revision`` is
        from. ApiError 410: start over without a revision. Says that it answers what it is asked (``answer``).
        """
        headers = {KNOWS: OURS, ANSWERS: "1"}
        self._fed_by = self._ends.at
        return self._stream(_path(host) + "/feed", _feed_query(revision, history), headers, self._fed_by)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        again: bool | None = None,
        **arguments: Any,
    ) -> bytes:
        """again: whether it may be asked of several controllers, each of which may have heard it; else reads may."""
        again = method == "GET" if again is None else again
        for left in reversed(range(len(self._ends))):
            at = self._ends.at
            try:
                answer = await self._https[at].request(
                    method,
                    path,
                    headers={**(headers or {}), **self._ends.headers()},
                    **{"timeout": _patience(again, left, self._timeout_s, self._ends), **arguments},
                )
            except _BROKEN as error:
                self._ends.failed(at)
                if left and _may_repeat(again, error):
                    continue
                raise _fault(self._ends.urls[at], error) from error
            if answer.status_code == _CANNOT:
                self._ends.failed(at)
                if left:
                    continue
            _check(answer.status_code, answer.content)
            self._ends.note(answer.headers)
            return answer.content
        raise AssertionError("the last try answers or raises")

    async def _call_each(self, method: str, path: str, ends: Sequence[int], **arguments: Any) -> bytes:
        """Of controllers in turn, as long as they cannot: what only one may know. None is held to have failed."""
        faults: list[Exception] = []
        for at in ends:
            try:
                answer = await self._https[at].request(method, path, headers=self._ends.headers(), **arguments)
                _check(answer.status_code, answer.content)
            except ApiError as error:
                if error.status != _CANNOT:
                    raise
                faults.insert(0, error)  # says more than that somebody is not there
            except _BROKEN as error:
                faults.append(_fault(self._ends.urls[at], error))
            else:
                return answer.content
        raise faults[0]

    async def _stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None, at: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        timeout = _timeouts(self._timeout_s, self._ends, _STREAM_SILENCE_S)
        at = self._ends.at if at is None else at
        try:
            async with self._https[at].stream("GET", path, params=params, timeout=timeout, headers=headers) as answer:
                if answer.status_code == _CANNOT:
                    self._ends.failed(at)
                if answer.status_code >= 400:
                    _check(answer.status_code, await answer.aread())
                async with asking(answer.extensions if len(self._ends) > 1 else {}):
                    async for chunk in answer.aiter_raw():
                        yield chunk
        except _BROKEN as error:
            self._ends.failed(at)
            raise _fault(self._ends.urls[at], error) from error

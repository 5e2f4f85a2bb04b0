"""Speaks to the agent of this host through its unix socket. Never to the controller."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from weft.cli.session import ExitCode, Failed
from weft.kit.errors import Retry

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SOCKET = "/run/weft/agent.sock"


def with_agent(command: F) -> F:
    return click.option(
        "--agent", "agent", envvar="WEFT_AGENT", default=DEFAULT_SOCKET, show_default=True, show_envvar=True,
        metavar="PATH", help="The agent's unix socket.",
    )(command)  # fmt: skip


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, method: str, target: str, body: Any = None, *, timeout_s: float = 30.0) -> Any:
    """The JSON of the answer (None when it is empty). Raises Retry when no agent answers, Failed when it says no."""
    connection = _Connection(path, timeout_s)
    try:
        sent = None if body is None else json.dumps(body)
        try:
            connection.request(method, target, sent, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Retry(f"no agent answers at {path}: {error}") from error
    finally:
        connection.close()
    if answer.status >= 400:
        raise _failure(answer, content)
    return _json(content)


def follow(path: str, target: str) -> Iterator[Any]:
    """The JSON of each line of an answer that does not end; None first, as it begins. Raises Retry when no agent
    answers (any more), Failed when it says no.
    """
    connection = _Connection(path, None)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        if answer.status >= 400:
            raise _failure(answer, answer.read())
        yield None
        while (line := answer.readline()).endswith(b"\n"):
            yield json.loads(line)
    except (OSError, http.client.HTTPException) as error:
        raise Retry(f"no agent answers at {path}: {error}") from error
    finally:
        connection.close()
    raise Retry(f"the agent at {path} has ended")


def _failure(answer: http.client.HTTPResponse, content: bytes) -> Failed:
    found = _json(content)
    detail = found.get("detail") or found.get("title") if isinstance(found, dict) else None
    field = found.get("field") if isinstance(found, dict) else None
    text = str(detail or content.decode(errors="replace") or answer.reason)
    code = ExitCode.NOT_FOUND if answer.status == 404 else ExitCode.REFUSED
    return Failed(f"{field}: {text}" if field else text, code)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return None

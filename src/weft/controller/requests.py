"""What all handlers do with requests and answers: read a bounded body, a query, and answer JSON or a stream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import aclosing
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from weft.controller import streams
from weft.kit.errors import Rejected

#: Where a request's scope holds what returns when its caller is not let in any more.
UNTIL = "weft.until"

encode = msgspec.json.Encoder().encode


class TooLarge(Exception):
    """A body of more than may be sent here."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(most_bytes)
        self.most_bytes = most_bytes


async def body(request: Request, most_bytes: int) -> bytes:
    size = 0
    chunks: list[bytes] = []
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            size += len(chunk)
            if size > most_bytes:
                raise TooLarge(most_bytes)
            chunks.append(chunk)
    return b"".join(chunks)


def query(request: Request) -> dict[str, str]:
    """Starlette's own would keep the last of two; a caller who says two things is asked which."""
    found: dict[str, str] = {}
    for key, value in parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True):
        if key in found:
            raise Rejected(f"{key!r} is given twice", key)
        found[key] = value
    return found


def nothing_else(left: Mapping[str, str]) -> None:
    for key in left:
        raise Rejected(f"there is no query parameter {key!r} here", key)


def number(text: str, field: str, first: int, last: int = 2**63 - 1) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or not first <= int(text) <= last:
        raise Rejected(f"{text!r} is not a number from {first} to {last}", field)
    return int(text)


def boolean(text: str, field: str) -> bool:
    match text:
        case "true" | "":
            return True
        case "false":
            return False
        case _:
            raise Rejected(f"{text!r} is neither true nor false", field)


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(value), status, dict(headers or {}), media_type="application/json")


async def stream(request: Request, chunks: streams.Chunks, stopping: asyncio.Event) -> Response:
    """What the first step refuses is an answer of its own. Ends as well when the caller is not let in any more."""
    try:
        first = await anext(chunks, b"")
    except BaseException:
        await chunks.aclose()
        raise
    return streams.Stream(first, chunks, stopping, request.scope[UNTIL])

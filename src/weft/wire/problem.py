"""RFC 9457 problem details: how every error leaves the controller. Never holds a stack trace."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, whose turn it is (status), and where in the request (field)."""

    title: str
    status: int
    detail: str = ""
    field: str = ""


_decode = msgspec.json.Decoder(Problem).decode


def problem(status: int, detail: str, field: str = "") -> Problem:
    """The problem of a status; its title is the status's own phrase."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, field=field)


def encode(value: Problem) -> bytes:
    # RFC 9457 4.2.1: about:blank says that title is the phrase of the status.
    return msgspec.json.encode({"type": "about:blank", **msgspec.to_builtins(value)})


def decode(status: int, body: bytes) -> Problem:
    """The problem in an answer; of what is not problem+json (a proxy's error page) its beginning as the detail."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return problem(status, body[:200].decode("utf-8", "replace"))
        except ValueError:
            return Problem(title=f"HTTP {status}", status=status, detail=body[:200].decode("utf-8", "replace"))

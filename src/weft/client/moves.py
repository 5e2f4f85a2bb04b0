"""A port's move to another host, step by step, for whoever moves the guest itself. Touches no guest.

begin(); await_ready(); the guest changes over; finish(). Or cancel(), at any time before the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from weft.client.client import ApiError, Client
from weft.kit.errors import Conflict, Rejected, Retry
from weft.wire.api import Item

_POLL_S = 0.02
#: What a destination says has failed may be about to be tried again: a table that was full has room after the next
#: delete. So long it must go on saying so.
SURE_S = 1.0

Say = Callable[[str], None]


def _silent(_text: str) -> None:
    """Nobody wants to know."""


def begin(client: Client, port: str, host: str) -> Item:
    """Both hosts hold the port from now on. Names in full. The same move that has begun already is as good."""
    return begun(client, port, host)[0]


def begun(client: Client, port: str, host: str) -> tuple[Item, bool]:
    """As begin(); and whether it was this call that began it: who finds it begun is not to take it back."""
    while True:
        item = client.get(port)
        now, to = item.spec.get("host"), item.spec.get("destination")
        if now is None:
            raise Rejected(f"{port} is on no host, so there is nothing to move: give it one as its host", "host")
        if to is not None and to != host:
            raise Conflict(f"{port} is moving to {to}: finish or cancel that first", "destination")
        if now == host:
            raise Rejected(f"{port} is on {host} already", "host")
        if to == host:
            return item, False
        try:
            made = _patched(client, item, {"destination": host})
        except ApiError as error:
            if error.status == 422:
                client.get(host)  # where there is no such host, that is what is to be said: 404
            raise
        if made is not None:
            return made, True


def await_ready(
    client: Client,
    port: str,
    *,
    to: str | None = None,
    timeout_s: float = 60.0,
    patience_s: float = 10.0,
    say: Say = _silent,
) -> Sequence[str]:
    """Until the guest may change over. Returns the hosts that were not waited for. to: Conflict where the port moves to
    another host than this by then, which somebody else has begun.

    A host without a connected agent is waited for no longer than patience_s: what it sends to the port is lost from the
    change-over until it hears of the move. Retry: it was not ready within timeout_s; Rejected: the destination says
    that it has failed. Either way the move goes on until somebody cancels it.
    """
    began_s = time.monotonic()
    failed_s: float | None = None  # since when its destination says so
    while True:
        move = _move(client, port)
        if to is not None and move["destination"] not in ("", to):
            raise Conflict(f"{port} is moving to {move['destination']} now, and not to {to}", "destination")
        if move["state"] != "failed":
            failed_s = None
        elif failed_s is None:
            failed_s = time.monotonic()
        elif time.monotonic() - failed_s >= SURE_S:
            raise Rejected(f"{port} cannot go to {move['destination']}, where it has failed: {move['reason']}")
        absent = list(move["absent"])
        # Those that are absent are said one line each; whoever else is waited for says another.
        others = len(move["waiting_for"]) > len(absent) or move["destination"] in absent
        waited_s = time.monotonic() - began_s
        if move["ready"] or (not others and waited_s >= patience_s):
            return absent
        if waited_s >= timeout_s:
            raise Retry(f"{port} was not ready to move within {timeout_s:g} s: {'; '.join(move['waiting_for'])}")
        say("; ".join(move["waiting_for"]))
        time.sleep(_POLL_S)


def finish(client: Client, port: str, *, to: str | None = None) -> Item:
    """The guest has changed over: the port is where it was moving to; or there, and nowhere else: else Conflict."""
    item = client.get(port)
    wanted, to = to, item.spec.get("destination")
    if to is None:
        raise Rejected(f"{port} is not moving: it is on {item.spec.get('host', 'no host')}", "destination")
    if wanted not in (None, to):
        raise Conflict(f"{port} is moving to {to} now, and not to {wanted}", "destination")
    while item.spec.get("destination") == to:
        if (made := _patched(client, item, {"host": to, "destination": None})) is not None:
            return made
        item = client.get(port)
    raise Conflict(f"{port} is not moving to {to} any more: somebody else has ended its move", "destination")


def cancel(client: Client, port: str, *, to: str | None = None) -> Item:
    """The guest stays where it is. A port that does not move is left alone, and so is one that moves elsewhere than to
    there: or, where that is not said, than where it is moving to now.
    """
    item = client.get(port)
    if to is None:
        to = item.spec.get("destination")
    while to is not None and item.spec.get("destination") == to:
        if (made := _patched(client, item, {"destination": None})) is not None:
            return made
        item = client.get(port)
    return item


def _patched(client: Client, item: Item, changes: dict[str, Any]) -> Item | None:
    """None: somebody else has changed something of it meanwhile, such as its guest, which announces an address when it
    runs on.
    """
    try:
        return client.patch(item.name, changes, if_match=item.revision)
    except ApiError as error:
        if error.status != 412:
            raise
        return None


def await_arrived(client: Client, port: str, *, timeout_s: float = 60.0) -> Item:
    """Until the port's host says that it is active there. Retry: not within timeout_s."""
    deadline_s = time.monotonic() + timeout_s
    while (item := client.get(port)).status["state"] != "active":
        if time.monotonic() > deadline_s:
            raise Retry(f"{port} is {item.status['state']} on {item.spec.get('host')}: {item.status['reason']}")
        time.sleep(_POLL_S)
    return item


def _move(client: Client, port: str) -> dict[str, Any]:
    """Of a controller that is starting over there is no answer for a while; that is no reason to give up."""
    try:
        move: dict[str, Any] | None = client.get(port).status.get("move")
    except (Retry, ApiError) as error:
        if isinstance(error, ApiError) and error.status < 500:
            raise
        return {"ready": False, "destination": "", "state": "unknown", "absent": [], "waiting_for": [str(error)]}
    if move is None:
        raise Conflict(f"{port} is not moving any more: somebody else has ended its move", "destination")
    return move

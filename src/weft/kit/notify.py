"""Tells the supervisor how a process is, where there is one that asks (systemd's sd_notify). Never needs one."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def ready() -> None:
    """What this process is there for is done from now on."""
    _tell("READY=1")


def stopping() -> None:
    _tell("STOPPING=1")


def _tell(state: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as supervisor,
        suppress(OSError),  # one that is gone, or reads nothing, is no reason to wait or to end: guests depend on us
    ):
        supervisor.sendto(state.encode(), socket.MSG_DONTWAIT, address)

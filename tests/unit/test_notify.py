"""What a process tells its supervisor, and that it never waits for it."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import pytest

from weft.kit import notify


def test_a_supervisor_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.ready()
        assert supervisor.recv(100) == b"READY=1"


def test_one_that_is_gone_or_reads_nothing_is_no_reason_to_end_or_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notify.stopping()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        supervisor.bind(str(tmp_path / "notify"))
        with suppress(BlockingIOError):
            while True:  # till its queue is full
                other.sendto(b"x", socket.MSG_DONTWAIT, str(tmp_path / "notify"))
        notify.stopping()

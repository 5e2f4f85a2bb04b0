"""A real virtual machine moves between hosts in different subnets, while it is talked to."""

from __future__ import annotations

import os

from bench import migration


def test_a_virtual_machine_that_migrates_there_and_back_answers_every_ping_and_keeps_its_connection() -> None:
    by = migration.migrations(f"machine-{os.getpid()}", 2, [migration.WEFT])
    for seen in by[migration.WEFT]:
        assert seen.sent > 0
        assert seen.lost == 0, seen

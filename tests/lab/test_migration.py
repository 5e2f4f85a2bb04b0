"""A real virtual machine moves between hosts in different subnets, while it is talked to."""

from __future__ import annotations

import os

from bench import migration


def test_a_virtual_machine_that_migrates_there_and_back_answers_every_ping_and_keeps_its_connection() -> None:
    for seen in migration.migrations(f"machine-{os.getpid()}", 2):
        ours = seen[migration.WEFT]
        assert ours.sent > 0
        assert ours.lost == 0, seen

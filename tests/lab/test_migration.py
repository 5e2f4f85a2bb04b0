"""A real virtual machine moves between hosts in different subnets, while it is talked to."""

from __future__ import annotations

import os

from bench import migration

from weft.dataplane.ebpf.waiting import FRESH_S


def test_a_virtual_machine_that_migrates_there_and_back_keeps_its_connection_and_answers_every_ping_that_waits() -> (
    None
):
    by = migration.migrations(f"machine-{os.getpid()}", 2, [migration.WEFT])
    for seen in by[migration.WEFT]:
        assert seen.sent > 0
        # On a loaded machine a pause may be longer than what is kept for it.
        assert seen.lost_fresh == 0, seen
        if seen.before_ms + seen.pause_ms <= FRESH_S * 1000:
            assert seen.lost == 0, seen

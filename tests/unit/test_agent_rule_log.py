"""What rules log, in a file that stays within its bounds."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from structlog.testing import capture_logs

from weft.agent import rule_log
from weft.agent.conntrack import PROTOCOLS
from weft.agent.rule_log import RuleLog
from weft.contracts.connections import Logged
from weft.policy.rows import Direction


class StandingClock:
    """A clock that moves when the test says so."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the log waits for nothing")


SSH = Logged(
    "tenants/blue/ports/web-1", "tenants/blue/security-groups/base/rules/ssh", Direction.INGRESS, False, 6, "10.0.1.4",
    "192.0.2.7", 22, 40000, 60,
)  # fmt: skip


async def test_each_is_a_line_in_the_file_and_in_the_journal(tmp_path: Path) -> None:
    log = RuleLog(tmp_path / "rules.log", StandingClock(), lambda: 1234, PROTOCOLS)
    with capture_logs() as journal:
        await log.write([SSH, replace(SSH, allowed=True, protocol=50)])
    first, second = map(json.loads, (tmp_path / "rules.log").read_text().splitlines())
    assert first == {
        "time_ms": 1234, "rule": SSH.rule, "port": SSH.port, "direction": "ingress", "verdict": "denied",
        "protocol": "tcp", "local": "10.0.1.4", "remote": "192.0.2.7", "local_port": 22, "remote_port": 40000,
        "bytes": 60,
    }  # fmt: skip
    assert (second["verdict"], second["protocol"]) == ("allowed", "50")
    assert [(each["event"], each["rule"]) for each in journal] == [("rule", SSH.rule)] * 2


async def test_what_is_beyond_the_bound_is_counted_and_said_and_no_tenant_takes_all_of_it(tmp_path: Path) -> None:
    clock = StandingClock()
    log = RuleLog(tmp_path / "rules.log", clock, lambda: 0, PROTOCOLS)
    most = rule_log.AT_ONCE // 2 + 1  # what it leaves is as much, but for one
    await log.write([replace(SSH, port=f"tenants/blue/ports/{rank}") for rank in range(most + 7)])
    assert log.lost == 7
    await log.write([replace(SSH, port="tenants/red/ports/a")])
    assert log.lost == 7
    clock.time_s += 1
    await log.write([SSH] * (rule_log.PER_S // 2))  # what time has given back of both
    lines = [json.loads(line) for line in (tmp_path / "rules.log").read_text().splitlines()]
    assert len(lines) == most + 1 + rule_log.PER_S // 2
    assert lines[most]["port"] == "tenants/red/ports/a"
    assert (lines[most]["lost"], "lost" in lines[-1]) == (7, False)


def test_a_file_that_is_full_makes_room_for_another(tmp_path: Path) -> None:
    log = RuleLog(tmp_path / "rules.log", StandingClock(), lambda: 0, PROTOCOLS, file_bytes=1000)
    for _ in range(22):
        asyncio.run(log.write([SSH]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rules.log", "rules.log.1"]
    assert all(path.stat().st_size < 1300 for path in tmp_path.iterdir())


async def test_a_file_that_cannot_be_written_stops_nothing_and_is_told_of_once(tmp_path: Path) -> None:
    path = tmp_path / "none" / "rules.log"
    log = RuleLog(path, StandingClock(), lambda: 0, PROTOCOLS)
    with capture_logs() as journal:
        await log.write([SSH])
        await log.write([SSH])
        assert log.fault == "No such file or directory"
        path.parent.mkdir()
        await log.write([SSH])
    kept, again = "what rules log is not kept in a file", "what rules log is kept in a file again"
    assert [each["event"] for each in journal] == ["rule", kept, "rule", "rule", again]
    assert (journal[1]["reason"], journal[1]["path"]) == ("No such file or directory", str(path))
    assert (log.fault, len(path.read_text().splitlines())) == ("", 1)


async def test_a_file_that_was_renamed_or_removed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "rules.log"
    log = RuleLog(path, StandingClock(), lambda: 0, PROTOCOLS)
    await log.write([SSH])
    path.rename(tmp_path / "rules.log-20261128")
    await log.write([SSH])
    path.unlink()
    await log.write([SSH])
    assert len(path.read_text().splitlines()) == 1
    assert len((tmp_path / "rules.log-20261128").read_text().splitlines()) == 1

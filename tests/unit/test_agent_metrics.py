"""What the agent's /metrics says when something is amiss."""

from __future__ import annotations

from weft.agent import metrics
from weft.agent.reconcile import Progress, Trouble
from weft.contracts.dataplane import Failure
from weft.policy.rows import Record


def rendered(progress: Progress, usage: dict[str, tuple[int, int]]) -> list[str]:
    return metrics.render(progress, connected=True, usage=usage, counters={}, active_ports=0).decode().splitlines()


def test_a_full_map_is_a_metric_and_so_is_each_row_that_found_no_room() -> None:
    row = Record(5000, "10.0.0.9", "192.0.2.1", "02:00:00:00:00:09")
    full = Trouble(Failure(row.key, "records: full at 8 entries"), row, 1, None)
    lines = rendered(Progress(troubles={row.key: full}, failed=1), {"hosts": (1, 1), "records": (8, 8), "macs": (7, 8)})
    assert 'weft_dataplane_full{table="records"} 1.0' in lines
    assert 'weft_dataplane_full{table="macs"} 0.0' in lines
    assert not [line for line in lines if line.startswith('weft_dataplane_full{table="hosts"}')]
    assert "weft_agent_failures 1.0" in lines
    assert "weft_agent_failed_rows_total 1.0" in lines


def test_before_any_policy_came_the_revision_is_0_and_nothing_failed() -> None:
    lines = rendered(Progress(), {})
    assert "weft_agent_applied_revision 0.0" in lines
    assert "weft_agent_failures 0.0" in lines

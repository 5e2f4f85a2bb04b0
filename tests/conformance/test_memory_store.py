from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings

from conformance.store_suite import HISTORIES, History, StoreSuite
from weft.contracts.store import Store
from weft.store.memory import MemoryStore


class TestMemoryStore(StoreSuite):
    def open(self, log_commits: int = 100) -> Store:
        return MemoryStore(log_commits)

    # Here, not in the suite: hypothesis wants one test per class that runs it.
    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(commits=HISTORIES)
    def test_any_history_leaves_what_a_dict_would_hold(self, commits: History) -> None:
        asyncio.run(self.follow(commits))

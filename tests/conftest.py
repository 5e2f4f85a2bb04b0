"""What holds for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example may take is the machine's affair, which others load, too.
settings.register_profile("weft", deadline=None)
# `make check`: as many examples as fit into a minute; `make test` has them all (budget.py).
settings.register_profile("quick", deadline=None, max_examples=30)
settings.load_profile("weft")


# Tests of many processes on real networks, whose machine others load: what fails is asked once more. The first failure
# is printed whole and counted, for it is a fault all the same, of the test or of Weft.
_ASKED_AGAIN = ("benches", "etcd", "lab", "oidc", "security", "systemd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root there are no namespaces and no eBPF: those tests say so. With root nothing is skipped."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in _ASKED_AGAIN:
            item.add_marker(pytest.mark.flaky(reruns=1))
        if os.geteuid() != 0 and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root, network namespaces and eBPF"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why each was asked again: without this the plugin counts them and says no more."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"UNSTEADY: {report.nodeid}", sep="=", yellow=True)
        terminalreporter.line(report.longreprtext)

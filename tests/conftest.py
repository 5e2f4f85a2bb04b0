"""What holds for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# How long an example may take is the machine's affair, which others load, too.
settings.register_profile("weft", deadline=None)
# `make check`: as many examples as fit into a minute; `make test` has them all (budget.py).
settings.register_profile("quick", deadline=None, max_examples=30)
settings.load_profile("weft")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root there are no namespaces and no eBPF: those tests say so. With root nothing is skipped."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root, network namespaces and eBPF"))

"""One lab for all scenarios of a run. A scenario that kills or moves something puts it back before it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.lab.lab import Lab
from weft.lab.traffic import Responders

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All on one worker of pytest-xdist: they share the lab."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.xdist_group("lab"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    name = f"scenarios-{os.getpid()}"
    try:
        yield Lab.up(HERE / "lab.yaml", name=name)
    finally:
        Lab.down(name)


@pytest.fixture(scope="session")
def responders(lab: Lab) -> Iterator[Responders]:
    """Every guest says who it is, to whoever asks."""
    with Responders(lab.guests.values()) as running:
        yield running

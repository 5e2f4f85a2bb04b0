"""Controllers and agents one release apart: what the release before stored and fed, recorded, meets this one's code.

The other way round it is held that this release's frames of the same intent say all that the older ones did, and only
what an older agent passes over: more fields of rows. Recorded by tests/recorded/record.py with that release's sources.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unit.controller_world import World, world
from weft.feed.reflector import Reflector
from weft.model.names import Kind
from weft.store import backup
from weft.store.memory import MemoryStore
from weft.wire.knows import FIRST

RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "release-0.1.json").read_text())
HOSTS = sorted(RECORDED["feeds"])


async def restored() -> MemoryStore:
    store = MemoryStore(schema=1)
    await store.commit({}, {name: value.encode() for name, value in RECORDED["objects"].items()}, [], schema=1)
    return store


async def fed(it: World, host: str) -> list[str]:
    found: list[str] = []
    stream = it.service.follow(it.service.get(f"hosts/{host}").value.name, None, knows=FIRST)
    async for chunk in stream:
        found += chunk.decode().splitlines()
        if '"synced":true' in found[-1]:
            break
    await stream.aclose()
    return found


def rows(lines: list[str]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By scope and table."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for frame in map(json.loads, lines):
        for table, listed in frame.get("puts", {}).items():
            found.setdefault((frame["scope"], table), []).extend(listed)
    return found


async def test_what_the_release_before_stored_is_served_and_still_valid() -> None:
    async with world(await restored(), base=False) as it:
        for name in RECORDED["objects"]:
            spec = (await it.client.get(name)).spec
            assert (await it.client.put(name, spec)).spec == spec
        assert it.service.count(Kind.PORT) == sum("/ports/" in name for name in RECORDED["objects"])


async def test_a_backup_of_what_the_release_before_stored_says_the_same() -> None:
    lines: list[bytes] = []
    await backup.export(await restored(), lines.append)
    values, version = backup.read(lines)
    assert (values, version) == ({name: value.encode() for name, value in RECORDED["objects"].items()}, 1)


@pytest.mark.parametrize("host", HOSTS)
def test_an_agent_takes_the_frames_of_a_controller_of_the_release_before(host: str) -> None:
    reflector = Reflector(host=f"hosts/{host}")
    reflector.connected()
    for line in RECORDED["feeds"][host]:
        reflector.feed(line.encode())
    assert reflector.revision == 1
    assert len(reflector.tables) == sum(map(len, rows(RECORDED["feeds"][host]).values()))


@pytest.mark.parametrize("host", HOSTS)
async def test_an_agent_of_the_release_before_finds_in_our_frames_all_that_it_knows(host: str) -> None:
    older = RECORDED["feeds"][host]
    async with world(await restored(), base=False) as it:
        ours = await fed(it, host)
    was, now = rows(older), rows(ours)
    assert was.keys() == now.keys()
    for (scope, table), listed in was.items():
        assert len(now[scope, table]) == len(listed)
        left = list(now[scope, table])
        for row in listed:
            same = [each for each in left if row.items() <= each.items()]
            assert same, f"{table} of {scope} no longer has {row}"
            left.remove(same[0])
    shapes = {frozenset(json.loads(line)) for line in older}
    assert {frozenset(json.loads(line)) for line in ours} <= shapes

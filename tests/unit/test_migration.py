"""Stores of the release before are taken up, and given back; what its controllers cannot read is not written while they
are there. The recorded files were made by that release's own code (tests/recorded).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

from conformance.store_suite import Closing
from recorded import stores as recorded
from unit.controller_world import BASE, port, world
from weft.apps.cli import main
from weft.cli.session import ExitCode
from weft.client import ApiError
from weft.contracts.store import SCHEMA, Snapshot, Store
from weft.controller.beside import is_intent
from weft.kit.errors import Rejected
from weft.model import shares
from weft.model.names import PATTERNS, Name
from weft.store import backup, release_1
from weft.store.memory import MemoryStore
from weft.store.migration import migrate
from weft.store.schema import SCHEMA as SCHEMAS
from weft.store.sqlite import SqliteStore
from weft.store.versioned import Versioned
from weft.wire.objects import SPECS, encode_spec, load

T = TypeVar("T")

WEB = "tenants/blue/routing-domains/prod/virtual-subnets/web"

#: A port that moves, where addresses are rewritten: its PA at the other host is what version 1 has no word for.
REWRITTEN = [
    ("tenants/blue/routing-domains/prod/virtual-subnets/rw", {"prefixes": ["10.9.0.0/24"], "rule": "rewrite"}),
    ("tenants/blue/ports/moving", {"virtual_subnet": "prod/rw", "host": "h1"}),
]
MOVES = ("tenants/blue/ports/moving", {"virtual_subnet": "prod/rw", "host": "h1", "destination": "h2"})


def at(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        store = SqliteStore(path)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def values_of(snapshot: Snapshot) -> dict[str, bytes]:
    return {name: stored.value for name, stored in snapshot.objects.items()}


@pytest.mark.parametrize("name", recorded.STORES)
async def test_a_file_of_the_release_before_is_taken_up_and_all_in_it_served(name: str, tmp_path: Path) -> None:
    store = SqliteStore(recorded.unpack(name, tmp_path))
    before = await store.snapshot()
    assert before.schema == 1
    done = await migrate(store, SCHEMA)
    assert (done.before, done.after, store.schema) == (1, SCHEMA, SCHEMA)
    async with world(store, base=False, keep=True) as it:
        for each in filter(is_intent, before.objects):
            spec = (await it.client.get(each)).spec
            assert (await it.client.put(each, spec)).spec == spec
        groups = {item.name async for item in it.client.list("tenants/-/security-groups")}
        assert {f"tenants/{tenant}/security-groups/default" for tenant in ("blue", "red")} <= groups
        assert (await it.client.get(WEB)).spec["dhcp"]["lease_s"] == 86400
    await store.close()
    assert at_rest(recorded_file(tmp_path, name)) == SCHEMA


def recorded_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.db"


def at_rest(path: Path) -> int:
    """user_version: bytes 60..63 of a SQLite file."""
    return int.from_bytes(path.read_bytes()[60:64], "big")


@pytest.mark.parametrize("name", recorded.STORES)
def test_what_was_taken_up_is_given_back_as_it_was(name: str, tmp_path: Path) -> None:
    file = recorded.unpack(name, tmp_path)
    before = values_of(at(file, lambda store: store.snapshot()))
    at(file, lambda store: migrate(store, SCHEMA))
    at(file, lambda store: migrate(store, 1))
    after = at(file, lambda store: store.snapshot())
    assert after.schema == 1
    for each, value in before.items():
        if each in (WEB, WEB.replace("blue", "red")):
            continue  # the early ones say now what they meant
        assert after.objects[each].value == value
    assert all("/security-groups/default" in each for each in after.objects.keys() - before.keys())


def test_the_command_line_takes_a_store_forward_and_back_and_says_what_it_did(tmp_path: Path) -> None:
    file = recorded.unpack("early-0.1", tmp_path)
    run = CliRunner().invoke
    tried = run(main, ["store", "migrate", "--store", str(file), "--dry-run"])
    assert "schema version 1 -> 2" in tried.output
    assert at_rest(file) == 1
    assert run(main, ["store", "migrate", "--store", str(file)]).exit_code == ExitCode.DONE
    assert at_rest(file) == 2
    back = run(main, ["store", "migrate", "--store", str(file), "--to", "1"])
    assert (back.exit_code, at_rest(file)) == (ExitCode.DONE, 1)
    assert (
        "it has schema version 1 already" in run(main, ["store", "migrate", "--store", str(file), "--to", "1"]).stderr
    )
    again = json.loads(run(main, ["store", "migrate", "--store", str(file), "-o", "json", "--dry-run"]).stdout)
    assert (again["before"], again["after"], again["dropped"], again["dry_run"]) == (1, 2, [], True)
    assert "there is nothing in the store" not in back.stderr
    at(tmp_path / "other.db", lambda store: store.snapshot())  # as an etcd has one at any prefix
    other = run(main, ["store", "migrate", "--store", str(tmp_path / "other.db")])
    assert f"there is nothing in the store at {tmp_path / 'other.db'}: is that the one" in other.stderr
    beyond = run(main, ["store", "migrate", "--store", str(file), "--to", "9"])
    assert beyond.exit_code == ExitCode.REFUSED
    assert "there is no schema version 9 to be written; this Weft writes 1..2" in beyond.output


# Stops for ever inside the transaction, once the version and all objects are written.
HALF_WAY = """
import asyncio, sys, time
from pathlib import Path
from weft.store.migration import migrate
from weft.store.sqlite import SqliteStore

class Stuck(SqliteStore):
    def _surplus(self, *words):
        print("half way", flush=True)
        time.sleep(600)

asyncio.run(migrate(Stuck(Path(sys.argv[1])), 2))
"""


def test_a_migration_that_is_killed_half_way_has_changed_nothing_and_is_done_by_the_next_start(tmp_path: Path) -> None:
    file = recorded.unpack("early-0.1", tmp_path)
    before = at(file, lambda store: store.snapshot())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HALF_WAY, str(file)], stdout=subprocess.PIPE, text=True, env=environment
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "half way\n"
        killed.send_signal(signal.SIGKILL)
    assert at(file, lambda store: store.snapshot()) == before
    at(file, lambda store: migrate(store, SCHEMA))
    assert at(file, lambda store: store.snapshot()).schema == SCHEMA


@pytest.mark.parametrize(("version", "complaint"), [(3, "of a newer Weft; this one knows none after 2"), (0, "no way")])
async def test_a_store_of_a_schema_that_is_not_known_is_refused_and_left_alone(version: int, complaint: str) -> None:
    store = MemoryStore(schema=version)
    with pytest.raises(Rejected, match=complaint):
        await Versioned(store).snapshot()
    with pytest.raises(Rejected, match=complaint):
        await migrate(store, SCHEMA)
    assert (store.schema, await store.head()) == (version, 0)


async def test_two_releases_serve_one_store_and_what_the_older_cannot_read_waits_for_the_end_of_the_upgrade() -> None:
    store = MemoryStore(shared=True, schema=1)
    async with world(store, keep=True) as it:
        assert (it.service.schema, (await it.client.health())["schema"]) == (1, 1)
        await it.client.apply([*REWRITTEN, port(1)])
        for dry in (True, False):
            with pytest.raises(ApiError) as refused:
                await it.client.apply([MOVES], dry_run=dry)
            assert refused.value.status == 422
            assert "tenants/blue/ports/moving: spec.rewrites[1].destination = true" in str(refused.value)
            assert "weft store migrate" in str(refused.value)
        stored = values_of(await store.snapshot())
        for name, value in stored.items():  # the release before reads every word of it
            assert release_1.back(name, value) == (value, ())
        # The upgrade is over: nobody is started again, and nobody is asked to.
        await migrate(store, SCHEMA)
        following = asyncio.ensure_future(it.service.run())
        await it.client.apply([MOVES])
        assert it.service.schema == SCHEMA
        assert (await it.client.get("tenants/blue/ports/moving")).spec["rewrites"][1]["destination"] is True
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    async with world(store, base=False) as later:
        assert (await later.client.get("tenants/blue/ports/moving")).spec["rewrites"][1]["destination"] is True


async def test_an_upgrade_stops_no_tenant_that_has_more_than_is_usual_until_more_can_be_allowed() -> None:
    def trunk(vlan: int, **more: str) -> tuple[str, dict[str, Any]]:
        spec = {"virtual_subnet": "prod/web", "trunk": {"parent": "p1", "vlan": vlan}, **more}
        return f"tenants/blue/ports/sub-{vlan}", spec

    store = MemoryStore(shared=True, schema=1)
    async with world(store) as it:
        await it.client.apply([(WEB, {"prefixes": ["10.0.0.0/16"]}), port(1)])
        most = shares.USUAL[shares.Share.SUBPORTS]
        await it.client.apply([trunk(vlan) for vlan in range(1, most + 2)])
        await it.client.apply([trunk(most + 2)])
        await migrate(store, SCHEMA)
        following = asyncio.ensure_future(it.service.run())
        await it.client.apply([trunk(1, admin_state="down")])  # what is there may change
        with pytest.raises(ApiError, match=r"1,027 sub-ports on hosts/h1; 1,024 are the most.*limits\.subports"):
            await it.client.apply([trunk(most + 3)])
        await it.client.apply([("tenants/blue", {"limits": {"subports": most + 3}}), trunk(most + 3)])
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_going_back_names_what_would_be_lost_and_drops_it_only_when_told() -> None:
    store = MemoryStore(shared=True)
    async with world(store, keep=True) as it:
        await it.client.apply([*REWRITTEN, port(1)])
        await it.client.apply([MOVES])
        with pytest.raises(Rejected, match=r"ports/moving: spec\.rewrites\[1\]\.destination = true"):
            await migrate(store, 1)
        assert store.schema == SCHEMA
        done = await migrate(store, 1, drop=True)
        assert [str(each) for each in done.dropped] == [
            "tenants/blue/ports/moving: spec.rewrites[1].destination = true"
        ]
        # Those who are running go on, in the older version's bounds; what is left is valid.
        following = asyncio.ensure_future(it.service.run())
        await it.client.apply([port(2)])
        assert it.service.schema == 1
        spec = (await it.client.get("tenants/blue/ports/moving")).spec
        assert [each.get("destination") for each in spec["rewrites"]] == [None]
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert all(release_1.back(name, value)[1] == () for name, value in values_of(await store.snapshot()).items())


async def test_a_write_that_was_judged_before_the_migration_is_judged_again() -> None:
    store = MemoryStore(shared=True, schema=1)
    await store.commit({}, recorded.values(), [], schema=1)
    async with world(store, base=False, keep=True) as it:
        commit, version = store.commit, store.schema
        went_over = False

        async def meanwhile(*words: object) -> int:
            nonlocal went_over
            if not went_over:
                went_over = True
                await migrate(store, SCHEMA)
            return await commit(*words)

        store.commit = meanwhile
        made = await it.client.put("tenants/blue/ports/late", {"virtual_subnet": "prod/web", "host": "h1"})
        assert (version, store.schema) == (1, SCHEMA)
        assert made.spec["host"] == "hosts/h1"


async def test_a_backup_of_the_release_before_is_taken_and_one_for_it_is_written() -> None:
    lines = (recorded.HERE / "release-0.1.ndjson").read_bytes().splitlines(keepends=True)
    async with aclosing(Closing(MemoryStore())) as it:
        await backup.restore(it.store, lines)
        out: list[bytes] = []
        await backup.export(it.store, out.append, 1)
    assert backup.read(out) == backup.read(lines)


def test_whatever_has_come_into_the_model_since_is_held_by_its_own_version_only() -> None:
    """A kind or a field that is added is not in what version 1 holds, so nobody has to think of it there."""
    for kind, spec in SPECS.items():
        known = release_1._HELD.get(kind.value, {})
        for field in spec.__struct_fields__:
            name = PATTERNS[kind].lower()
            left, lost = release_1.back(name, b'{"%s":null}' % field.encode())
            if not known:
                assert (left, [str(each) for each in lost]) == (None, [f"{name} (a {kind.value})"])
            elif field not in known:
                assert (left, [each.field for each in lost]) == (b"{}", [f"spec.{field}"])


def test_a_word_that_the_release_before_does_not_know_is_not_dropped_but_named() -> None:
    left, lost = release_1.back(WEB, b'{"prefixes":["10.0.0.0/24"],"rule":"by-pigeon"}')
    assert left is not None
    assert [(each.field, each.may_go) for each in lost] == [("spec.rule", False)]
    with pytest.raises(Rejected, match=r"cannot say: .*by-pigeon"):
        SCHEMAS.given({WEB: b'{"rule":"by-pigeon"}'}, 1, drop=True)


async def test_what_the_release_before_could_say_is_said_so_that_it_reads_it() -> None:
    """What is always written now, and was not then, would have every object of its kind refused."""
    async with world(MemoryStore(schema=1), base=False) as it:
        for name, value in sorted(recorded.values().items()):
            if is_intent(name):
                again = encode_spec(load(Name(name), release_1.forward(name, value)))
                assert release_1.back(name, again)[1] == (), name
        await it.client.apply([*BASE, port(1)])  # made anew, by this release

"""weft store export and import: what is written is what was there, whole or not at all, and across schema versions."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner

from unit.controller_world import port, world
from weft.apps.cli import main
from weft.cli.session import ExitCode
from weft.contracts.store import Store
from weft.kit.errors import Rejected
from weft.store import backup
from weft.store.memory import MemoryStore
from weft.store.schema import Schema, Step, Unsayable
from weft.store.sqlite import SqliteStore

T = TypeVar("T")


def at(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        store = SqliteStore(path)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def exported(store: Store, version: int | None = None, schema: Schema | None = None) -> bytes:
    out = io.BytesIO()
    await backup.export(store, out.write, version, schema or backup.SCHEMA)
    return out.getvalue()


def lines(raw: bytes) -> list[bytes]:
    return raw.splitlines(keepends=True)


async def test_what_was_exported_is_there_after_the_import_byte_for_byte() -> None:
    one, other = MemoryStore(), MemoryStore()
    values = {
        "a": b'{"x":1}',
        "b": b'{ "x" : "\xc3\xa4" }',
        "c": b"\x00\xff",
        "d": b"",
        "e": b'{"x":"1\\n"}',
        "f": b"[1,\n2]",
    }
    await one.commit({}, values, [])
    await one.commit({}, {"g": b"null"}, ["d"])
    await backup.restore(other, lines(await exported(one)))
    there = (await other.snapshot()).objects
    assert {name: stored.value for name, stored in there.items()} == {
        name: stored.value for name, stored in (await one.snapshot()).objects.items()
    }
    assert {stored.revision for stored in there.values()} == {1}


async def test_a_controller_serves_from_an_import_what_it_served_before() -> None:
    store = MemoryStore()
    async with world(store, keep=True) as it:
        await it.client.apply([port(1), port(2, "h2")])
        before = {item.name: item.spec async for item in it.client.list("tenants/-/ports")}
    moved = MemoryStore()
    await backup.restore(moved, lines(await exported(store)))
    async with world(moved, base=False) as it:
        assert {item.name: item.spec async for item in it.client.list("tenants/-/ports")} == before


async def test_half_a_backup_is_none() -> None:
    store = MemoryStore()
    await store.commit({}, {f"n{n}": b"%d" % n for n in range(5)}, [])
    whole = lines(await exported(store))
    for damaged in (
        [],
        whole[:1],
        whole[:-1],
        [*whole[:2], *whole[3:]],
        [whole[0], whole[1].replace(b"n0", b"nX"), *whole[2:]],
        [b'{"format":"another","schema":1,"identity":"","revision":1}\n', *whole[1:]],
        [whole[0], b"x\n", *whole[1:]],
    ):
        empty = MemoryStore()
        with pytest.raises(Rejected):
            await backup.restore(empty, damaged)
        assert (await empty.snapshot()).revision == 0


async def test_a_store_that_is_not_empty_is_left_alone() -> None:
    store = MemoryStore()
    await store.commit({}, {"a": b"1"}, [])
    with pytest.raises(Rejected, match="is not empty"):
        await backup.restore(store, lines(await exported(store)))


def _twice(_name: str, value: bytes) -> bytes:
    return value + value


def _half(name: str, value: bytes) -> tuple[bytes | None, tuple[Unsayable, ...]]:
    if len(value) % 2:
        return None, (Unsayable(name, "", "odd one", may_go=True),)
    return value[: len(value) // 2], ()


TWO = Schema(2, {1: Step(_twice, _half)})


async def test_a_release_reads_what_the_one_before_wrote_and_writes_what_it_reads() -> None:
    old, new, back = MemoryStore(schema=1), MemoryStore(), MemoryStore(schema=1)
    await old.commit({}, {"a": b"1", "b": b"22"}, [], schema=1)
    await backup.restore(new, lines(await exported(old, schema=Schema(1))), TWO)
    assert {name: stored.value for name, stored in (await new.snapshot()).objects.items()} == {"a": b"11", "b": b"2222"}
    older = lines(await exported(new, 1, TWO))
    await backup.restore(back, older, Schema(1))
    assert (await back.snapshot()).objects == (await old.snapshot()).objects
    with pytest.raises(Rejected, match="--schema 1"):
        await backup.restore(MemoryStore(), lines(await exported(new, 2, TWO)), Schema(1))
    await new.commit({}, {"c": b"odd"}, [])
    with pytest.raises(Rejected, match=r"schema version 1 cannot say: c \(a odd one\)"):
        await exported(new, 1, TWO)
    out = io.BytesIO()
    await backup.export(new, out.write, 1, TWO, drop=True)
    assert dict(backup.read(lines(out.getvalue()))[0]) == {"a": b"1", "b": b"22"}
    with pytest.raises(Rejected, match="no way"):
        await backup.restore(MemoryStore(), lines(await exported(old, schema=Schema(1))), Schema(2))


def test_the_command_line_moves_a_store_to_another_file(tmp_path: Path) -> None:
    at(tmp_path / "a.db", lambda store: store.commit({}, {"tenants/blue": b'{"description":""}'}, []))
    run = CliRunner().invoke
    copy = str(tmp_path / "copy.ndjson")
    assert run(main, ["store", "export", "--store", str(tmp_path / "a.db"), copy]).exit_code == ExitCode.DONE
    assert (tmp_path / "copy.ndjson").stat().st_mode & 0o777 == 0o600
    assert run(main, ["store", "import", "--store", str(tmp_path / "b.db"), copy]).exit_code == ExitCode.DONE
    again = run(main, ["store", "import", "--store", str(tmp_path / "b.db"), copy])
    assert again.exit_code == ExitCode.REFUSED
    assert "is not empty" in again.output
    there = at(tmp_path / "b.db", lambda store: store.snapshot()).objects
    assert {name: stored.value for name, stored in there.items()} == {"tenants/blue": b'{"description":""}'}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("export", "--store", "DIR/none.db"), ExitCode.NOT_FOUND, "there is no store at DIR/none.db"),
        (("migrate", "--store", "DIR/none.db"), ExitCode.NOT_FOUND, "there is no store at DIR/none.db"),
        (
            ("import", "--store", "DIR/new.db", "DIR/none"),
            ExitCode.REFUSED,
            "the backup DIR/none cannot be read: No such",
        ),
        (
            ("export", "--store", "DIR/it.db", "DIR/none/copy"),
            ExitCode.REFUSED,
            "DIR/none/copy cannot be written: No such",
        ),
    ],
)
def test_a_file_that_is_not_there_is_said_and_none_is_made(
    tmp_path: Path, words: tuple[str, ...], code: ExitCode, message: str
) -> None:
    asyncio.run(SqliteStore(tmp_path / "it.db").close())
    there = set(tmp_path.iterdir())
    result = CliRunner().invoke(main, ["store", *(each.replace("DIR", str(tmp_path)) for each in words)])
    assert (result.exit_code, message.replace("DIR", str(tmp_path)) in result.stderr) == (code, True), result.output
    assert set(tmp_path.iterdir()) == there

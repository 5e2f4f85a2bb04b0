"""What every store must do. A test module subclasses StoreSuite and says how its store is opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeAlias

import pytest
from hypothesis import strategies as st

from polling import PATIENCE_S
from weft.contracts.store import (
    Batch,
    Compacted,
    Guard,
    OtherSchema,
    Overtaken,
    PreconditionFailed,
    Snapshot,
    Store,
    Stored,
)
from weft.kit.errors import Retry

_NAMES = st.sampled_from(["a", "b", "tenants/blue", "tenants/blue/ports/web-1"])

#: (preconditions, puts, deletes) of one commit after the other.
History: TypeAlias = list[tuple[dict[str, int], dict[str, bytes], set[str]]]
HISTORIES = st.lists(
    st.tuples(
        st.dictionaries(_NAMES, st.integers(0, 4), max_size=2),
        st.dictionaries(_NAMES, st.binary(max_size=8), max_size=3),
        st.sets(_NAMES, max_size=2),
    ),
    max_size=12,
)


async def take(batches: AsyncIterator[Batch], count: int) -> list[Batch]:
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(batches) for _ in range(count)]


class StoreSuite:
    """open(log_commits) gives an empty store. Each test closes what it opens."""

    def open(self, log_commits: int = 100) -> Store:
        raise NotImplementedError

    async def test_an_empty_store_is_at_zero(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            assert await it.store.snapshot() == Snapshot({}, 0)

    async def test_a_store_is_told_from_every_other_by_its_identity(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            first = await it.store.snapshot()
            await it.store.commit({}, {"a": b"1"}, [])
            assert first.identity
            assert (await it.store.snapshot()).identity == first.identity
        async with aclosing(Closing(self.open())) as it:
            assert (await it.store.snapshot()).identity != first.identity

    async def test_a_commit_is_in_the_snapshot_with_its_revision(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            assert await it.store.commit({}, {"a": b"1", "b": b"2"}, []) == 1
            assert await it.store.commit({}, {"b": b"3"}, ["a"]) == 2
            assert await it.store.snapshot() == Snapshot({"b": Stored(b"3", 2)}, 2)

    async def test_deleting_what_is_absent_is_no_fault(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            assert await it.store.commit({}, {}, ["a"]) == 1

    async def test_a_name_both_deleted_and_put_is_put(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            await it.store.commit({}, {"a": b"1"}, ["a"])
            assert (await it.store.snapshot()).objects == {"a": Stored(b"1", 1)}

    @pytest.mark.parametrize(("name", "expected", "actual"), [("a", 2, 1), ("a", 0, 1), ("b", 1, 0)])
    async def test_a_failed_precondition_writes_nothing(self, name: str, expected: int, actual: int) -> None:
        async with aclosing(Closing(self.open())) as it:
            await it.store.commit({"a": 0}, {"a": b"1"}, [])
            before = await it.store.snapshot()
            with pytest.raises(PreconditionFailed) as failed:
                await it.store.commit({name: expected}, {"a": b"2", "c": b"3"}, [])
            assert (failed.value.name, failed.value.expected, failed.value.actual) == (name, expected, actual)
            assert await it.store.snapshot() == before
            assert await it.store.commit({"a": 1, "b": 0}, {"a": b"2"}, []) == 2

    @pytest.mark.parametrize("mark", ["a mark", "put", "deleted"])
    async def test_a_commit_is_overtaken_by_a_later_one_that_wrote_what_it_was_judged_against(self, mark: str) -> None:
        async with aclosing(Closing(self.open())) as it:
            await it.store.commit({}, {"deleted": b"1"}, [])
            await it.store.commit({}, {"put": b"1"}, ["deleted"], Guard(1, (), {"a mark"}))
            before = await it.store.snapshot()
            with pytest.raises(Overtaken):
                await it.store.commit({}, {"b": b"1"}, [], Guard(1, {"another", mark}, ()))
            assert await it.store.snapshot() == before
            assert await it.store.commit({}, {"b": b"1"}, [], Guard(2, {mark}, ())) == 3

    async def test_a_commit_is_not_overtaken_by_what_it_was_not_judged_against(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            await it.store.commit({}, {"a": b"1"}, [], Guard(0, {"x"}, {"y"}))
            assert await it.store.commit({}, {"b": b"1"}, [], Guard(0, {"x", "b"}, {"y"})) == 2

    async def test_a_store_goes_over_to_another_schema_in_one_commit_that_overtakes_everybody(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            await it.store.commit({}, {"a": b"1", "b": b"1"}, [])
            with pytest.raises(Overtaken):
                await it.store.migrate(0, 1, {"a": b"x"}, [])
            assert await it.store.migrate(1, 1, {"a": b"2"}, ["b"]) == 2
            assert it.store.schema == 1
            assert await it.store.snapshot() == Snapshot({"a": Stored(b"2", 2)}, 2, schema=1)
            with pytest.raises(OtherSchema):
                await it.store.commit({}, {"c": b"1"}, [])
            with pytest.raises(Overtaken):
                await it.store.commit({}, {"c": b"1"}, [], Guard(1, {"of nobody"}), 1)
            assert await it.store.commit({"a": 2}, {"c": b"1"}, [], Guard(2, {"a"}), 1) == 3
            assert await it.store.migrate(3, 2, {"c": b"2"}, []) == 4
            assert await it.store.commit({"c": 4}, {"c": b"3"}, []) == 5
            assert await it.store.snapshot() == Snapshot({"a": Stored(b"2", 2), "c": Stored(b"3", 5)}, 5)

    async def test_a_watcher_sees_the_store_go_over_and_in_which_schema_each_commit_is(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            await it.store.commit({}, {"a": b"1"}, [])
            async with aclosing(it.store.watch(1)) as batches:
                coming = asyncio.ensure_future(take(batches, 2))
                await asyncio.sleep(0)
                await it.store.migrate(1, 1, {"a": b"2"}, [])
                await it.store.commit({}, {"a": b"3"}, [], None, 1)
                assert [(b.revision, b.schema, dict(b.puts)) for b in await coming] == [
                    (2, 1, {"a": b"2"}),
                    (3, 1, {"a": b"3"}),
                ]

    async def test_of_concurrent_commits_with_one_guard_one_wins(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            outcomes = await asyncio.gather(
                *(it.store.commit({}, {f"n{i}": b""}, [], Guard(0, {"m"}, {"m"})) for i in range(10)),
                return_exceptions=True,
            )
            assert [outcome for outcome in outcomes if not isinstance(outcome, Overtaken)] == [1]

    async def test_of_concurrent_commits_on_one_precondition_one_wins(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            outcomes = await asyncio.gather(
                *(it.store.commit({"a": 0}, {"a": b"%d" % i}, []) for i in range(20)), return_exceptions=True
            )
            assert [outcome for outcome in outcomes if not isinstance(outcome, PreconditionFailed)] == [1]

    async def test_concurrent_commits_get_revisions_of_their_own(self) -> None:
        async with aclosing(Closing(self.open(200))) as it:
            revisions = await asyncio.gather(*(it.store.commit({}, {f"n{i}": b""}, []) for i in range(150)))
            assert sorted(revisions) == list(range(1, 151))
            objects = (await it.store.snapshot()).objects
            assert {f"n{i}": revision for i, revision in enumerate(revisions)} == {
                name: stored.revision for name, stored in objects.items()
            }

    async def test_a_watcher_sees_every_later_commit_whole_once_in_order(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            await it.store.commit({}, {"a": b"1"}, [])
            await it.store.commit({}, {"b": b"2", "c": b"3"}, ["a"])
            async with aclosing(it.store.watch(1)) as batches:
                (past,) = await take(batches, 1)
                assert (past.revision, dict(past.puts), list(past.deletes)) == (2, {"b": b"2", "c": b"3"}, ["a"])
                coming = asyncio.ensure_future(take(batches, 2))
                await it.store.commit({}, {"d": b"4"}, [])
                await it.store.commit({}, {}, ["b"])
                assert [(b.revision, dict(b.puts), list(b.deletes)) for b in await coming] == [
                    (3, {"d": b"4"}, []),
                    (4, {}, ["b"]),
                ]

    async def test_a_watch_from_before_the_log_is_compacted(self) -> None:
        async with aclosing(Closing(self.open(3))) as it:
            for i in range(5):
                await it.store.commit({}, {"a": b"%d" % i}, [])
            async with aclosing(it.store.watch(2)) as batches:
                assert [batch.revision for batch in await take(batches, 3)] == [3, 4, 5]
            async with aclosing(it.store.watch(1)) as batches:
                with pytest.raises(Compacted):
                    await anext(batches)

    async def test_a_watch_from_a_revision_that_has_not_been_is_compacted(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            await it.store.commit({}, {"a": b"1"}, [])
            async with aclosing(it.store.watch(2)) as batches:
                with pytest.raises(Compacted):
                    await anext(batches)

    async def test_a_watcher_that_the_log_overtakes_is_told_and_never_skips(self) -> None:
        async with aclosing(Closing(self.open(2))) as it, aclosing(it.store.watch(0)) as batches:
            await it.store.commit({}, {"a": b"1"}, [])
            assert [batch.revision for batch in await take(batches, 1)] == [1]
            for _ in range(5):
                await it.store.commit({}, {"a": b"2"}, [])
            with pytest.raises(Compacted):
                await take(batches, 1)

    async def test_closing_ends_the_watchers_and_refuses_the_rest(self) -> None:
        store = self.open()
        await store.commit({}, {"a": b"1"}, [])
        watching = asyncio.ensure_future(_drain(store, 1))
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await watching == []
        with pytest.raises(Retry):
            await store.commit({}, {"a": b"2"}, [])
        with pytest.raises(Retry):
            await store.snapshot()

    async def test_a_cancelled_commit_is_whole_or_absent(self) -> None:
        async with aclosing(Closing(self.open())) as it:
            writing = asyncio.ensure_future(it.store.commit({}, {"a": b"1", "b": b"1"}, []))
            await asyncio.sleep(0)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            assert set((await it.store.snapshot()).objects) in (set(), {"a", "b"})

    async def follow(self, commits: History) -> None:
        """The body of test_any_history_leaves_what_a_dict_would_hold."""
        model: dict[str, Stored] = {}
        async with aclosing(Closing(self.open())) as it:
            revision = 0
            for preconditions, puts, deletes in commits:
                holds = all((model[n].revision if n in model else 0) == r for n, r in preconditions.items())
                try:
                    assert await it.store.commit(preconditions, puts, deletes) == revision + 1
                except PreconditionFailed:
                    assert not holds
                    continue
                assert holds
                revision += 1
                for name in deletes:
                    model.pop(name, None)
                model.update({name: Stored(value, revision) for name, value in puts.items()})
            assert await it.store.snapshot() == Snapshot(model, revision)
            async with aclosing(it.store.watch(0)) as batches:
                replayed: dict[str, Stored] = {}
                for batch in await take(batches, revision):
                    for name in batch.deletes:
                        replayed.pop(name, None)
                    replayed.update({name: Stored(value, batch.revision) for name, value in batch.puts.items()})
            assert replayed == model


async def _drain(store: Store, revision: int) -> list[Batch]:
    return [batch async for batch in store.watch(revision)]


class Closing:
    """A store as something that aclosing() can close."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def aclose(self) -> None:
        await self.store.close()

"""The store contract on a real cluster of three etcd nodes, and what only an etcd store can get wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings

from conformance.store_suite import HISTORIES, Closing, History, StoreSuite, take
from etcd_nodes import Cluster, cluster
from polling import PATIENCE_S
from weft.contracts.store import Compacted, Guard, Overtaken, PreconditionFailed, Store, Stored
from weft.kit.errors import Retry
from weft.store.etcd import EtcdStore
from weft.store.etcd_client import Address, Range, end_of


def noise_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 -- no secret: bytes that do not compress


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.mark.xdist_group("etcd")
class TestEtcdStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def _cluster(self, nodes: Cluster) -> None:
        self.nodes = nodes

    def open(self, log_commits: int = 100) -> Store:
        return EtcdStore(Address(self.nodes.endpoints, self.nodes.fresh_prefix()), log_commits=log_commits)

    # Here, not in the suite: hypothesis wants one test per class that runs it.
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(commits=HISTORIES)
    def test_any_history_leaves_what_a_dict_would_hold(self, commits: History) -> None:
        asyncio.run(self.follow(commits))

    def two(self, log_commits: int = 100) -> tuple[EtcdStore, EtcdStore]:
        address = Address(self.nodes.endpoints, self.nodes.fresh_prefix())
        return EtcdStore(address, log_commits=log_commits), EtcdStore(address, log_commits=log_commits)

    async def test_two_stores_on_one_prefix_are_one_store(self) -> None:
        one, other = self.two()
        async with aclosing(Closing(one)), aclosing(Closing(other)):
            assert (await one.snapshot()).identity == (await other.snapshot()).identity
            async with aclosing(other.watch(0)) as batches:
                assert await one.commit({}, {"a": b"1"}, []) == 1
                assert await other.commit({"a": 1}, {"a": b"2"}, []) == 2
                with pytest.raises(PreconditionFailed):
                    await one.commit({"a": 1}, {"a": b"3"}, [])
                assert await one.commit({"a": 2}, {"a": b"3"}, ["b"]) == 3
                assert [dict(each.puts) for each in await take(batches, 3)] == [{"a": b"1"}, {"a": b"2"}, {"a": b"3"}]

    async def test_of_two_stores_that_are_judged_against_one_thing_one_is_overtaken(self) -> None:
        one, other = self.two()
        async with aclosing(Closing(one)), aclosing(Closing(other)):
            await asyncio.gather(one.snapshot(), other.snapshot())
            outcomes = await asyncio.gather(
                one.commit({}, {"a": b"1"}, [], Guard(0, {"pa:192.0.2.1"}, {"pa:192.0.2.1"})),
                other.commit({}, {"b": b"1"}, [], Guard(0, {"pa:192.0.2.1"}, {"pa:192.0.2.1"})),
                return_exceptions=True,
            )
            assert sorted(map(type, outcomes), key=str) == sorted([int, Overtaken], key=str)
            outcomes = await asyncio.gather(
                one.commit({}, {"c": b"1"}, [], Guard(1, {"x"}, {"x"})),
                other.commit({}, {"d": b"1"}, [], Guard(1, {"y"}, {"y"})),
            )
            assert sorted(outcomes) == [2, 3]

    async def test_writers_at_two_stores_make_one_history_without_a_gap(self) -> None:
        one, other = self.two(1000)
        async with aclosing(Closing(one)), aclosing(Closing(other)):

            async def write(store: Store, name: str) -> list[int]:
                return [await store.commit({}, {name: b"%d" % n}, []) for n in range(60)]

            mine, theirs = await asyncio.gather(write(one, "one"), write(other, "other"))
            assert sorted([*mine, *theirs]) == list(range(1, 121))
            async with aclosing(one.watch(0)) as batches, aclosing(other.watch(0)) as same:
                assert await take(batches, 120) == await take(same, 120)

    async def test_a_batch_far_beyond_etcds_limits_is_one_commit(self) -> None:
        one, other = self.two()
        noise = noise_of(1)
        puts = {f"tenants/blue/ports/p{n}": noise.randbytes(400) for n in range(10_000)}
        async with aclosing(Closing(one)), aclosing(Closing(other)):
            async with aclosing(other.watch(0)) as batches:
                seen = asyncio.ensure_future(take(batches, 1))
                assert await one.commit({}, puts, []) == 1
                assert (await seen)[0].puts == puts
            assert (await other.snapshot()).objects == {name: Stored(value, 1) for name, value in puts.items()}
            assert await other.commit({}, {}, list(puts)) == 2
            assert (await one.snapshot()).objects == {}

    async def test_a_large_batch_that_dies_before_its_entry_was_never_there(self) -> None:
        one, other = self.two()
        noise = noise_of(2)
        puts = {f"p{n}": noise.randbytes(400) for n in range(5_000)}
        async with aclosing(Closing(one)), aclosing(Closing(other)):
            await asyncio.gather(one.snapshot(), other.snapshot())
            writing = asyncio.ensure_future(one.commit({}, puts, []))
            parts = one.prefix + b"/parts/"
            async with asyncio.timeout(PATIENCE_S):
                while not (await other.etcd.range(Range(parts, end_of(parts), keys_only=True))).kvs:
                    pass
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            assert (await other.snapshot()).objects == {}
            assert await other.commit({}, {"a": b"1"}, []) == 1

    async def test_checkpoints_keep_all_that_was_ever_put_and_bound_what_etcd_holds(self) -> None:
        address = Address(self.nodes.endpoints, self.nodes.fresh_prefix())
        async with aclosing(Closing(EtcdStore(address, log_commits=5, checkpoint_bytes=10_000))) as it:
            store = it.store
            model: dict[str, Stored] = {}
            noise = noise_of(3)
            for n in range(60):
                value = noise.randbytes(1_000)
                revision = await store.commit({}, {f"n{n % 40}": value}, [f"n{(n + 7) % 40}"])
                model.pop(f"n{(n + 7) % 40}", None)
                model[f"n{n % 40}"] = Stored(value, revision)
            assert (await store.snapshot()).objects == model
            log = store.prefix + b"/log/"
            async with asyncio.timeout(PATIENCE_S):
                while len((await store.etcd.range(Range(log, end_of(log)))).kvs) > 30:
                    revision = await store.commit({}, {}, [])
        async with aclosing(Closing(EtcdStore(address, log_commits=5))) as it:
            snapshot = await it.store.snapshot()
            assert (snapshot.objects, snapshot.revision) == (model, revision)
            assert await it.store.commit({"n0": 0}, {"n0": b""}, []) == revision + 1 if "n0" not in model else True

    async def test_what_etcd_has_compacted_is_caught_up_with(self) -> None:
        one, other = self.two()
        async with aclosing(Closing(one)), aclosing(Closing(other)):
            await other.snapshot()
            async with aclosing(other.watch(0)) as batches:
                for n in range(5):
                    await one.commit({}, {"a": b"%d" % n}, [])
                now = (await one.etcd.range(Range(one.prefix + b"/head"))).header.revision
                await one.etcd.compact(now)
                await one.commit({}, {"a": b"last"}, [])
                assert [each.revision for each in await take(batches, 6)] == [1, 2, 3, 4, 5, 6]

    async def test_a_watch_that_begins_before_what_etcd_has_compacted_begins_again_after_it(self) -> None:
        one, other = self.two()
        async with aclosing(Closing(one)), aclosing(Closing(other)):
            await other.snapshot()
            await one.commit({}, {"a": b"1"}, [])
            assert await other.head() == 1
            await one.etcd.put(one.prefix + b"/elsewhere", b"")
            await one.etcd.compact((await one.etcd.range(Range(one.prefix + b"/head"))).header.revision)
            await other.head()
            async with aclosing(other._watch_log()) as watched:
                assert (await anext(watched)).created

    async def test_a_follower_that_the_log_has_left_behind_is_told_and_starts_anew(self) -> None:
        one, other = self.two(2)
        async with aclosing(Closing(one)), aclosing(Closing(other)):
            await one.commit({}, {"a": b"0"}, [])
            async with aclosing(other.watch(0)) as batches:
                await take(batches, 1)
                for n in range(12):
                    await one.commit({}, {"a": b"%d" % n}, [])
                with pytest.raises(Compacted):
                    await take(batches, 12)
            snapshot = await other.snapshot()
            assert snapshot.objects == {"a": Stored(b"11", 13)}
            assert await other.commit({"a": 13}, {"a": b"12"}, []) == 14

    async def test_a_store_that_is_replaced_by_another_takes_nothing_more(self) -> None:
        one, other = self.two()
        async with aclosing(Closing(one)), aclosing(Closing(other)):
            await one.commit({}, {"a": b"1"}, [])
            await other.etcd.delete(one.prefix + b"/", end_of(one.prefix + b"/"))
            await other.commit({}, {"b": b"1"}, [])
            with pytest.raises(Retry, match="replaced"):
                await one.commit({}, {"a": b"2"}, [])
            async with aclosing(one.watch(1)) as batches:
                with pytest.raises(Compacted):
                    await take(batches, 1)

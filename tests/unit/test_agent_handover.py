"""Connections from the host that a port leaves to the one that it moves to, by halves of two agents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from packets.guarding import FIRST, FTP, GUARDED, SECOND, WEB1_PORT, dns, ftp, opened
from packets.policy import Policy
from polling import PATIENCE_S
from weft.agent import handover
from weft.agent.conntrack import PROTOCOLS, Conntrack
from weft.agent.memory import Memory
from weft.agent.rule_log import RuleLog
from weft.client.client import ApiError
from weft.contracts.connections import Carried, ConnectionEvent, Mark
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Missing, Rejected, Retry
from weft.policy.connections import State
from weft.policy.rows import Port
from weft.reference.plane import ReferenceDataPlane
from weft.wire import carried

NOW_NS = 10**12
H1, H2 = "hosts/h1", "hosts/h2"


class Hurried:
    """Twenty times as fast."""

    def now_s(self) -> float:
        return MonotonicClock().now_s() * 20

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


def plane(*, arriving: bool = False, policy: Policy = GUARDED) -> ReferenceDataPlane:
    made = ReferenceDataPlane("hosts/h1", reachable=lambda _: True)
    rows = [
        replace(row, arriving=arriving) if isinstance(row, Port) and row.port == WEB1_PORT else row
        for row in policy.rows
    ]
    assert made.update(rows) == []
    assert made.bind(policy.bindings) == []
    return made


def asker(of: ReferenceDataPlane) -> Callable[[Any], Any]:
    async def ask(question: Callable[[ReferenceDataPlane], Any]) -> Any:
        await asyncio.sleep(0)
        return question(of)

    return ask


def talk(of: ReferenceDataPlane, *, port: int = 53) -> None:
    for exchange in (*opened(FIRST, SECOND), dns(FIRST, SECOND, port=port)):
        of.from_port(exchange.interface, exchange.frame, NOW_NS)


@dataclass
class Between:
    """Two hosts, and what goes between them. fails: what comes of a request instead."""

    here: ReferenceDataPlane
    there: ReferenceDataPlane
    giver: handover.Giver
    conntrack: Conntrack
    taker: handover.Taker
    state: Path
    fails: list[Exception] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    formers: list[str] = field(default_factory=list)

    def start_giver(self) -> None:
        """Anew: it knows what is on its disk, and nothing else."""
        memory: Memory[list[str]] = Memory(self.state / "left.json", [])
        self.giver = handover.Giver(H1, asker(self.here), self.conntrack, Hurried(), memory)

    def start_taker(self) -> None:
        memory = Memory(self.state / "coming.json", handover.Coming())
        self.taker = handover.Taker(H2, self, asker(self.there), Hurried(), memory)

    async def carried(self, host: str, port: str, after: int, former: str = "") -> bytes:
        assert host == H2
        if port != WEB1_PORT:
            await Hurried().sleep(8.0)  # its host is stopped
            raise ApiError(502, "Bad Gateway", "hosts/h3 has not answered within 8 s", "")
        self.asked.append(after)
        self.formers.append(former)
        if self.fails:
            raise self.fails.pop(0)
        try:
            return await self.giver.answer(json.dumps({"port": port, "after": after, "last": bool(former)}).encode())
        except Rejected as fault:
            raise ApiError(502, "Bad Gateway", str(fault), "") from fault

    def of_port(self) -> set[tuple[int, int]]:
        return {(of.protocol, of.remote_port) for of in self.there.connections() if of.port == WEB1_PORT}


@asynccontextmanager
async def between(tmp_path: Path, policy: Policy = GUARDED) -> AsyncIterator[Between]:
    clock, here, there = Hurried(), plane(policy=policy), plane(arriving=True, policy=policy)
    there.from_port("tapweb1", opened(FIRST, SECOND)[0].frame, NOW_NS)  # so that it is as late there
    there.forget([of.key for of in there.connections()])
    conntrack = Conntrack(None, asker(here), clock, RuleLog(tmp_path / "log", clock, lambda: 0, PROTOCOLS))
    found = Between(here, there, None, conntrack, None, tmp_path)
    found.start_giver()
    found.start_taker()
    found.giver.follow([leaving()])
    yield found
    found.giver.stop()
    await found.taker.stop()


def leaving() -> Port:
    return Port(WEB1_PORT, 5001, "02:00:00:00:01:04", (FIRST,), groups=(1,), leaving=True)


def arriving(**changed: Any) -> dict[str, Port]:
    return {WEB1_PORT: replace(leaving(), leaving=False, arriving=True, comes_from=H1, **changed)}


def arrived() -> dict[str, Port]:
    return {WEB1_PORT: replace(leaving(), leaving=False)}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 -- another task's doing
            await asyncio.sleep(0.001)


async def test_all_connections_come_and_the_port_waits_for_them(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        it.taker.follow(arriving(), anew=True)
        assert "on their way" in it.taker.why_waiting(WEB1_PORT)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        assert it.of_port() == {(6, 80), (17, 53)}
        assert it.taker.note(WEB1_PORT) == ""
        it.taker.follow({}, anew=True)
        assert it.taker.why_waiting(WEB1_PORT) == ""


async def test_what_begins_meanwhile_follows(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        it.taker.follow(arriving(), anew=True)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        talk(it.here, port=54)
        await it.conntrack.take(it.here.connection_events())
        await until(lambda: (17, 54) in it.of_port())
        # What no event has told of is seen in the table.
        talk(it.here, port=55)
        it.here.connection_events()
        await until(lambda: (17, 55) in it.of_port())


async def test_what_ftp_expects_follows_when_it_is_said(tmp_path: Path) -> None:
    async with between(tmp_path, FTP) as it:

        def awaited() -> set[int]:
            return {of.local_port for of in it.there.connections() if of.state is State.EXPECTED}

        *begun, line = ftp(FIRST, SECOND, b"PORT 10,0,1,4,195,80\r\n")
        for exchange in begun:
            it.here.from_port(exchange.interface, exchange.frame, NOW_NS)
        it.taker.follow(arriving(groups=(4,)), anew=True)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        assert awaited() == set()
        it.here.connection_events()
        it.here.from_port(line.interface, line.frame, NOW_NS)
        events = it.here.connection_events()
        assert [event.what for event in events if isinstance(event, ConnectionEvent)] == ["expects", "expects"]
        await it.conntrack.take(events)
        await until(lambda: awaited() == {50_000})


@pytest.mark.parametrize("told_first", ["source", "destination"])
async def test_what_the_guest_begins_as_it_changes_over_is_asked_for_once_more(tmp_path: Path, told_first: str) -> None:
    """No news tells of it: the port is the other host's before any could. In steps, whoever hears of the end first."""
    async with between(tmp_path) as it:
        talk(it.here)
        it.taker.follow(arriving(), anew=True)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        asked = len(it.asked)
        await until(lambda: len(it.asked) > asked)  # news are waited for
        begun = dns(FIRST, SECOND, port=54)
        it.here.from_port(begun.interface, begun.frame, NOW_NS)
        assert (17, 54) not in it.of_port()
        for who in (told_first, "source", "destination"):
            if who == "source":
                it.giver.follow([])
                assert set(it.giver.lingering()) == {WEB1_PORT}
            else:
                it.taker.follow(arrived(), anew=True)
        await until(lambda: (17, 54) in it.of_port())
        await until(lambda: not it.taker._ending)
        assert it.formers[-1] == "hosts/h1"
        assert it.formers.count("hosts/h1") == 1


async def test_what_was_lost_on_the_way_as_the_port_arrived_comes_with_the_last(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)

        async def ask(after: int, *, last: bool) -> carried.Piece:
            question = {"port": WEB1_PORT, "after": after, "last": last}
            return carried.decode(await it.giver.answer(json.dumps(question).encode()))

        def began(piece: carried.Piece) -> set[tuple[int, int]]:
            return {(of.protocol, of.remote_port) for of in piece.connections}

        first = await ask(0, last=False)
        waiting = asyncio.create_task(ask(1, last=False))
        await asyncio.sleep(0)
        talk(it.here, port=54)
        await it.conntrack.take(it.here.connection_events())
        assert (17, 54) in began(await waiting)  # and nobody hears that
        talk(it.here, port=55)
        it.giver.follow([])
        assert {(17, 54), (17, 55)} <= began(await ask(first.rank, last=True))
        with pytest.raises(Missing):
            await ask(3, last=False)
        # Who has forgotten what it was told is told all of it.
        assert began(await ask(0, last=True)) == {(6, 80), (17, 53), (17, 54), (17, 55)}


async def test_who_has_left_is_told_of_until_it_was_and_a_while_longer_and_not_when_it_is_back(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        last = json.dumps({"port": WEB1_PORT, "after": 0, "last": True}).encode()
        it.giver.follow([])
        assert carried.decode(await it.giver.answer(last)).connections
        assert carried.decode(await it.giver.answer(last)).connections  # the answer was lost
        it.giver.follow([replace(leaving(), leaving=False)])
        with pytest.raises(Missing):
            await it.giver.answer(last)
        it.giver.follow([leaving()])
        it.giver.follow([])
        assert it.giver._left[WEB1_PORT].until_s - it.giver._left[WEB1_PORT].since_s == handover.LINGER_S
        assert carried.decode(await it.giver.answer(last)).connections
        await until(lambda: not it.giver.lingering())  # TOLD_S
        with pytest.raises(Missing):
            await it.giver.answer(last)


async def test_an_agent_that_is_killed_when_a_port_has_left_goes_on_telling_of_it(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        it.taker.follow(arriving(), anew=True)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        begun = dns(FIRST, SECOND, port=54)
        it.here.from_port(begun.interface, begun.frame, NOW_NS)
        it.giver.follow([])
        it.giver.stop()
        it.start_giver()
        it.giver.follow([])  # what it reads from its disk does not have the port
        assert set(it.giver.lingering()) == {WEB1_PORT}  # so nothing of it is swept away
        it.taker.follow(arrived(), anew=True)
        await until(lambda: (17, 54) in it.of_port())


async def test_an_agent_that_is_killed_before_it_hears_that_a_port_has_left_tells_of_it_then(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        it.giver.stop()
        it.start_giver()
        it.giver.follow([leaving()])  # from its disk
        it.giver.follow([])  # from the controller
        assert set(it.giver.lingering()) == {WEB1_PORT}


async def test_an_agent_that_is_killed_when_a_port_has_arrived_asks_for_its_last_connections(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        it.taker.follow(arriving(), anew=True)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        it.giver.follow([])
        it.fails = [Retry("hosts/h1 is not connected")]
        it.taker.follow(arrived(), anew=True)
        await until(lambda: not it.fails)
        await it.taker.stop()
        begun = dns(FIRST, SECOND, port=54)
        it.here.from_port(begun.interface, begun.frame, NOW_NS)
        it.start_taker()
        it.taker.follow(arrived(), anew=False)  # from its disk
        await until(lambda: (17, 54) in it.of_port())
        await until(lambda: not it.taker._ending)
        await it.taker.stop()
        # And the next one has nothing left to ask for.
        it.start_taker()
        it.taker.follow(arrived(), anew=False)
        assert it.taker._ending == {}


async def test_what_never_came_while_a_port_was_arriving_is_asked_for_when_it_has_arrived(tmp_path: Path) -> None:
    """Its former host was not heard at all; where that is policy says."""
    async with between(tmp_path) as it:
        talk(it.here)
        it.fails = [Retry("hosts/h1 is not connected")] * 10_000
        it.taker.follow(arriving(), anew=True)
        await until(lambda: it.taker.note(WEB1_PORT))
        it.giver.follow([])
        it.taker.follow(arrived(), anew=True)
        await until(lambda: H1 in it.formers)
        it.fails = []
        await until(lambda: it.of_port() == {(6, 80), (17, 53)})


async def test_the_last_that_is_asked_for_in_vain_is_given_up_and_forgotten(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        it.fails = [Retry("hosts/h1 is not connected")] * 10_000
        it.taker.follow(arriving(), anew=True)
        it.taker.follow(arrived(), anew=True)
        assert it.taker._memory.value.last == {WEB1_PORT: H1}
        await until(lambda: not it.taker._ending)
        assert 0 < len(it.formers) < 3 * handover.LAST_S / handover.AGAIN_LAST_S  # ever more seldom
        assert it.taker._memory.value.last == {}


async def test_a_port_that_goes_is_asked_for_no_more(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        it.fails = [Retry("hosts/h1 is not connected")] * 10_000
        it.taker.follow(arriving(), anew=True)
        it.taker.follow(arrived(), anew=True)
        it.taker.follow({}, anew=True)
        assert (it.taker._ending, it.taker._memory.value.last) == ({}, {})


@pytest.mark.parametrize("text", [b"", b"{", b'{"begun": 5}', b"[7]"])
async def test_an_agent_starts_whatever_is_in_the_files_of_a_former_one(tmp_path: Path, text: bytes) -> None:
    for name in ("left.json", "coming.json"):
        (tmp_path / name).write_bytes(text)
    async with between(tmp_path) as it:
        talk(it.here)
        it.taker.follow(arriving(), anew=True)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        assert it.of_port() == {(6, 80), (17, 53)}


async def test_what_is_left_over_of_a_former_stay_goes_also_when_an_agent_was_killed_before_that(
    tmp_path: Path,
) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        left_over = dns(FIRST, SECOND, port=99)
        it.there.from_port(left_over.interface, left_over.frame, NOW_NS)
        it.taker.follow({}, anew=True)
        it.taker.follow(arriving(), anew=True)
        await it.taker.stop()  # nothing was asked of the data plane yet
        it.start_taker()
        it.taker.follow(arriving(), anew=False)
        await until(lambda: it.of_port() == {(6, 80), (17, 53)})
        # But what has begun since does not go once more.
        await it.taker.stop()
        it.there.from_port(left_over.interface, left_over.frame, NOW_NS)
        it.start_taker()
        it.taker.follow(arriving(), anew=False)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        assert it.of_port() == {(6, 80), (17, 53), (17, 99)}


async def test_however_many_ports_leave_the_table_is_walked_as_often_as_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        walks: list[int] = []
        marks = it.here.marks

        def counted(ports: Collection[str]) -> Iterator[tuple[str, bytes, Mark]]:
            walks.append(len(ports))
            return marks(ports)

        monkeypatch.setattr(it.here, "marks", counted)
        names = [WEB1_PORT, *(f"tenants/blue/ports/{n}" for n in range(300))]
        it.giver.follow([replace(leaving(), port=name) for name in names])
        questions = [json.dumps({"port": name}).encode() for name in names]
        pieces = [carried.decode(await it.giver.answer(question)) for question in questions]
        assert [len(piece.connections) for piece in pieces] == [2] + [0] * 300
        assert walks == [301]
        # Nor does news of one wait for long while nothing is said of the others.
        assert it.giver._hold_s() == handover.HOLD_S * handover.MOST_AT_ONCE / 301
        again = [json.dumps({"port": name, "after": 1}).encode() for name in names]
        await asyncio.gather(*map(it.giver.answer, again))
        assert len(walks) <= 3


async def test_a_port_that_is_asked_for_while_anothers_walk_goes_on_is_told_of_when_it_has_ended(
    tmp_path: Path,
) -> None:
    """The first question for any port makes a place for all that leave: an empty place is no answer."""
    async with between(tmp_path) as it:
        talk(it.here)
        may_walk, walks, ask = asyncio.Event(), [], it.giver._ask

        async def held(question: Callable[[Any], Any]) -> Any:
            walks.append(question)
            await may_walk.wait()
            return await ask(question)

        it.giver._ask = held
        other = "tenants/blue/ports/other"
        it.giver.follow([leaving(), replace(leaving(), port=other)])
        first = asyncio.create_task(it.giver.answer(json.dumps({"port": other}).encode()))
        await until(lambda: walks)
        second = asyncio.create_task(it.giver.answer(json.dumps({"port": WEB1_PORT}).encode()))
        await asyncio.sleep(0)
        may_walk.set()
        assert carried.decode(await first).connections == []
        assert len(carried.decode(await second).connections) == 2
        assert len(walks) == 2  # and what was read of the second


async def test_a_port_is_looked_for_when_the_walk_of_the_first_that_was_asked_for_has_failed(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        fails, ask = [Retry("the data plane is being laid out")], it.giver._ask

        async def failing(question: Callable[[Any], Any]) -> Any:
            if fails:
                raise fails.pop()
            return await ask(question)

        it.giver._ask = failing
        other = "tenants/blue/ports/other"
        it.giver.follow([leaving(), replace(leaving(), port=other)])
        with pytest.raises(Retry):
            await it.giver.answer(json.dumps({"port": other}).encode())
        first = carried.decode(await it.giver.answer(json.dumps({"port": WEB1_PORT}).encode()))
        assert (len(first.connections), first.more) == (2, False)


async def test_what_could_not_be_read_is_still_to_be_told(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        asked, ask = [], it.giver._ask

        async def failing(question: Callable[[Any], Any]) -> Any:
            asked.append(question)
            if len(asked) == 2:  # the walk is before
                raise Retry("the data plane is being laid out")
            return await ask(question)

        it.giver._ask = failing
        with pytest.raises(Retry):
            await it.giver.answer(json.dumps({"port": WEB1_PORT}).encode())
        assert len(carried.decode(await it.giver.answer(json.dumps({"port": WEB1_PORT}).encode())).connections) == 2


async def test_what_is_left_over_of_a_former_stay_goes_first_unless_it_was_the_agent_that_went(tmp_path: Path) -> None:
    for anew, stays in ((True, set()), (False, {(17, 99)})):
        async with between(tmp_path) as it:
            talk(it.here)
            left_over = dns(FIRST, SECOND, port=99)
            it.there.from_port(left_over.interface, left_over.frame, NOW_NS)
            it.taker.follow(arriving(), anew=anew)
            await until(lambda it=it: not it.taker.why_waiting(WEB1_PORT))
            assert it.of_port() == {(6, 80), (17, 53)} | stays


async def test_a_port_does_not_wait_for_ever_and_says_that_it_has_not_waited(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        told: list[str] = []
        it.taker.changed = lambda: told.append(it.taker.note(WEB1_PORT))
        talk(it.here)
        it.fails = [Retry("no controller is there")] * 10_000
        it.taker.follow(arriving(), anew=True)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        assert it.taker.note(WEB1_PORT) == "its connections have not come: no controller is there" == told[0]
        it.fails = []
        await until(lambda: it.taker.note(WEB1_PORT) == "")  # they come late, and are welcome
        assert (6, 80) in it.of_port()


async def test_nobody_waits_for_an_agent_that_is_too_old(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        it.fails = [ApiError(502, "Bad Gateway", "hosts/h1 does not answer questions: its agent is older", "")]
        it.taker.follow(arriving(), anew=True)
        await until(lambda: it.asked and not it.taker.why_waiting(WEB1_PORT))
        assert len(it.asked) <= 2


async def test_a_port_that_nothing_is_asked_of_has_none_and_does_not_wait(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        it.taker.follow(arriving(groups=()), anew=True)
        assert it.taker.why_waiting(WEB1_PORT) == ""
        assert it.asked == []


async def test_pieces_are_in_order_again_when_one_was_lost_and_anew_when_they_are_not_known(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)

        async def ask(after: int) -> carried.Piece:
            return carried.decode(await it.carried(H2, WEB1_PORT, after))

        first = await ask(0)
        assert (first.rank, first.more, len(first.connections)) == (1, False, 2)
        second = await ask(1)
        assert (second.rank, second.connections) == (2, [])
        assert await ask(1) == second
        for unknown in (7, 0, 5):
            if unknown:
                with pytest.raises(ApiError, match="begin anew"):
                    await ask(unknown)
            else:
                assert len((await ask(0)).connections) == 2


async def test_only_of_ports_that_leave_anything_is_told(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        for body in (b'{"port": "tenants/blue/ports/web-2"}', b'{"port": 5}', b"x"):
            with pytest.raises((Missing, Rejected)):
                await it.giver.answer(body)
        it.giver.follow([replace(leaving(), leaving=False)])
        with pytest.raises(Missing):
            await it.giver.answer(json.dumps({"port": WEB1_PORT}).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"zz", carried.encode(1, [], more=False)[:-3], carried.encode(1, [], more=False) + b"x"],
)
def test_what_are_no_connections_is_refused(data: bytes) -> None:
    with pytest.raises(Rejected):
        carried.decode(data)


def test_a_piece_is_bounded_and_small() -> None:
    one = next(of for _, of in _talked().carried(WEB1_PORT))
    full = [one._replace(local_port=n, packets=(n * 977, n * 1009), octets=(n**3, n**2)) for n in range(carried.MOST)]
    data = carried.encode(1, full, more=True)
    assert len(data) < carried.MOST_BYTES / 2
    assert carried.decode(data).connections == full
    bomb = carried.encode(1, [one._replace(local=bytes(3 << 20))], more=False)
    assert len(bomb) < 20_000
    with pytest.raises(Rejected, match="more than"):
        carried.decode(bomb)
    with pytest.raises(Rejected, match="of a piece"):
        carried.decode(carried.encode(1, [*full, one], more=False))


def _talked() -> ReferenceDataPlane:
    made = plane()
    talk(made)
    return made


def test_a_connection_comes_out_as_it_went_in() -> None:
    found = [of for _, of in _talked().carried(WEB1_PORT)]
    assert carried.decode(carried.encode(9, found, more=True)) == carried.Piece(9, True, found)
    assert all(isinstance(of, Carried) for of in found)


async def test_ports_of_a_host_that_does_not_answer_make_no_other_go_on_without_its_connections(tmp_path: Path) -> None:
    async with between(tmp_path) as it:
        talk(it.here)
        hung = {name: replace(arriving()[WEB1_PORT], port=name) for name in ("tenants/a/ports/1", "tenants/a/ports/2")}
        it.taker.follow(hung, anew=True)
        await until(it.taker._first.locked)
        it.taker.follow(hung | arriving(), anew=True)
        await until(lambda: not it.taker.why_waiting(WEB1_PORT))
        assert it.taker.note(WEB1_PORT) == ""
        assert it.of_port() == {(6, 80), (17, 53)}

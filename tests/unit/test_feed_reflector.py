"""The client's side of the feed: when it connects, what it asks for, and what it makes of a stream that is wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from random import Random

import pytest

from weft.feed.log import Gone
from weft.feed.reflector import BACKOFF_MOST_S, Asked, Batch, Connected, Event, Lost, Piece, Reflector, follow
from weft.kit.errors import Rejected, Retry
from weft.policy.rows import Host, Record
from weft.wire import feed as wire

SCOPE, OTHER = "rd:5e1", "rd:0ff"


def record(number: int, pa: str = "192.0.2.1") -> Record:
    return Record(5000, f"10.0.0.{number}", pa, "02:00:00:00:00:01")


def following(*records: Record) -> Reflector:
    """A reflector that has had a full start of these rows at revision 1."""
    reflector = Reflector()
    reflector.connected()
    reflector.feed(wire.encode_rows(SCOPE, records))
    reflector.feed(wire.encode_bookmark(1, synced=True))
    return reflector


class NoTime:
    """Every wait ends at once, and is remembered."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []

    def now_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)


class Script:
    """A controller that answers each connection as it was told to: bytes in pieces, or a refusal."""

    def __init__(self, *answers: list[bytes] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[int | None] = []

    async def connect(self, revision: int | None) -> AsyncGenerator[bytes, None]:
        self.asked.append(revision)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for piece in answer:
            yield piece


async def play(script: Script, reflector: Reflector, count: int, clock: NoTime | None = None) -> list[Event]:
    events: list[Event] = []
    stream = follow(reflector, script.connect, clock or NoTime(), Random(7))  # noqa: S311 -- jitter
    async for event in stream:
        events.append(event)
        if len(events) == count:
            break
    await stream.aclose()
    return events


FULL = [wire.encode_rows(SCOPE, [record(1)]), wire.encode_bookmark(4, synced=True)]


async def test_a_stream_that_breaks_is_resumed_from_the_last_bookmark() -> None:
    script = Script(
        [*FULL, wire.encode_rows(SCOPE, [record(2)])],
        [wire.encode_resume(4), wire.encode_bookmark(6, synced=True)],
    )
    events = await play(script, Reflector(), 6)
    assert [type(event) for event in events] == [Connected, Piece, Batch, Lost, Connected, Batch]
    assert script.asked == [None, 4]
    last = events[-1]
    assert isinstance(last, Batch)
    assert (last.revision, last.synced, last.full, bool(last.delta)) == (6, True, False, False)


async def test_a_revision_that_is_gone_is_answered_by_asking_for_everything_at_once() -> None:
    clock = NoTime()
    script = Script(Gone("too old"), FULL)
    events = await play(script, Reflector(None, 3), 3, clock)
    assert script.asked == [3, None]
    assert clock.waits_s == []
    assert isinstance(events[-1], Batch)


async def test_waits_grow_to_a_bound_and_differ() -> None:
    clock = NoTime()
    await play(Script(*[Retry("no controller answers")] * 30), Reflector(), 30, clock)
    assert max(clock.waits_s) <= BACKOFF_MOST_S
    assert max(clock.waits_s[10:]) > 1.0 > clock.waits_s[0]
    assert len(set(clock.waits_s)) == len(clock.waits_s)


async def test_a_frame_that_is_wrong_ends_the_stream_and_starts_over_with_nothing_deleted() -> None:
    reflector = following(record(1), record(2))
    script = Script(
        [wire.encode_resume(1), b'{"scope":"rd:5e1","puts":7}\n'],
        [wire.encode_rows(SCOPE, [record(1)]), wire.encode_bookmark(9, synced=True)],
    )
    events = await play(script, reflector, 5)
    assert [type(event) for event in events] == [Connected, Lost, Connected, Piece, Batch]
    assert isinstance(events[1], Lost)
    assert "not a frame of the feed" in events[1].reason
    assert script.asked == [1, None]
    piece, batch = events[3:]
    assert isinstance(piece, Piece)
    assert isinstance(batch, Batch)
    assert piece.puts == ()  # the row is known already
    assert batch.delta.deletes == (record(2).key,)


async def test_a_line_may_arrive_in_any_pieces() -> None:
    data = b"".join(FULL)
    events = await play(Script([data[n : n + 1] for n in range(len(data))]), Reflector(), 3)
    assert [type(event) for event in events] == [Connected, Piece, Batch]


def test_a_key_that_moves_from_scope_to_scope_is_put_and_not_deleted() -> None:
    reflector = following(record(1))
    reflector.feed(wire.encode_rows(OTHER, [record(1, "192.0.2.2")]))
    reflector.feed(wire.encode_leave(SCOPE))
    batch = reflector.feed(wire.encode_bookmark(2, synced=True))
    assert isinstance(batch, Batch)
    assert (batch.delta.puts, batch.delta.deletes) == ((record(1, "192.0.2.2"),), ())


def test_a_key_that_changed_scope_while_nobody_looked_is_not_swept() -> None:
    reflector = following(record(1), record(2))
    reflector.connected()
    piece = reflector.feed(wire.encode_rows(OTHER, [record(1)]))
    batch = reflector.feed(wire.encode_bookmark(2, synced=True))
    assert isinstance(piece, Piece)
    assert isinstance(batch, Batch)
    assert batch.delta.deletes == (record(2).key,)


def test_a_full_start_that_breaks_forgets_no_row() -> None:
    reflector = following(record(1), record(2))
    reflector.connected()
    reflector.feed(wire.encode_rows(SCOPE, [record(3)]))
    reflector.connected()
    assert set(reflector.tables.keys()) == {record(n).key for n in (1, 2, 3)}
    assert reflector.revision is None
    reflector.feed(wire.encode_rows(SCOPE, [record(2)]))
    batch = reflector.feed(wire.encode_bookmark(2, synced=True))
    assert isinstance(batch, Batch)
    assert set(batch.delta.deletes) == {record(1).key, record(3).key}
    assert set(reflector.tables.keys()) == {record(2).key}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([wire.encode_resume(7)], "resumes from revision 7; 1 was asked for"),
        ([wire.encode_resume(1), wire.encode_resume(1)], "in the middle of the stream"),
        ([wire.encode_resume(1), wire.encode_bookmark(0, synced=True)], "goes back from revision 1 to 0"),
        ([wire.encode_rows(SCOPE, []), wire.encode_resume(1)], "in the middle of the stream"),
    ],
)
def test_a_stream_that_contradicts_itself_is_refused(lines: list[bytes], said: str) -> None:
    reflector = following(record(1))
    reflector.connected()
    *before, last = lines
    for line in before:
        reflector.feed(line)
    with pytest.raises(Rejected, match=said):
        reflector.feed(last)


def test_a_question_is_told_at_once_and_is_no_part_of_what_a_bookmark_holds_together() -> None:
    reflector = following(record(1))
    assert reflector.feed(wire.encode_rows(SCOPE, [record(2)])) is None
    asked = reflector.feed(wire.encode_ask("7f", "connections", {"port": "p"}))
    assert asked == Asked("7f", "connections", b'{"port":"p"}')
    batch = reflector.feed(wire.encode_bookmark(2, synced=True))
    assert isinstance(batch, Batch)
    assert batch.delta.puts == (record(2),)
    assert not any(b"ask" in line for line in batch.lines)


def test_what_is_another_hosts_own_is_refused() -> None:
    reflector = Reflector(host="hosts/h1")
    reflector.connected()
    reflector.feed(wire.encode_rows("host:hosts/h1", [Host("hosts/h1", ("192.0.2.1",), ())]))
    with pytest.raises(Rejected, match="the feed sends host:hosts/h2; this is host:hosts/h1"):
        reflector.feed(wire.encode_rows("host:hosts/h2", [Host("hosts/h2", ("192.0.2.2",), ())]))
    reflector.connected()
    assert [row.key for row in reflector.tables.rows()] == [("hosts", "hosts/h1")]


def test_a_row_that_was_put_and_taken_back_before_the_bookmark_is_not_put() -> None:
    reflector = following(record(1))
    reflector.feed(wire.encode_rows(SCOPE, [record(2)]))
    reflector.feed(wire.encode_rows(SCOPE, [], [record(2).key]))
    batch = reflector.feed(wire.encode_bookmark(2, synced=True))
    assert isinstance(batch, Batch)
    assert batch.delta.puts == ()


def test_a_reflector_knows_whose_revision_it_is_at() -> None:
    reflector = Reflector()
    reflector.connected()
    reflector.feed(wire.encode_bookmark(1, synced=True, history="a.1"))
    assert (reflector.revision, reflector.history) == (1, "a.1")
    with pytest.raises(Rejected, match=r"changes from history 'a\.1' to 'b\.1'"):
        reflector.feed(wire.encode_bookmark(2, synced=True, history="b.1"))

"""Any bytes are a frame, or are refused with a reason: nothing else comes out of the feed's decoder."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.feed.reflector import Reflector
from weft.kit.errors import Rejected
from weft.policy.rows import Host, MacRecord, Pair, Peer, Port, Record, Route, Row, Subnet, Uplink
from weft.wire import feed as wire

ROWS: tuple[Row, ...] = (
    Host("hosts/h1", ("192.0.2.1", "2001:db8::1"), (Uplink("eth0", 1500),)),
    Subnet(4096, "5e1", ("10.0.0.0/24",), ("10.0.0.1",), "02:57:45:46:54:01", 0),
    Peer("5e1", "192.0.2.1", ("192.0.2.1", "2001:db8::1"), ("provider-networks/a", "provider-networks/b")),
    Record(4096, "10.0.0.2", "192.0.2.1", "02:00:00:00:00:02"),
    MacRecord(4096, "02:00:00:00:00:02", "192.0.2.1"),
    Route("5e1", "10.0.0.0/24", 4096),
    Port("tenants/a/ports/p", 4096, "02:00:00:00:00:02", ("10.0.0.2",), (Pair("02:00:00:00:00:03", "10.9.0.0/16"),)),
)
VALID = (
    wire.encode_rows("rd:5e1", ROWS),
    wire.encode_rows("host:hosts/h1", (), [row.key for row in ROWS]),
    wire.encode_leave("rd:5e1"),
    wire.encode_bookmark(7, synced=True),
    wire.encode_resume(7),
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('aé"\\:☃', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(["scope", "puts", "deletes", "leave", "revision", "synced", "resume", "records", "ports"])
nearly = st.dictionaries(fields, anything | st.just("rd:x") | st.dictionaries(fields, anything, max_size=3), max_size=4)


def decodes_or_is_refused(line: bytes) -> None:
    with contextlib.suppress(Rejected):
        wire.Decoder().decode(line)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(line: bytes) -> None:
    decodes_or_is_refused(line)


@settings(max_examples=200)
@given(nearly)
def test_any_json_object_decodes_or_is_refused(value: dict[str, object]) -> None:
    decodes_or_is_refused(json.dumps(value).encode())


@settings(max_examples=200)
@given(st.sampled_from(VALID), st.data())
def test_a_frame_with_bytes_changed_decodes_or_is_refused(frame: bytes, data: st.DataObject) -> None:
    changed = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        if data.draw(st.booleans()):
            changed[at] = data.draw(st.integers(0, 255))
        else:
            del changed[at:]
            break_at = data.draw(st.integers(0, 3))
            changed += b"}" * (break_at + 1)
    decodes_or_is_refused(bytes(changed))


@settings(max_examples=100)
@given(st.lists(st.sampled_from(VALID) | st.binary(max_size=30), max_size=8))
def test_any_lines_in_any_order_are_taken_or_refused(lines: list[bytes]) -> None:
    reflector = Reflector()
    reflector.connected()
    for line in lines:
        try:
            reflector.feed(line)
        except Rejected:
            reflector.connected()


def test_what_is_encoded_is_decoded_again() -> None:
    decoder = wire.Decoder()
    assert decoder.decode(VALID[0]) == wire.Rows("rd:5e1", ROWS, ())
    assert decoder.decode(VALID[1]) == wire.Rows("host:hosts/h1", (), tuple(row.key for row in reversed(ROWS)))
    assert decoder.decode(VALID[2]) == wire.Leave("rd:5e1")
    assert decoder.decode(VALID[3]) == wire.Bookmark(7, True)
    assert decoder.decode(VALID[4]) == wire.Resume(7)


def test_values_that_repeat_are_one_object() -> None:
    records = [Record(70_000, f"10.0.0.{n}", "192.0.2.1", "02:00:00:00:00:02") for n in (2, 3)]
    frame = wire.Decoder().decode(wire.encode_rows("rd:5e1", records))
    assert isinstance(frame, wire.Rows)
    one, other = frame.puts
    assert isinstance(one, Record)
    assert isinstance(other, Record)
    assert one.pa is other.pa
    assert one.vsid is other.vsid


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "truncated"),
        (b"{}", "no field together"),
        (b'{"scope":"rd:x"}', "scope together; a frame is scope with puts or deletes"),
        (b'{"scope":"web","puts":{}}', "scope 'web' begins with none of"),
        (b'{"scope":"rd:x","puts":{"records":[{"vsid":"a"}]}}', "$.puts.records[0].vsid"),
        (b'{"scope":"rd:x","puts":{"firewalls":[]}}', "unknown field `firewalls`"),
        (b'{"scope":"rd:x","puts":{"records":[{"vsid":1,"ca":"a","pa":"b","mac":"c","rule":"smoke"}]}}', "smoke"),
        (b'{"scope":"rd:x","deletes":{"records":[[4096]]}}', "$.deletes.records[0]"),
        (b'{"leave":"rd:x","resume":1}', "leave, resume together"),
        (b'{"revision":-1,"synced":true}', "$.revision"),
        (b'{"leave":"rd:\xff"}', "utf-8"),
    ],
)
def test_a_line_that_is_no_frame_is_refused_with_what_is_wrong(line: bytes, said: str) -> None:
    with pytest.raises(Rejected, match="not a frame of the feed") as refusal:
        wire.Decoder().decode(line)
    assert said in refusal.value.message

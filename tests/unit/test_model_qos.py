"""Limits and marks of a port: what is chosen, what is refused, and what a host is told."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.intents import port, two_tenants, without
from weft.compiler.full import compile_all
from weft.kit.errors import Conflict, Rejected
from weft.model import drafts, qos
from weft.model.catalog import Catalog
from weft.model.features import ABILITIES, AbilityTable, Feature
from weft.model.names import Name
from weft.model.objects import Limit, Port, Qos
from weft.policy import rows
from weft.wire.objects import decode_spec, encode_spec, load

A = Name("tenants/blue/ports/a")
#: What a data plane has that limits and marks.
ABLE: AbilityTable = {kind: replace(able, features=able.features | {Feature.QOS}) for kind, able in ABILITIES.items()}


@pytest.fixture
def catalog() -> Catalog:
    return two_tenants(ABLE)


def put(catalog: Catalog, given: drafts.Qos | None, host: str | None = "h1") -> Port:
    catalog.apply([port("blue/a", "prod/web", host=host, qos=given)])
    return catalog.ports[A]


def test_bursts_are_chosen_from_the_rates() -> None:
    chosen = qos.resolve(
        drafts.Qos(drafts.Limit(rate_bits_per_s=10**9, rate_packets_per_s=10_000), drafts.Limit(rate_bits_per_s=10**6))
    )
    assert chosen.from_guest == Limit(10**9, 28_125_000, 10_000, 2250)
    assert chosen.to_guest == Limit(10**6, 28_125)
    assert qos.resolve(drafts.Qos(drafts.Limit(rate_packets_per_s=5))).from_guest == Limit(None, 0, 5, 10)


@given(st.integers(qos.RATE_FIRST_BITS, qos.RATE_LAST_BITS))
def test_a_chosen_burst_is_one_that_may_be_given(bits: int) -> None:
    chosen = qos.resolve(drafts.Qos(drafts.Limit(bits))).from_guest
    assert chosen is not None
    assert qos.resolve(drafts.Qos(drafts.Limit(bits, chosen.burst_bytes))).from_guest == chosen


def test_what_is_left_out_is_kept_and_what_is_said_replaces_all(catalog: Catalog) -> None:
    limited = put(catalog, drafts.Qos(drafts.Limit(10**8), dscp=46, outer_dscp="copy")).qos
    assert limited == Qos(Limit(10**8, 2_812_500), None, 46, None)
    assert put(catalog, None).qos == limited
    assert put(catalog, drafts.Qos(dscp=8)).qos == Qos(dscp=8)
    assert put(catalog, drafts.Qos()).qos == Qos()


def test_a_host_is_told_of_it_with_the_port_and_of_nothing_when_there_is_nothing(catalog: Catalog) -> None:
    put(catalog, drafts.Qos(outer_dscp=34))
    key = ("ports", A)
    row = compile_all(catalog)[0]["host:hosts/h1"][key]
    assert isinstance(row, rows.Port)
    assert row.qos == Qos(outer_dscp=34)
    put(catalog, drafts.Qos())
    row = compile_all(catalog)[0]["host:hosts/h1"][key]
    assert isinstance(row, rows.Port)
    assert row.qos is None


@pytest.mark.parametrize(
    ("given", "field", "saying"),
    [
        (drafts.Qos(drafts.Limit(0)), "from_guest.rate_bits_per_s", "0 bits/s are outside 8000..1000000000000"),
        (drafts.Qos(None, drafts.Limit(10**12 + 1)), "to_guest.rate_bits_per_s", "are outside"),
        (drafts.Qos(drafts.Limit(None, None, 0)), "from_guest.rate_packets_per_s", "0 packets/s are outside 1.."),
        (drafts.Qos(drafts.Limit(10**6, 1513)), "from_guest.burst_bytes", "a frame of 1514 bytes has to fit"),
        (drafts.Qos(drafts.Limit(10**6, 1 << 29)), "from_guest.burst_bytes", "is outside 1514..268435456"),
        (drafts.Qos(drafts.Limit(None, 2000)), "from_guest.burst_bytes", "without a rate"),
        (drafts.Qos(None, drafts.Limit(10**6, None, None, 5)), "to_guest.burst_packets", "without a rate"),
        (drafts.Qos(drafts.Limit(None, None, 10, 0)), "from_guest.burst_packets", "is outside 1.."),
        (drafts.Qos(dscp=64), "dscp", "DSCP 64 is outside 0..63"),
        (drafts.Qos(outer_dscp=-1), "outer_dscp", "DSCP -1 is outside 0..63"),
        (drafts.Qos(outer_dscp="inner"), "outer_dscp", "'inner' is no outer DSCP; 0..63 and 'copy' are"),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(catalog: Catalog, given: drafts.Qos, field: str, saying: str) -> None:
    with pytest.raises(Rejected, match=saying) as refused:
        put(catalog, given)
    assert refused.value.field == f"puts[0].spec.qos.{field}"


def test_a_host_that_cannot_limit_gets_no_port_that_is_limited() -> None:
    catalog = two_tenants(without(Feature.QOS))
    with pytest.raises(Conflict, match="data plane ebpf, which lacks qos") as refused:
        put(catalog, drafts.Qos(dscp=1))
    assert refused.value.field == "puts[0].spec.qos"
    assert put(catalog, drafts.Qos(dscp=1), host=None).qos == Qos(dscp=1)
    with pytest.raises(Conflict, match="lacks qos"):
        put(catalog, None)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dscp": 0},
        {"outer_dscp": "copy"},
        {"outer_dscp": 63, "from_guest": {"rate_bits_per_s": 1_000_000}},
        {"to_guest": {"rate_packets_per_s": 1000, "burst_packets": 5}, "from_guest": {}},
    ],
)
def test_what_is_stored_is_read_back_and_what_is_shown_may_be_put_again(catalog: Catalog, given: object) -> None:
    spec = {"virtual_subnet": "prod/web", "qos": given}
    catalog.apply([decode_spec(A, msgspec.json.encode(spec))])
    shown = encode_spec(catalog.ports[A])
    assert load(A, shown) == catalog.ports[A]
    assert catalog.apply([decode_spec(A, shown)]) == ()

"""A packet followed across hosts, as an operator reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from packets import bridge
from packets import policy as p
from weft.kit.errors import Missing, Rejected
from weft.policy.drop import DropReason
from weft.policy.rows import Direction, Host, Port, Row, SecurityGroup, SecurityRule, Subnet, Uplink
from weft.reference import packet
from weft.reference.plane import ReferenceDataPlane
from weft.reference.trace import (
    Answered,
    Delivered,
    Dropped,
    LeftForPa,
    LeftForWire,
    LeftToStack,
    Protocol,
    Trace,
    plane_of,
    probe,
    trace,
)

WEB1, WEB3, DB2 = (f"tenants/blue/ports/{name}" for name in ("web-1", "web-3", "db-2"))
RED1 = "tenants/red/ports/web-1"
SHARED = tuple(row for row in p.ROWS if not isinstance(row, Host | Port))


def planes() -> dict[str, ReferenceDataPlane]:
    """Three hosts; each has the rows of both domains."""
    there: Mapping[str, tuple[Row, ...]] = {
        "hosts/h1": p.ROWS,
        "hosts/h2": (
            *SHARED,
            Host("hosts/h2", (p.PA2,), (Uplink("eth1", 1500),)),
            Port(WEB3, p.BLUE_1, p.WEB3, ("10.0.1.20", "2001:db8:1::20")),
            Port(DB2, p.BLUE_2, p.DB2, ("10.0.2.7", "2001:db8:2::7")),
        ),
        "hosts/h3": (*SHARED, Host("hosts/h3", (p.PA3,), (Uplink("eth2", 1500),))),
    }
    return {host: plane_of(host, rows) for host, rows in there.items()}


def sent(to: str, protocol: Protocol = Protocol.ICMP, port: int | None = None) -> Trace:
    made = planes()
    return trace(made, "hosts/h1", WEB1, probe(made["hosts/h1"], WEB1, to, protocol, port))


def texts(traced: Trace) -> str:
    return "\n".join(f"{step.host}: {step.text}" for step in traced.steps)


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("to", ["10.0.2.7", "2001:db8:2::7"])
def test_a_packet_is_followed_to_a_port_of_another_host(to: str, protocol: Protocol) -> None:
    traced = sent(to, protocol)
    assert isinstance(traced.outcome, Delivered)
    assert (traced.outcome.host, traced.outcome.port) == ("hosts/h2", DB2)
    parsed = packet.parse(traced.outcome.frame)
    assert isinstance(parsed, packet.Ip)
    assert parsed.hop_limit == 63
    assert [step.host for step in traced.steps] == sorted(step.host for step in traced.steps)


def test_a_packet_is_followed_into_an_uplink_whose_addresses_are_in_a_vlan() -> None:
    made = planes()
    made["hosts/h2"].update([Host("hosts/h2", (p.PA2,), (Uplink("eth1", 1500, vlan=7),))])
    traced = trace(made, "hosts/h1", WEB1, probe(made["hosts/h1"], WEB1, "10.0.2.7"))
    assert isinstance(traced.outcome, Delivered)


def test_the_steps_say_what_happened_and_where() -> None:
    assert texts(sent("10.0.2.7")) == "\n".join(
        (
            f"hosts/h1: from port {WEB1}: 52 bytes",
            "hosts/h1: anti-spoofing: 02:00:00:00:01:04 with 10.0.1.4 is the port's own",
            "hosts/h1: route 10.0.2.0/24: on-link in VSID 5002",
            "hosts/h1: record (5002, 10.0.2.7): at PA 192.0.2.12, MAC 02:00:00:00:02:07",
            "hosts/h1: encapsulated: nvgre to 192.0.2.12, VSID 5002, 52 + 42 bytes",
            "hosts/h2: from the uplink: nvgre from 192.0.2.11, VSID 5002, 52 bytes inside",
            "hosts/h2: source 10.0.1.4: policy places it at PA 192.0.2.11",
            f"hosts/h2: to port {DB2}: 52 bytes",
        )
    )


def test_a_packet_within_the_subnet_goes_by_its_record() -> None:
    traced = sent("10.0.1.20")
    assert isinstance(traced.outcome, Delivered)
    assert traced.outcome.port == WEB3
    assert "route" not in texts(traced)


@pytest.mark.parametrize("gateway", ["10.0.1.1", "2001:db8:1::1", "10.0.2.1"])
def test_the_gateway_answers(gateway: str) -> None:
    traced = sent(gateway)
    assert isinstance(traced.outcome, Answered)
    assert traced.outcome.dropped is None


def test_a_refusal_is_an_answer_with_its_reason() -> None:
    traced = sent("203.0.113.9", Protocol.UDP, 53)
    assert isinstance(traced.outcome, Answered)
    assert traced.outcome.dropped is DropReason.NO_ROUTE
    assert traced.steps[-1].text == "dropped: no_route"


@pytest.mark.parametrize("nobody", ["10.0.1.99", "2001:db8:1::99"])
def test_for_an_address_that_nobody_has_the_guest_only_asks(nobody: str) -> None:
    traced = sent(nobody)
    assert traced.outcome == Dropped("hosts/h1", DropReason.NO_RECORD)
    assert f"who has {nobody}: nobody in VSID 5001" in texts(traced)


def test_a_drop_on_the_other_host_is_its() -> None:
    made = planes()
    made["hosts/h2"].delete([("ports", WEB3)])
    traced = trace(made, "hosts/h1", WEB1, probe(made["hosts/h1"], WEB1, "10.0.1.20"))
    assert traced.outcome == Dropped("hosts/h2", DropReason.VSID_ACL)


def test_a_pa_that_no_host_has_is_where_the_trace_ends() -> None:
    assert sent("10.0.1.40").outcome == LeftForPa("hosts/h1", p.PA_UNREACHABLE)


def test_a_host_that_does_not_take_the_packet_leaves_it_to_its_stack() -> None:
    made = planes()
    spoilt = probe(made["hosts/h1"], WEB1, "10.0.1.20")

    class Deaf(ReferenceDataPlane):
        """A host that has the PA, and whose program is not on the uplink."""

        uplinks = ("other0",)

    deaf = Deaf("hosts/h2")
    deaf.update([Host("hosts/h2", (p.PA2,), (Uplink("eth1", 1500),))])
    assert trace({**made, "hosts/h2": deaf}, "hosts/h1", WEB1, spoilt).outcome == LeftToStack("hosts/h2")


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("10.0.1", "is not an IP address such as"),
        ("224.0.0.1", "is not an address to trace to"),
        ("fe80::1", "is not an address to trace to"),
        ("::ffff:10.0.1.5", "is not an address to trace to"),
        ("0.0.0.0", "is not an address to trace to"),
    ],
)
def test_an_address_that_is_no_single_machines_is_refused(to: str, says: str) -> None:
    with pytest.raises(Rejected, match=says) as refused:
        sent(to)
    assert refused.value.field == "to"


def test_a_port_without_an_address_of_the_family_cannot_send() -> None:
    plane = plane_of("hosts/h1", p.ROWS)
    with pytest.raises(Rejected, match="has no address of the family of 2001:db8:1::4"):
        probe(plane, "tenants/blue/ports/old", "2001:db8:1::4")


def test_a_trace_names_the_rule_that_lets_a_packet_through_or_stops_it() -> None:
    http, house = "tenants/blue/security-groups/web/rules/http", "tenants/blue/security-groups/house/rules/no-mail"
    out = SecurityRule(1, "tenants/blue/security-groups/web/rules/out", Direction.EGRESS, 4)
    web = SecurityGroup(
        7, "tenants/blue/security-groups/web", rules=(out, SecurityRule(2, http, Direction.INGRESS, 4, 6, 80, 80))
    )
    no = SecurityRule(3, house, Direction.EGRESS, 4, 6, 25, 25, allow=False, priority=100)
    operators = SecurityGroup(8, "tenants/blue/security-groups/house", rules=(no,))

    def grouped(to_port: int) -> Trace:
        made = planes()
        for host, name in (("hosts/h1", WEB1), ("hosts/h2", DB2)):
            (port,) = (row for row in made[host].read() if isinstance(row, Port) and row.port == name)
            made[host].update([web, operators, replace(port, groups=(7, 8), port_security=True)])
        return trace(made, "hosts/h1", WEB1, probe(made["hosts/h1"], WEB1, "10.0.2.7", Protocol.TCP, to_port))

    passed = grouped(80)
    assert isinstance(passed.outcome, Delivered)
    assert f"hosts/h1: egress of {WEB1}" in texts(passed)
    assert f"{out.name} allows it" in texts(passed)
    assert f"{http} allows it" in texts(passed)
    stopped = grouped(25)
    assert stopped.outcome == Dropped("hosts/h1", DropReason.SECURITY_GROUP)
    assert f"{house} denies it" in texts(stopped)
    unheard = grouped(81)
    assert unheard.outcome == Dropped("hosts/h2", DropReason.SECURITY_GROUP)
    assert "no rule speaks of it" in texts(unheard)


def test_what_is_not_there_is_missing() -> None:
    made = planes()
    with pytest.raises(Missing, match="hosts/h9"):
        trace(made, "hosts/h9", WEB1, b"")
    with pytest.raises(Missing, match="tenants/blue/ports/none is not bound on hosts/h1"):
        trace(made, "hosts/h1", "tenants/blue/ports/none", b"")
    with pytest.raises(Missing, match="is not on hosts/h3"):
        probe(made["hosts/h3"], WEB1, "10.0.1.5")
    with pytest.raises(Rejected, match="port 65536 is outside"):
        probe(made["hosts/h1"], WEB1, "10.0.1.5", Protocol.TCP, 65_536)


def test_a_row_that_cannot_be_is_refused() -> None:
    with pytest.raises(Rejected, match="VSID 1 is outside"):
        plane_of("hosts/h1", [Subnet(1, p.BLUE, (), (), p.ROUTER, 0)])


def test_rows_may_come_in_any_order() -> None:
    backwards = plane_of("hosts/h1", reversed(p.ROWS))
    assert set(backwards.read()) == set(plane_of("hosts/h1", p.ROWS).read())


def test_a_trace_leaves_the_counters_of_other_planes_alone() -> None:
    live = plane_of("hosts/h1", p.ROWS)
    before = live.counters()
    fresh = plane_of("hosts/h1", live.read())
    trace({"hosts/h1": fresh}, "hosts/h1", WEB1, probe(fresh, WEB1, "10.0.1.5"))
    assert live.counters() == before
    assert fresh.counters() != before


def bridged(*hosts: str, outside: bool = False) -> dict[str, ReferenceDataPlane]:
    """The same hosts, where blue's first subnet is a VLAN."""
    policy = bridge.OUTSIDE if outside else bridge.BRIDGED
    shared = tuple(row for row in policy.rows if not isinstance(row, Host | Port))
    there: Mapping[str, tuple[Row, ...]] = {
        "hosts/h1": policy.rows,
        "hosts/h2": (
            *shared,
            Host("hosts/h2", (p.PA2,), (Uplink("eth1", 1500, bridge.NETWORK),)),
            Port(WEB3, p.BLUE_1, p.WEB3, ("10.0.1.20", "2001:db8:1::20")),
        ),
    }
    return {host: plane_of(host, there[host]) for host in hosts}


def test_a_packet_is_followed_through_a_vlan_to_the_host_where_policy_places_its_destination() -> None:
    made = bridged("hosts/h1", "hosts/h2")
    traced = trace(made, "hosts/h1", WEB1, probe(made["hosts/h1"], WEB1, "10.0.1.20"))
    assert isinstance(traced.outcome, Delivered)
    assert (traced.outcome.host, traced.outcome.port) == ("hosts/h2", WEB3)
    assert f"hosts/h1: out by {p.UPLINK}, in VLAN 100: 52 bytes" in texts(traced)
    assert "hosts/h2: from eth1, in VLAN 100: VSID 5001, 52 bytes" in texts(traced)
    alone = bridged("hosts/h1")
    traced = trace(alone, "hosts/h1", WEB1, probe(alone["hosts/h1"], WEB1, "10.0.1.20"))
    assert traced.outcome == LeftForPa("hosts/h1", p.PA2), "whoever asks is told which host to add"


def test_what_is_for_a_machine_behind_the_switch_ends_on_the_wire() -> None:
    made = bridged("hosts/h1", "hosts/h2")
    traced = trace(made, "hosts/h1", WEB1, probe(made["hosts/h1"], WEB1, "10.0.1.200"))
    assert LeftForWire("hosts/h1", p.UPLINK, 100) in (traced.outcome, *traced.copies)
    assert "a copy out by" in texts(traced)
    outside = bridged("hosts/h1", outside=True)
    frame = probe(outside["hosts/h1"], WEB1, "203.0.113.9")
    assert frame[12:14] == b"\x08\x06", "a guest asks for its gateway first, which is out there"
    traced = trace(outside, "hosts/h1", WEB1, frame)
    assert LeftForWire("hosts/h1", p.UPLINK, 100) in (traced.outcome, *traced.copies)

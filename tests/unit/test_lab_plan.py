"""What a lab's plan builds, said without building it."""

from __future__ import annotations

from typing import Any

import pytest

from weft.kit.errors import Rejected
from weft.lab import plan, spec
from weft.lab.plan import (
    AddAddress,
    AddDefaultRoute,
    AddNamespace,
    AddVeth,
    DeleteLink,
    Guest,
    Rename,
    SetSysctl,
    SetUp,
)

WEB = "tenants/blue/routing-domains/prod/virtual-subnets/web"
SUBNETS: dict[str, dict[str, Any]] = {
    WEB: {"prefixes": ["10.0.0.0/24", "fd00:a::/64"], "gateways": ["10.0.0.1", "fd00:a::1"], "mtu_bytes": 0}
}


def lab(more: str = "") -> spec.LabSpec:
    return spec.parse(f"lab: x\nhosts: [h1, h2]\n{more}", "x.yaml", lambda _name: "")


def port(name: str, host: str | None = "hosts/h1", *addresses: str, mac: str = "02:00:00:00:00:01") -> dict[str, Any]:
    chosen = list(addresses) or ["10.0.0.5", "fd00:a::5"]
    return {"name": name, "spec": {"virtual_subnet": WEB, "mac": mac, "addresses": chosen, "host": host}}


def one(*ports: dict[str, Any], more: str = "") -> list[Guest]:
    return plan.guests(lab(more), ports, SUBNETS)


def test_a_name_of_one_lab_is_never_below_another_labs_prefix() -> None:
    assert not plan.host_namespace("a-b", "h1").startswith(plan.prefix("a"))
    assert not plan.guest_namespace("a", "tenants/t/ports/p").startswith(plan.prefix("a-t"))


def test_each_host_is_alone_in_its_subnet_behind_the_fabric() -> None:
    steps = plan.underlay_steps(lab())
    assert [each.name for each in steps if isinstance(each, AddNamespace)] == [
        "weft.x.fabric",
        "weft.x.host.h1",
        "weft.x.host.h2",
    ]
    assert [each.mtu_bytes for each in steps if isinstance(each, AddVeth)] == [1500, 1500]
    assert AddAddress("weft.x.host.h2", "eth0", "100.64.2.2/24") in steps
    assert AddAddress("weft.x.fabric", "host2", "100.64.2.1/24") in steps
    assert AddDefaultRoute("weft.x.host.h2", "100.64.2.1") in steps


def test_the_fabric_forwards_and_a_host_does_not() -> None:
    steps = plan.underlay_steps(lab())
    assert SetSysctl("weft.x.fabric", "ipv4/ip_forward", 1) in steps
    assert SetSysctl("weft.x.host.h1", "ipv4/ip_forward", 0) in steps


def test_a_guest_has_what_the_api_gave_its_port() -> None:
    [guest] = one(port("tenants/blue/ports/web-1"))
    assert guest == Guest(
        "tenants/blue/ports/web-1",
        "weft.x.guest.blue.web-1",
        "h1",
        "tapweb-1",
        explicit=False,
        mac="02:00:00:00:00:01",
        addresses=("10.0.0.5/24", "fd00:a::5/64"),
        gateways=("10.0.0.1", "fd00:a::1"),
        mtu_bytes=1458,
    )


def test_a_port_that_is_nowhere_is_no_guest() -> None:
    assert one(port("tenants/blue/ports/web-1", None)) == []


def test_a_guest_of_one_family_has_that_gateway_only() -> None:
    [guest] = one(port("tenants/blue/ports/web-1", "hosts/h1", "10.0.0.5"))
    assert guest.gateways == ("10.0.0.1",)


@pytest.mark.parametrize(
    ("more", "mtu_bytes"),
    [
        ("", 1458),
        ("underlay: {mtu_bytes: 9000}", 8958),
        ("guests: {blue/web-1: {mtu_bytes: 1500}}", 1500),
    ],
)
def test_the_mtu_is_what_the_underlay_leaves_unless_the_yaml_says_otherwise(more: str, mtu_bytes: int) -> None:
    assert one(port("tenants/blue/ports/web-1"), more=more)[0].mtu_bytes == mtu_bytes


def test_over_ipv6_the_outer_header_is_20_bytes_longer() -> None:
    text = 'lab: x\nunderlay: {prefix: "fd64::/48"}\nhosts: [h1]'
    six = spec.parse(text, "x.yaml", lambda _name: "")
    assert plan.guests(six, [port("tenants/blue/ports/web-1")], SUBNETS)[0].mtu_bytes == 1438


def test_two_ports_whose_taps_would_have_one_name_are_attached_by_hand() -> None:
    blue, red = one(port("tenants/blue/ports/web-1"), port("tenants/red/ports/web-1"))
    assert blue.explicit
    assert red.explicit
    assert blue.interface != red.interface


def test_the_same_name_on_different_hosts_is_a_tap_on_each() -> None:
    blue, red = one(port("tenants/blue/ports/web-1"), port("tenants/red/ports/web-1", "hosts/h2"))
    assert (blue.interface, red.interface) == ("tapweb-1", "tapweb-1")


def test_a_tap_that_was_insisted_on_and_is_ambiguous_is_refused() -> None:
    with pytest.raises(Rejected) as caught:
        one(
            port("tenants/blue/ports/web-1"), port("tenants/red/ports/web-1"), more="guests: {red/web-1: {attach: tap}}"
        )
    assert caught.value.field == "guests.tenants/red/ports/web-1.attach"


def test_a_wish_for_a_port_that_is_no_guest_is_refused() -> None:
    with pytest.raises(Rejected) as caught:
        one(more="guests: {blue/web-9: {}}")
    assert caught.value.field == "guests.tenants/blue/ports/web-9"


@pytest.mark.parametrize("name", ["tenants/t/ports/p", f"tenants/{'t' * 63}/ports/{'p' * 63}"])
def test_interface_names_fit(name: str) -> None:
    assert len(plan.tap_name(name)) <= 15
    assert len(plan.explicit_name(name)) <= 15


def test_the_host_says_nothing_to_a_guest_before_its_wire_is_up() -> None:
    guests = one(port("tenants/blue/ports/web-1"))
    steps = plan.guest_steps(lab(), guests)
    muted = steps.index(SetSysctl("weft.x.host.h1", "ipv6/conf/tapweb-1/disable_ipv6", 1))
    assert muted < steps.index(SetUp("weft.x.host.h1", "tapweb-1"))


def test_every_route_comes_after_the_link_is_up() -> None:
    steps = plan.guest_steps(lab(), one(port("tenants/blue/ports/web-1"), port("tenants/blue/ports/web-2", "hosts/h2")))
    for index, step in enumerate(steps):
        if isinstance(step, AddDefaultRoute):
            assert SetUp(step.namespace, "eth0") in steps[:index]


#: The guest has its addresses there before it speaks there, and speaks there before they go here.
ORDER = (AddAddress, plan.TurnDefaultRoute, plan.DeleteAddress)


def test_a_move_builds_the_new_wire_beside_the_old_and_then_hands_over() -> None:
    [guest] = one(port("tenants/blue/ports/web-1"))
    moved = plan.moved(lab(), guest, "h2", [])
    assert moved.host == "h2"
    assert not any(isinstance(step, DeleteLink) for step in plan.arrival_steps("x", moved))
    handover = plan.handover_steps(moved)
    assert handover[:2] == [DeleteLink(guest.namespace, "eth0"), Rename(guest.namespace, "arriving", "eth0")]
    assert [step.address for step in handover if isinstance(step, AddAddress)] == list(guest.addresses)
    change_over = [*plan.welcome_steps(moved), *plan.change_over_steps(moved)]
    assert [type(step) for step in change_over] == sorted((type(step) for step in change_over), key=ORDER.index)
    assert plan.settling_steps(moved)[0] == DeleteLink(guest.namespace, "eth0"), "the old wire goes last of all"


def test_a_move_beside_a_port_of_the_same_short_name_is_attached_by_hand() -> None:
    blue, red = one(port("tenants/blue/ports/web-1"), port("tenants/red/ports/web-1", "hosts/h2"))
    assert not blue.explicit
    assert plan.moved(lab(), blue, "h2", [red]).explicit


def test_a_move_to_no_host_of_the_lab_is_refused() -> None:
    [guest] = one(port("tenants/blue/ports/web-1"))
    with pytest.raises(Rejected, match="no host of the lab"):
        plan.moved(lab(), guest, "h9", [])

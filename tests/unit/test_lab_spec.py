"""A lab's YAML is complete after parsing, or refused with the field at fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.kit.errors import Rejected
from weft.lab import spec
from weft.lab.spec import Attach, LabSpec

EXAMPLES = Path(__file__).parents[2] / "examples"


def parse(text: str, **files: str) -> LabSpec:
    return spec.parse(text, "lab.yaml", lambda name: files[name])


def test_hosts_without_a_subnet_each_get_one_of_the_underlay() -> None:
    lab = parse("lab: x\nhosts: [h1, h2]")
    assert [(host.name, host.subnet, host.gateway, host.pa) for host in lab.hosts] == [
        ("h1", "100.64.1.0/24", "100.64.1.1", "100.64.1.2"),
        ("h2", "100.64.2.0/24", "100.64.2.1", "100.64.2.2"),
    ]


def test_a_subnet_that_is_given_is_kept_and_not_given_again() -> None:
    lab = parse("lab: x\nhosts: {h1: {subnet: 100.64.1.0/26}, h2: {}, h3: {subnet: 192.0.2.64/26}}")
    assert [host.subnet for host in lab.hosts] == ["100.64.1.0/26", "100.64.2.0/24", "192.0.2.64/26"]


def test_hosts_at_one_switch_are_in_one_subnet_and_its_pool_begins_with_the_first() -> None:
    lab = parse("lab: x\nunderlay: {fabric: bridged}\nhosts: [h1, h2]")
    assert [(host.subnet, host.gateway, host.pa) for host in lab.hosts] == [
        ("100.64.1.0/24", "100.64.1.1", "100.64.1.2"),
        ("100.64.1.0/24", "100.64.1.1", "100.64.1.3"),
    ]
    assert lab.objects[0].spec["pools"] == [{"prefix": "100.64.1.0/24", "first": "100.64.1.2"}]


def test_an_underlay_may_be_ipv6() -> None:
    lab = parse('lab: x\nunderlay: {prefix: "fd64::/48"}\nhosts: [h1]')
    assert (lab.hosts[0].subnet, lab.hosts[0].pa) == ("fd64:0:0:1::/64", "fd64:0:0:1::2")


def test_hosts_and_their_provider_network_become_objects() -> None:
    lab = parse("lab: x\nunderlay: {mtu_bytes: 9000}\nhosts: [h1]\nobjects: [{name: tenants/t}]")
    network, host, tenant = lab.objects
    assert network.spec == {"pools": [{"prefix": "100.64.1.0/24", "first": "100.64.1.2"}], "mtu_bytes": 9000}
    assert host.spec["uplinks"] == [
        {"interface": "eth0", "provider_network": "provider-networks/fabric", "pas": ["100.64.1.2"]}
    ]
    assert tenant.name == "tenants/t"


def test_an_object_that_is_given_is_not_made_up() -> None:
    lab = parse("lab: x\nhosts: [h1]\nobjects: [{name: hosts/h1, spec: {uplinks: []}}]")
    assert [each.spec for each in lab.objects if each.name == "hosts/h1"] == [{"uplinks": []}]


def test_objects_may_be_included_from_other_files() -> None:
    lab = parse("lab: x\nhosts: [h1]\ninclude: [more]\nobjects: [{name: tenants/b}]", more="name: tenants/a")
    assert [each.name for each in lab.objects][-2:] == ["tenants/a", "tenants/b"]


def test_guests_are_wished_for_by_short_or_full_name() -> None:
    lab = parse("lab: x\nhosts: [h1]\nguests: {a/b: {attach: explicit}, tenants/c/ports/d: {mtu_bytes: 1400}}")
    assert lab.guests["tenants/a/ports/b"].attach is Attach.EXPLICIT
    assert lab.guests["tenants/c/ports/d"].mtu_bytes == 1400


def test_hosts_have_an_uplink_into_each_further_network() -> None:
    lab = parse("lab: x\nunderlay: {further: [100.65.0.0/16, 'fd65::/48']}\nhosts: [h1, h2]")
    assert [[leg.pa for leg in host.further] for host in lab.hosts] == [
        ["100.65.1.2", "fd65:0:0:1::2"],
        ["100.65.2.2", "fd65:0:0:2::2"],
    ]
    uplinks = next(each.spec["uplinks"] for each in lab.objects if each.name == "hosts/h2")
    assert [(each["interface"], each["provider_network"], each["pas"]) for each in uplinks] == [
        ("eth0", "provider-networks/fabric", ["100.64.2.2"]),
        ("eth1", "provider-networks/fabric-2", ["100.65.2.2"]),
        ("eth2", "provider-networks/fabric-3", ["fd65:0:0:2::2"]),
    ]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("hosts: [h1]", "lab"),
        ("lab: X_\nhosts: [h1]", "lab"),
        (f"lab: {'a' * 33}\nhosts: [h1]", "lab"),
        ("lab: x", "hosts"),
        ("lab: x\nunderlay: {fabric: woven}\nhosts: [h1]", "underlay.fabric"),
        ("lab: x\nunderlay: {fabric: bridged, further: [100.65.0.0/16]}\nhosts: [h1]", "underlay.further"),
        (
            "lab: x\nunderlay: {fabric: bridged, prefix: 100.64.0.0/30}\nhosts: {h1: {subnet: 100.64.0.0/30}, h2: {}}",
            "underlay.prefix",
        ),
        ("lab: x\nhosts: {}", "hosts"),
        ("lab: x\nhosts: [H1]", "hosts.H1"),
        ("lab: x\nhosts: {h1: {subnet: 10.0.0.1/24}}", "hosts.h1.subnet"),
        ("lab: x\nhosts: {h1: {subnet: 10.0.0.0/31}}", "hosts.h1.subnet"),
        ("lab: x\nhosts: {h1: {subnet: 10.0.0.0/24}, h2: {subnet: 10.0.0.0/25}}", "hosts.h2.subnet"),
        ("lab: x\nhosts: {h1: {pa: 10.0.0.1}}", "hosts.h1.pa"),
        ("lab: x\nhosts: {h1: {attach: magic}}", "hosts.h1.attach"),
        ("lab: x\nhosts: {h1: 3}", "hosts.h1"),
        ("lab: x\nunderlay: {prefix: 10.0.0.0/24}\nhosts: [h1, h2]", "underlay.prefix"),
        ("lab: x\nunderlay: {mtu_bytes: 100}\nhosts: [h1]", "underlay.mtu_bytes"),
        ("lab: x\nunderlay: {mtu_bytes: true}\nhosts: [h1]", "underlay.mtu_bytes"),
        ("lab: x\nunderlay: {mtu: 1500}\nhosts: [h1]", "underlay.mtu"),
        ("lab: x\nunderlay: {further: 10.0.0.0/8}\nhosts: [h1]", "underlay.further"),
        ("lab: x\nunderlay: {further: [100.64.9.0/24]}\nhosts: [h1]", "underlay.further[0]"),
        ("lab: x\nunderlay: {further: [10.0.0.0/8, 10.1.0.0/16]}\nhosts: [h1]", "underlay.further[1]"),
        ("lab: x\nunderlay: {further: [10.0.0.0/24]}\nhosts: [h1, h2]", "underlay.further[0]"),
        ("lab: x\nhosts: [h1]\nguests: {web: {}}", "guests.web"),
        ("lab: x\nhosts: [h1]\nguests: {a/b: {mtu_bytes: 1}}", "guests.a/b.mtu_bytes"),
        ("lab: x\nhosts: [h1]\nobjects: {name: x}", "objects"),
        ("lab: x\nhosts: [h1]\ninclude: [3]", "include[0]"),
        ("lab: x\nhosts: [h1]\nguest: {}", "guest"),
        ("lab: x\nhosts: [" + ", ".join(f"h{i}" for i in range(251)) + "]", "hosts"),
    ],
)
def test_what_is_wrong_is_refused_with_its_field(text: str, field: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse(text)
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["", "- 1", "lab: x\n---\nlab: y", "lab: x\nobjects: [{name: 3}]\nhosts: [h1]"])
def test_what_is_no_lab_at_all_is_refused(text: str) -> None:
    with pytest.raises(Rejected):
        parse(text)


LABS = [file for file in sorted(EXAMPLES.glob("*.yaml")) if "\nlab: " in file.read_text()]


@pytest.mark.parametrize("file", LABS, ids=lambda path: path.name)
def test_the_labs_among_the_examples_are_right(file: Path) -> None:
    lab = spec.parse(file.read_text(), file.name, lambda other: (EXAMPLES / other).read_text())
    assert lab.hosts


def test_a_host_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(Rejected, match="it has h1, h2"):
        parse("lab: x\nhosts: [h1, h2]").host("h3")

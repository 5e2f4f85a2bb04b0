from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.kit.errors import Rejected
from weft.model import values
from weft.model.features import Rule, overhead_bytes


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("02:00:00:00:00:0a", "02:00:00:00:00:0a"),
        ("02:00:00:00:00:0A", "02:00:00:00:00:0a"),
        ("02-0B-00-00-00-01", "02:0b:00:00:00:01"),
    ],
)
def test_a_mac_is_lower_case_with_colons(text: str, canonical: str) -> None:
    assert values.parse_mac(text) == canonical


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("zz", "'zz' is not a MAC address such as 02:00:00:00:00:01"),
        ("02:00:00:00:00", "is not a MAC address"),
        ("02:00-00:00:00:01", "is not a MAC address"),
        ("02:00:00:00:00:01\n", "is not a MAC address"),
        ("01:00:5e:00:00:01", "group's MAC"),
        ("ff:ff:ff:ff:ff:ff", "group's MAC"),
        ("00:00:00:00:00:00", "nobody's MAC"),
    ],
)
def test_what_is_no_interfaces_mac_is_refused(text: str, saying: str) -> None:
    with pytest.raises(Rejected) as fault:
        values.parse_mac(text)
    assert saying in fault.value.message


@given(st.ip_addresses())
def test_every_address_is_read_as_ipaddress_writes_it(address: object) -> None:
    text = str(address)
    if getattr(address, "ipv4_mapped", None) is not None:
        with pytest.raises(Rejected, match="IPv6 clothes"):
            values.parse_ip(text)
        return
    ip = values.parse_ip(text)
    assert ip == text
    assert values.parse_ip(text.upper()) == ip
    assert values.ip_version(ip) == ip_address(text).version
    number = values.ip_number(ip)
    assert number == int(ip_address(text))
    assert (values.ipv4_text if values.ip_version(ip) == 4 else values.ipv6_text)(number) == ip


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("10.0.0", "'10.0.0' is not an IP address such as 10.0.1.5"),
        ("10.0.0.01", "is not an IP address"),
        ("10.0.0.256", "is not an IP address"),
        ("10.0.0.1\n", "is not an IP address"),
        ("10.0.0.١", "is not an IP address"),
        ("::ffff:10.0.0.1", "write 10.0.0.1"),
        ("fe80::1%eth0", "has a zone; write fe80::1"),
        ("", "is not an IP address"),
    ],
)
def test_what_is_no_address_is_refused(text: str, saying: str) -> None:
    with pytest.raises(Rejected) as fault:
        values.parse_ip(text)
    assert saying in fault.value.message


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.1.0/24", "10.0.1.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("FD00:0001::/64", "fd00:1::/64"),
        ("10.0.0.5", "10.0.0.5/32"),
        ("fd00::5", "fd00::5/128"),
    ],
)
def test_a_prefix_is_an_address_and_a_length(text: str, canonical: str) -> None:
    assert values.parse_prefix(text) == canonical == str(ip_network(text))


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("10.0.1.5/24", "'10.0.1.5/24' has bits set beyond its length; 10.0.1.0/24 is the prefix that it is in"),
        ("10.0.1.0/33", "is not a prefix such as 10.0.1.0/24"),
        ("10.0.1.0/255.255.255.0", "is not a prefix"),
        ("10.0.1.0/", "is not a prefix"),
        ("10.0.1.0/-1", "is not a prefix"),
        ("fe80::1%eth0/64", "is not a prefix"),
        ("::ffff:10.0.0.0/104", "IPv4 prefix in IPv6 clothes"),
        ("blue", "is not a prefix"),
    ],
)
def test_what_is_no_prefix_is_refused(text: str, saying: str) -> None:
    with pytest.raises(Rejected) as fault:
        values.parse_prefix(text)
    assert saying in fault.value.message


def test_vsids_that_rfc_7637_reserves_are_refused() -> None:
    assert values.parse_vsid(4096) == 4096
    assert values.parse_vsid(16_777_214) == 16_777_214
    for reserved in (-1, 0, 4095, 16_777_215):
        with pytest.raises(Rejected, match=rf"VSID {reserved} is outside 4096\.\.16777214"):
            values.parse_vsid(reserved)
    assert values.next_vsid(values.parse_vsid(16_777_214)) == 4096


def test_an_rdid_is_a_uuid() -> None:
    assert values.parse_rdid("0F0C2B9E-4D1F-5D55-9A43-6C9F6B1F2A10") == "0f0c2b9e-4d1f-5d55-9a43-6c9f6b1f2a10"
    for text in ("x", "0f0c2b9e4d1f5d559a436c9f6b1f2a10", "{0f0c2b9e-4d1f-5d55-9a43-6c9f6b1f2a10}"):
        with pytest.raises(Rejected, match="is not a UUID such as"):
            values.parse_rdid(text)


@given(st.text(max_size=40), st.integers(0, 5))
def test_what_is_chosen_for_a_name_is_valid_and_always_the_same(name: str, attempt: int) -> None:
    mac = values.default_mac(name, attempt)
    assert values.parse_mac(mac) == mac == values.default_mac(name, attempt)
    assert mac.startswith("02:")
    assert mac != values.default_mac(name, attempt + 1)
    assert values.parse_vsid(values.default_vsid(name)) == values.default_vsid(name)
    rdid = values.default_rdid(name, attempt)
    assert values.parse_rdid(rdid) == rdid != values.default_rdid(name, attempt + 1)


def test_what_was_chosen_stays_what_it_was_in_every_release() -> None:
    """A catalog that is built again elsewhere must choose the same: these figures are for ever."""
    assert values.default_rdid("tenants/blue/routing-domains/prod") == "12445772-3630-53ac-9a78-8eed0702b1e7"
    assert values.default_vsid("tenants/blue/routing-domains/prod/virtual-subnets/web") == 7036557
    assert values.default_mac("tenants/blue/ports/web-1") == "02:53:dd:a5:bb:d6"


@pytest.mark.parametrize("text", ["", "a" * 16, "eth 0", "a/b", ".", "..", "eth0\n", "ä"])
def test_what_linux_would_not_call_an_interface_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="is not an interface's name"):
        values.parse_interface(text)


def test_an_interfaces_name_may_have_what_linux_allows() -> None:
    for text in ("eth1", "a" * 15, "bond0.100", "tap0f0c2b9e-4d", "br-int"):
        assert values.parse_interface(text) == text


@pytest.mark.parametrize(
    ("rule", "over_ipv4", "over_ipv6"),
    [(Rule.NVGRE, 42, 62), (Rule.VXLAN, 50, 70), (Rule.GENEVE, 50, 70), (Rule.GRE, 42, 62), (Rule.STT, 72, 92)],
)
def test_a_rule_takes_its_headers_and_the_inner_ethernet_from_the_path(
    rule: Rule, over_ipv4: int, over_ipv6: int
) -> None:
    assert (overhead_bytes(rule, 4), overhead_bytes(rule, 6)) == (over_ipv4, over_ipv6)

"""The packet codec, against figures worked out elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.kit.errors import Rejected
from weft.policy.drop import DropReason
from weft.reference import packet

MAC = bytes.fromhex("020000000104")
ASKER = bytes.fromhex("020000000105")


def sum_by_words(data: bytes) -> int:
    """RFC 1071 as it is written there."""
    total = 0
    for at in range(0, len(data) - 1, 2):
        total += data[at] << 8 | data[at + 1]
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def test_a_checksum_is_that_of_rfc_1071s_example() -> None:
    assert packet.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.binary(max_size=200))
def test_a_checksum_is_the_sum_of_the_words(data: bytes) -> None:
    assert packet.checksum(data) == sum_by_words(data)


def test_an_update_is_that_of_rfc_1624s_example() -> None:
    assert packet.checksum_update(0xDD2F, 0x5555, 0x3285) == 0x0000


@given(st.integers(1, 0xFFFF), st.integers(0, 0xFFFF), st.binary(min_size=2, max_size=40).filter(any))
def test_an_updated_checksum_is_a_new_one(before: int, after: int, rest: bytes) -> None:
    old = packet.checksum(before.to_bytes(2, "big") + rest)
    new = packet.checksum(after.to_bytes(2, "big") + rest)
    assert packet.checksum_update(old, before, after) in {new, new ^ 0xFFFF if new in {0, 0xFFFF} else new}


def test_a_word_that_stays_the_same_is_updated_too() -> None:
    assert packet.checksum_update(0xFFFF, 0x4001, 0x4001) == 0


def test_a_link_local_address_is_made_of_a_mac_and_tells_it() -> None:
    # RFC 4291 appendix A: the universal bit is turned over.
    address = packet.link_local(bytes.fromhex("34567890abcd"))
    assert packet.address_text(address) == "fe80::3656:78ff:fe90:abcd"
    assert packet.mac_of_link_local(address) == bytes.fromhex("34567890abcd")


@given(st.binary(min_size=6, max_size=6))
def test_every_macs_link_local_address_tells_it(mac: bytes) -> None:
    assert packet.mac_of_link_local(packet.link_local(mac)) == mac


@pytest.mark.parametrize("text", ["fe80::1", "fe80::1:3656:78ff:fe90:abcd", "2001:db8::3656:78ff:fe90:abcd"])
def test_other_addresses_tell_no_mac(text: str) -> None:
    assert packet.mac_of_link_local(packet.address_bytes(text)) is None


def test_a_flow_id_has_the_value_of_the_specification() -> None:
    # 10.0.1.4 ^ rotl(10.0.1.20, 7) ^ 17 ^ 0x9c400035 = 0x0a000104 ^ 0x00008a05 ^ 0x11 ^ 0x9c400035
    mixed = 0x0A000104 ^ 0x00008A05 ^ 0x11 ^ 0x9C400035
    whole = packet.ipv4(bytes([10, 0, 1, 4]), bytes([10, 0, 1, 20]), 17, bytes.fromhex("9c40003500080000"))
    parsed = packet.parse(packet.ethernet(MAC, MAC, 0x0800, whole))
    assert isinstance(parsed, packet.Ip)
    assert packet.flow_id(parsed) == (mixed * 0x9E3779B1 & 0xFFFFFFFF) >> 24


def test_a_flow_id_is_constant_for_a_flow_and_moves_with_it() -> None:
    def flow(body: bytes, ttl: int = 64, port: int = 53) -> int:
        head = (4000).to_bytes(2, "big") + port.to_bytes(2, "big") + bytes(4)
        frame = packet.ethernet(
            MAC, MAC, 0x86DD, packet.ipv6(bytes(15) + b"\1", bytes(15) + b"\2", 17, head + body, hop_limit=ttl)
        )
        parsed = packet.parse(frame)
        assert isinstance(parsed, packet.Ip)
        return packet.flow_id(parsed)

    assert flow(b"") == flow(b"more", ttl=3)
    assert len({flow(b"", port=port) for port in range(64)}) > 8


@pytest.mark.parametrize("text", ["", "02:00:00:00:00", "02-00-00-00-00-01", "02:00:00:00:00:0G", "02:00:00:00:00:AA"])
def test_a_mac_is_taken_in_its_canonical_text_only(text: str) -> None:
    with pytest.raises(Rejected, match="is not a MAC address such as 02:00:00:00:00:01"):
        packet.mac_bytes(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not an IP address"),
        ("10.0.0.256", "is not an IP address"),
        ("10.0.0.0/8", "is not an IP address"),
        ("2001:DB8::1", "write '2001:db8::1'"),
        ("::ffff:a00:1", "write the IPv4 address"),
    ],
)
def test_an_address_is_taken_in_its_canonical_text_only(text: str, says: str) -> None:
    with pytest.raises(Rejected, match=says):
        packet.address_bytes(text)


@given(st.ip_addresses())
def test_an_addresss_text_and_bytes_are_the_same(address: object) -> None:
    text = str(address)
    if ":" in text and packet.is_mapped(address.packed):
        return
    assert packet.address_text(packet.address_bytes(text)) == text


@given(st.binary(max_size=80))
def test_bytes_are_parsed_or_refused_with_a_reason(frame: bytes) -> None:
    assert isinstance(packet.parse(frame), packet.Ip | packet.Arp | DropReason)


def test_an_arp_request_is_answered_in_place() -> None:
    ask = packet.parse(packet.arp_request(ASKER, bytes([10, 0, 1, 5]), bytes([10, 0, 1, 4])) + b"trailing")
    assert isinstance(ask, packet.Arp)
    answer = packet.parse(packet.arp_reply(ask, MAC))
    assert isinstance(answer, packet.Arp)
    assert (answer.opcode, answer.sender_mac, answer.sender) == (packet.ARP_REPLY, MAC, bytes([10, 0, 1, 4]))
    assert answer.frame.endswith(bytes([10, 0, 1, 5]) + b"trailing")


def test_a_solicitation_is_one() -> None:
    frame = packet.neighbour_solicitation(ASKER, packet.link_local(ASKER), packet.address_bytes("2001:db8::a:b:c"))
    parsed = packet.parse(frame)
    assert isinstance(parsed, packet.Ip)
    assert packet.neighbour_message(parsed) == packet.NEIGHBOUR_SOLICITATION
    assert packet.address_text(parsed.destination) == "ff02::1:ff0b:c"
    assert parsed.destination_mac.hex(":") == "33:33:ff:0b:00:0c"

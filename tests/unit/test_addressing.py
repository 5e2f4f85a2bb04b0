"""What guests are told when they ask, in every state that a client can be in. The client is scapy: not our codec."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Advertise,
    DHCP6_Confirm,
    DHCP6_Decline,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIAAddress,
    DHCP6OptOptReq,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptRouteInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from budget import examples
from weft.addressing import dhcp4, router
from weft.addressing.answer import answer
from weft.addressing.terms import Terms, mtu_of, terms_of
from weft.policy import rows
from weft.policy.rows import Ipv6Mode, Rule
from weft.policy.upcall import UpcallKind

MAC, ROUTER = "02:00:00:00:00:0a", "02:57:45:46:54:01"
CA4, CA6, GATEWAY = "10.0.1.4", "fd00:1::4", "10.0.1.1"
OWN_6 = "fd00:1::ff:fe00:a"
LINK_LOCAL, ROUTER_LINK_LOCAL = "fe80::ff:fe00:a", "fe80::57:45ff:fe46:5401"
EVERYBODY = "ff:ff:ff:ff:ff:ff"

TOLD = rows.Dhcp(
    dns_servers=("10.0.0.53", "fd00::53", "10.0.1.53"),
    search_domains=("blue.example", "example.com"),
    ntp_servers=("10.0.0.123", "fd00::123"),
    routes=(rows.DhcpRoute("172.16.0.0/12", "10.0.1.9"), rows.DhcpRoute("fd00:a::/32", "fd00:1::1")),
    lease_s=8000,
)
HOST = rows.Host("hosts/h1", ("192.0.2.11",), (rows.Uplink("eth0", 1500),))
SUBNET = rows.Subnet(
    5001, "0b1e0000-0000-4000-8000-000000000001", ("10.0.1.0/24", "fd00:1::/64"), (GATEWAY, "fd00:1::1"), ROUTER, 0,
    dhcp=TOLD,
)  # fmt: skip
PORT = rows.Port("tenants/blue/ports/web-1", 5001, MAC, (CA4, CA6))


def terms(port: rows.Port = PORT, **told: Any) -> Terms:
    found = terms_of(port, replace(SUBNET, dhcp=replace(TOLD, **told)), HOST)
    assert found is not None
    return found


USUAL = terms()
NO_ROUTER = terms(router=False)


# DHCPv4


def client4(kind: str, *options: Any, source: str = "0.0.0.0", to: str = "255.255.255.255", **fields: Any) -> bytes:
    mac = fields.pop("mac", MAC)
    head = BOOTP(chaddr=bytes.fromhex(mac.replace(":", "")), xid=0x01020304, **fields)
    return bytes(
        Ether(src=MAC, dst=EVERYBODY) / IP(src=source, dst=to) / UDP(sport=68, dport=67) / head
        / DHCP(options=[("message-type", kind), *options, "end"])
    )  # fmt: skip


def ask4(frame: bytes, of: Terms = USUAL) -> Packet | None:
    found = answer(of, UpcallKind.DHCP4, frame)
    if found is None:
        return None
    read = Ether(found)
    rebuilt = read.copy()
    del rebuilt[IP].chksum, rebuilt[UDP].chksum
    again = Ether(bytes(rebuilt))
    assert (read[IP].chksum, read[UDP].chksum) == (again[IP].chksum, again[UDP].chksum)
    assert (read.src, read[IP].src) == (ROUTER, GATEWAY)
    assert (read[UDP].sport, read[UDP].dport) == (67, 68)
    assert read[BOOTP].xid == 0x01020304
    return read


def ca4_of(frame: bytes) -> str:
    """The address that an offer is of."""
    return str(Ether(frame)[BOOTP].yiaddr)


def options4(reply: Packet | None) -> dict[Any, Any]:
    """By scapy's name; those of 119 and 121 by number and as bytes, since scapy's words for them differ by its age."""
    assert reply is not None
    found: dict[Any, Any] = {
        option[0]: option[1] if len(option) == 2 else option[1:]
        for option in reply[DHCP].options
        if option not in ("end", "pad")
    }
    packed, at = bytes(reply)[14 + 20 + 8 + 240 :], 0
    while packed[at] != 255:
        if packed[at] in (119, 121):
            found[packed[at]] = packed[at + 2 : at + 2 + packed[at + 1]]
        at += 2 + packed[at + 1]
    found.pop("classless_static_routes", None)
    return found


ALL = ("param_req_list", [1, 3, 6, 12, 15, 26, 28, 42, 119, 121])


def test_an_offer_says_all_that_was_asked_for() -> None:
    reply = ask4(client4("discover", ALL))
    assert reply is not None
    assert (reply.dst, reply[IP].dst, reply[BOOTP].yiaddr) == (MAC, CA4, CA4)
    found = options4(reply)
    assert found["message-type"] == 2
    assert found["server_id"] == GATEWAY
    assert (found["lease_time"], found["renewal_time"], found["rebinding_time"]) == (8000, 4000, 7000)
    assert found["subnet_mask"] == "255.255.255.0"
    assert found["broadcast_address"] == "10.0.1.255"
    assert found["router"] == GATEWAY
    assert found["interface-mtu"] == 1458
    assert found["name_server"] == ("10.0.0.53", "10.0.1.53")
    assert found["NTP_server"] == "10.0.0.123"
    assert found["hostname"] == b"web-1"
    assert found["domain"] == b"blue.example"
    assert found[119] == b"\4blue\7example\0\7example\3com\0"
    # RFC 3442: who heeds this heeds no router option.
    assert found[121] == bytes.fromhex("00 0a000101 0c ac10 0a000109")


def test_what_was_not_asked_for_is_not_said_but_what_an_address_is_no_use_without() -> None:
    found = options4(ask4(client4("discover", ("param_req_list", [6]))))
    assert set(found) == {
        "message-type", "server_id", "lease_time", "renewal_time", "rebinding_time",
        "name_server", "subnet_mask", "interface-mtu", 121,
    }  # fmt: skip


def test_who_asks_for_nothing_in_particular_is_told_everything() -> None:
    assert options4(ask4(client4("discover"))).keys() == options4(ask4(client4("discover", ALL))).keys()


def test_without_a_router_there_are_the_routes_alone() -> None:
    found = options4(ask4(client4("discover", ALL), NO_ROUTER))
    assert "router" not in found
    assert found[121] == bytes.fromhex("0c ac10 0a000109")
    port = options4(ask4(client4("discover", ALL), terms(replace(PORT, dhcp_router=False))))
    assert port == found
    assert 121 not in options4(ask4(client4("discover", ALL), terms(router=False, routes=())))


def test_a_client_that_cannot_take_unicast_yet_is_answered_by_broadcast() -> None:
    reply = ask4(client4("discover", flags=0x8000))
    assert reply is not None
    assert (reply.dst, reply[IP].dst) == (EVERYBODY, "255.255.255.255")


def test_rapid_commit_is_one_exchange() -> None:
    found = options4(ask4(client4("discover", (80, b""))))
    assert found["message-type"] == 5
    assert any(key in (80, "rapid_commit") for key in found)


STATES = {
    "selecting": {"options": [("server_id", GATEWAY), ("requested_addr", CA4)]},
    "init-reboot": {"options": [("requested_addr", CA4)]},
    "renewing": {"ciaddr": CA4, "source": CA4, "to": GATEWAY, "options": []},
    "rebinding": {"ciaddr": CA4, "source": CA4, "options": []},
}


@pytest.mark.parametrize("state", STATES)
def test_a_request_for_the_ports_address_is_granted_in_each_state(state: str) -> None:
    fields = dict(STATES[state])
    reply = ask4(client4("request", *fields.pop("options"), **fields))
    found = options4(reply)
    assert reply is not None
    assert (found["message-type"], reply[BOOTP].yiaddr, found["lease_time"]) == (5, CA4, 8000)
    assert (reply.dst, reply[IP].dst) == (MAC, CA4)


@pytest.mark.parametrize("state", STATES)
def test_a_request_for_another_address_is_refused_in_each_state(state: str) -> None:
    fields = {key: "10.0.1.99" if key == "ciaddr" else value for key, value in STATES[state].items()}
    options = [(key, "10.0.1.99" if key == "requested_addr" else value) for key, value in fields.pop("options")]
    reply = ask4(client4("request", *options, **fields))
    found = options4(reply)
    assert reply is not None
    assert (found["message-type"], reply[BOOTP].yiaddr, reply[BOOTP].ciaddr) == (6, "0.0.0.0", "0.0.0.0")
    assert (reply.dst, reply[IP].dst) == (EVERYBODY, "255.255.255.255")
    assert "lease_time" not in found


def test_of_several_addresses_a_client_keeps_the_one_that_it_has() -> None:
    two = terms(replace(PORT, cas=(CA4, "10.0.1.5", CA6)))
    for wanted, offered in (("10.0.1.5", "10.0.1.5"), ("10.0.1.6", CA4)):
        reply = ask4(client4("discover", ("requested_addr", wanted)), two)
        assert reply is not None
        assert reply[BOOTP].yiaddr == offered
    reply = ask4(client4("request", ciaddr="10.0.1.5", source="10.0.1.5"), two)
    assert reply is not None
    assert reply[BOOTP].yiaddr == "10.0.1.5"


def test_one_that_has_its_address_may_ask_for_the_rest() -> None:
    reply = ask4(client4("inform", ALL, ciaddr=CA4, source=CA4))
    found = options4(reply)
    assert reply is not None
    assert (found["message-type"], reply[BOOTP].yiaddr, reply[IP].dst) == (5, "0.0.0.0", CA4)
    assert "lease_time" not in found
    assert found["router"] == GATEWAY


def test_a_lease_without_end_is_never_renewed() -> None:
    found = options4(ask4(client4("discover"), terms(lease_s=0xFFFFFFFF)))
    assert found["lease_time"] == 0xFFFFFFFF
    assert "renewal_time" not in found


SILENCE_4 = {
    "another server was chosen": client4("request", ("server_id", "10.0.1.2"), ("requested_addr", CA4)),
    "a request for nothing": client4("request"),
    "an address is declined": client4("decline", ("server_id", GATEWAY), ("requested_addr", CA4)),
    "an address is released": client4("release", ("server_id", GATEWAY), ciaddr=CA4, source=CA4),
    "a relay agent asks": client4("discover", giaddr="10.0.9.1"),
    "another's hardware address": client4("discover", mac="02:00:00:00:00:0b"),
    "a server's message": client4("offer"),
    "BOOTP without DHCP": bytes(
        Ether(src=MAC, dst=EVERYBODY) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
        / BOOTP(chaddr=bytes.fromhex(MAC.replace(":", ""))) / Raw(bytes(64))
    ),
    "INFORM from an address that is not the port's": client4("inform", ciaddr="10.0.1.9", source=CA4),
}  # fmt: skip


@pytest.mark.parametrize("why", SILENCE_4)
def test_silence_where(why: str) -> None:
    assert ask4(SILENCE_4[why]) is None


def test_what_does_not_fit_is_left_out_from_the_end_and_never_half_said() -> None:
    long = terms(
        search_domains=tuple(f"{letter * 60}.example" for letter in "abc"),
        routes=tuple(rows.DhcpRoute(f"10.{n}.0.0/16", GATEWAY) for n in range(16)),
        dns_servers=tuple(f"10.0.0.{n}" for n in range(8)),
    )
    small = ask4(client4("discover", ALL), long)
    large = ask4(client4("discover", ALL, ("max_dhcp_size", 1500)), long)
    assert small is not None
    assert large is not None
    assert len(small[IP]) <= 576
    assert 576 < len(large[IP]) <= 1500
    assert {"subnet_mask", "interface-mtu", "router", 121} <= options4(small).keys()
    assert 119 not in options4(small)
    assert 119 in options4(large)
    assert small[BOOTP].options == b"c\x82Sc"


def test_a_clients_identifier_goes_back_to_it() -> None:
    for frame in (
        client4("discover", ("client_id", b"\x01" + b"abc")),
        client4("request", ("client_id", b"\x01" + b"abc"), ("requested_addr", "10.0.1.77")),
    ):
        assert options4(ask4(frame))["client_id"] == b"\x01abc"


def test_an_option_in_parts_and_in_overloaded_fields_is_read_as_one() -> None:
    head = bytes.fromhex("01010600") + bytes(40) + bytes(192)
    inside = b"\x32\x02\x0a\x00\xff".ljust(64, b"\0")  # in sname
    overloaded = bytearray(head + dhcp4.MAGIC + b"\x35\x01\x03\x34\x01\x02\x32\x02\x01\x04\xff")
    overloaded[44:108] = inside
    message = dhcp4.decode(bytes(overloaded))
    assert message is not None
    assert message.options[50] == b"\x01\x04\x0a\x00"


# DHCPv6


DUID = DUID_LL(lladdr=MAC)
SERVER = DUID_LL(lladdr=ROUTER)
SERVED = DHCP6OptServerId(duid=SERVER)


def client6(*parts: Packet, to: str = "ff02::1:2", client: bool = True) -> bytes:
    body: Packet = parts[0]
    if client:
        body = body / DHCP6OptClientId(duid=DUID)
    for part in parts[1:]:
        body = body / part
    body.trid = 0x010203
    return bytes(
        Ether(src=MAC, dst="33:33:00:01:00:02") / IPv6(src=LINK_LOCAL, dst=to) / UDP(sport=546, dport=547) / body
    )


def ask6(frame: bytes, of: Terms = USUAL) -> Packet | None:
    found = answer(of, UpcallKind.DHCP6, frame)
    if found is None:
        return None
    read = Ether(found)
    rebuilt = read.copy()
    del rebuilt[UDP].chksum
    assert read[UDP].chksum == Ether(bytes(rebuilt))[UDP].chksum
    assert (read.src, read.dst, read[IPv6].src, read[IPv6].dst) == (ROUTER, MAC, ROUTER_LINK_LOCAL, LINK_LOCAL)
    message = read[UDP].payload
    assert message.trid == 0x010203
    assert bytes(message[DHCP6OptServerId].duid) == bytes(SERVER)
    return message


def association(*addresses: str, iaid: int = 7) -> Packet:
    return DHCP6OptIA_NA(iaid=iaid, T1=0, T2=0, ianaopts=[DHCP6OptIAAddress(addr=each) for each in addresses])


def granted(message: Packet | None, rank: int = 1) -> dict[str, tuple[int, int]]:
    """Address -> lifetimes."""
    assert message is not None
    found = message.getlayer(DHCP6OptIA_NA, rank)
    return {each.addr: (each.preflft, each.validlft) for each in found.ianaopts if isinstance(each, DHCP6OptIAAddress)}


def status(message: Packet | None) -> int:
    """Of the whole, or of its first association."""
    assert message is not None
    whole = message.getlayer(DHCP6OptStatusCode)
    if whole is not None:
        return int(whole.statuscode)
    inner = message[DHCP6OptIA_NA].ianaopts if DHCP6OptIA_NA in message else message[DHCP6OptIA_PD].iapdopt
    return int(next(each.statuscode for each in inner if isinstance(each, DHCP6OptStatusCode)))


ORO = DHCP6OptOptReq(reqopts=[23, 24, 56])


def test_a_solicitation_is_advertised_the_ports_address() -> None:
    message = ask6(client6(DHCP6_Solicit(), association(), ORO))
    assert isinstance(message, DHCP6_Advertise)
    assert granted(message) == {CA6: (8000, 8000)}
    assert (message[DHCP6OptIA_NA].T1, message[DHCP6OptIA_NA].T2, message[DHCP6OptIA_NA].iaid) == (4000, 6400, 7)
    assert message[DHCP6OptDNSServers].dnsservers == ["fd00::53"]
    assert message[DHCP6OptDNSDomains].dnsdomains == ["blue.example.", "example.com."]
    assert bytes(message[DHCP6OptClientId].duid) == bytes(DUID)


def test_rapid_commit_is_one_exchange_here_too() -> None:
    message = ask6(client6(DHCP6_Solicit(), DHCP6OptRapidCommit(), association()))
    assert isinstance(message, DHCP6_Reply)
    assert DHCP6OptRapidCommit in message
    assert granted(message) == {CA6: (8000, 8000)}


@pytest.mark.parametrize("kind", [DHCP6_Request, DHCP6_Renew, DHCP6_Rebind])
def test_the_ports_address_is_granted(kind: type[Packet]) -> None:
    named = () if kind is DHCP6_Rebind else (SERVED,)
    message = ask6(client6(kind(), *named, association(CA6)))
    assert isinstance(message, DHCP6_Reply)
    assert granted(message) == {CA6: (8000, 8000)}


@pytest.mark.parametrize("kind", [DHCP6_Renew, DHCP6_Rebind])
def test_an_address_that_is_not_the_ports_any_more_ends_at_once(kind: type[Packet]) -> None:
    named = () if kind is DHCP6_Rebind else (SERVED,)
    message = ask6(client6(kind(), *named, association("fd00:1::99")))
    assert granted(message) == {CA6: (8000, 8000), "fd00:1::99": (0, 0)}


def test_a_request_for_an_address_of_another_link_is_refused_and_one_of_this_link_is_put_right() -> None:
    assert status(ask6(client6(DHCP6_Request(), SERVED, association("fd00:9::4")))) == 4
    assert granted(ask6(client6(DHCP6_Request(), SERVED, association("fd00:1::99")))) == {CA6: (8000, 8000)}


def test_the_second_association_of_a_client_gets_nothing() -> None:
    message = ask6(client6(DHCP6_Solicit(), association(), association(iaid=8)))
    assert granted(message) == {CA6: (8000, 8000)}
    assert granted(message, 2) == {}


def test_no_prefix_is_delegated() -> None:
    assert status(ask6(client6(DHCP6_Solicit(), DHCP6OptIA_PD(iaid=1)))) == 6


def test_a_client_that_comes_back_hears_whether_its_address_is_still_right() -> None:
    assert status(ask6(client6(DHCP6_Confirm(), association(CA6)))) == 0
    assert status(ask6(client6(DHCP6_Confirm(), association("fd00:1::99")))) == 4
    assert ask6(client6(DHCP6_Confirm(), association())) is None


@pytest.mark.parametrize("kind", [DHCP6_Release, DHCP6_Decline])
def test_giving_an_address_back_changes_nothing_and_succeeds(kind: type[Packet]) -> None:
    assert status(ask6(client6(kind(), SERVED, association(CA6)))) == 0


def test_one_that_has_its_address_may_ask_for_the_rest_here_too() -> None:
    message = ask6(client6(DHCP6_InfoRequest(), ORO, client=False))
    assert isinstance(message, DHCP6_Reply)
    assert message[DHCP6OptDNSServers].dnsservers == ["fd00::53"]
    assert DHCP6OptIA_NA not in message
    assert DHCP6OptClientId not in message


def test_a_guest_that_makes_its_own_address_is_given_none() -> None:
    own = replace(PORT, cas=(CA4, OWN_6))
    for mode in (Ipv6Mode.STATELESS, Ipv6Mode.SLAAC):
        of = terms(own, ipv6_mode=mode)
        assert status(ask6(client6(DHCP6_Solicit(), association()), of)) == 2
        assert ask6(client6(DHCP6_InfoRequest(), ORO), of) is not None


def test_who_was_not_told_that_he_may_ask_one_server_alone_is_told_to_ask_all() -> None:
    assert status(ask6(client6(DHCP6_Request(), SERVED, association(), to=ROUTER_LINK_LOCAL))) == 5
    assert ask6(client6(DHCP6_Solicit(), association(), to=ROUTER_LINK_LOCAL)) is None


ANOTHER = DHCP6OptServerId(duid=DUID_LL(lladdr="02:00:00:00:00:77"))
SILENCE_6 = {
    "no client identifier": client6(DHCP6_Solicit(), association(), client=False),
    "a solicitation that names a server": client6(DHCP6_Solicit(), SERVED, association()),
    "a request to another server": client6(DHCP6_Request(), ANOTHER, association()),
    "a request to no server": client6(DHCP6_Request(), association()),
    "a renewal to another server": client6(DHCP6_Renew(), ANOTHER, association(CA6)),
    "an information request with an association": client6(DHCP6_InfoRequest(), association()),
    "an information request to another server": client6(DHCP6_InfoRequest(), ANOTHER),
    "a server's message": client6(DHCP6_Reply(), SERVED, association(CA6)),
}


@pytest.mark.parametrize("why", SILENCE_6)
def test_dhcpv6_is_silent_at(why: str) -> None:
    assert ask6(SILENCE_6[why]) is None


# Router advertisements


SOLICITATION = bytes(
    Ether(src=MAC, dst="33:33:00:00:00:02") / IPv6(src=LINK_LOCAL, dst="ff02::2", hlim=255) / ICMPv6ND_RS()
    / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
)  # fmt: skip
NAMELESS = bytes(Ether(src=MAC, dst="33:33:00:00:00:02") / IPv6(src="::", dst="ff02::2", hlim=255) / ICMPv6ND_RS())


def advertised(found: bytes | None) -> Packet:
    assert found is not None
    read = Ether(found)
    rebuilt = read.copy()
    del rebuilt[ICMPv6ND_RA].cksum
    assert read[ICMPv6ND_RA].cksum == Ether(bytes(rebuilt))[ICMPv6ND_RA].cksum
    assert (read.src, read[IPv6].src, read[IPv6].hlim) == (ROUTER, ROUTER_LINK_LOCAL, 255)
    assert read[ICMPv6NDOptSrcLLAddr].lladdr == ROUTER
    return read


def test_a_router_solicitation_is_answered_with_all_there_is_to_say() -> None:
    read = advertised(answer(USUAL, UpcallKind.ROUTER_SOLICITATION, SOLICITATION))
    assert (read.dst, read[IPv6].dst) == (MAC, LINK_LOCAL)
    assert (read[ICMPv6ND_RA].M, read[ICMPv6ND_RA].O, read[ICMPv6ND_RA].routerlifetime) == (1, 1, 65535)
    prefix = read[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("fd00:1::", 64, 1, 0)
    assert read[ICMPv6NDOptMTU].mtu == 1458
    assert read[ICMPv6NDOptRDNSS].dns == ["fd00::53"]
    assert read[ICMPv6NDOptDNSSL].searchlist[:2] == ["blue.example.", "example.com."]
    assert (read[ICMPv6NDOptRouteInfo].prefix, read[ICMPv6NDOptRouteInfo].plen) == ("fd00:a::", 32)


def test_nobody_yet_is_answered_at_the_group_of_all_nodes() -> None:
    read = advertised(answer(USUAL, UpcallKind.ROUTER_SOLICITATION, NAMELESS))
    assert (read.dst, read[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert bytes(read) == router.advertisement(USUAL)


def test_no_router_is_a_lifetime_of_zero_and_the_routes_stay() -> None:
    read = advertised(router.advertisement(NO_ROUTER))
    assert read[ICMPv6ND_RA].routerlifetime == 0
    assert read[ICMPv6NDOptRouteInfo].rtlifetime == 65535


@pytest.mark.parametrize(
    ("mode", "own", "managed", "other", "autonomous"),
    [
        (Ipv6Mode.STATEFUL, True, 1, 1, 0),
        (Ipv6Mode.STATELESS, True, 0, 1, 1),
        (Ipv6Mode.SLAAC, True, 0, 0, 1),
        # What the guest would make is not the port's: it would be taken for forged.
        (Ipv6Mode.STATELESS, False, 1, 1, 0),
        (Ipv6Mode.SLAAC, False, 1, 1, 0),
    ],
)
def test_how_a_guest_gets_its_address_follows_from_the_mode_and_from_the_address(
    mode: Ipv6Mode, own: bool, managed: int, other: int, autonomous: int
) -> None:
    port = replace(PORT, cas=(CA4, OWN_6 if own else CA6))
    read = advertised(router.advertisement(terms(port, ipv6_mode=mode)))
    said = read[ICMPv6ND_RA].M, read[ICMPv6ND_RA].O, read[ICMPv6NDOptPrefixInfo].A
    assert said == (managed, other, autonomous)


def test_a_router_that_is_none_any_more_says_so_and_no_more() -> None:
    read = Ether(router.farewell(bytes.fromhex(ROUTER.replace(":", ""))))
    assert (read.dst, read[IPv6].src, read[ICMPv6ND_RA].routerlifetime) == ("33:33:00:00:00:01", ROUTER_LINK_LOCAL, 0)
    assert not bytes(read[ICMPv6ND_RA].payload)


def test_the_most_that_can_be_said_fits_the_smallest_link() -> None:
    most = terms(
        dns_servers=tuple(f"fd00::{n:x}" for n in range(8)),
        search_domains=tuple(f"{letter * 60}.example" for letter in "abc"),
        routes=tuple(rows.DhcpRoute(f"fd00:{n:x}::/128", "fd00:1::1") for n in range(16)),
    )
    found = router.advertisement(most)
    assert found is not None
    assert len(found) - 14 <= 1280


# What is said at all


def test_where_nothing_is_to_be_said_there_are_no_terms() -> None:
    assert terms_of(PORT, replace(SUBNET, dhcp=None), HOST) is None
    assert terms_of(replace(PORT, dhcp=False), SUBNET, HOST) is None


def test_a_family_that_the_subnet_or_the_port_has_not_is_not_answered() -> None:
    four = terms_of(PORT, replace(SUBNET, prefixes=("10.0.1.0/24",), gateways=(GATEWAY,)), HOST)
    assert four is not None
    assert answer(four, UpcallKind.DHCP6, client6(DHCP6_Solicit(), association())) is None
    assert answer(four, UpcallKind.ROUTER_SOLICITATION, SOLICITATION) is None
    assert router.advertisement(four) is None
    assert ask4(client4("discover"), terms(replace(PORT, cas=(CA6,)))) is None
    assert router.advertisement(terms(ipv6_mode=Ipv6Mode.NONE)) is None


@pytest.mark.parametrize(
    ("own", "uplink", "pa", "accepts", "told"),
    [
        (1400, 1500, "192.0.2.11", (Rule.NVGRE,), 1400),
        (0, 1500, "192.0.2.11", (Rule.NVGRE,), 1458),
        (0, 1500, "2001:db8::11", (Rule.NVGRE,), 1438),
        (0, 9000, "192.0.2.11", (Rule.VXLAN,), 8950),
        (0, 1500, "192.0.2.11", (Rule.NVGRE, Rule.VXLAN), 1450),  # while the rule changes
    ],
)
def test_guests_are_told_the_mtu_of_their_subnet_or_what_the_underlay_leaves(
    own: int, uplink: int, pa: str, accepts: tuple[Rule, ...], told: int
) -> None:
    host = rows.Host("hosts/h1", (pa,), (rows.Uplink("eth0", uplink), rows.Uplink("eth1", 9000)))
    assert mtu_of(replace(SUBNET, mtu_bytes=own, accepts=accepts), host) == told


def test_a_path_that_takes_less_than_the_uplink_is_what_guests_are_told_of() -> None:
    assert mtu_of(SUBNET, HOST, 1400) == 1358
    assert mtu_of(SUBNET, HOST, 9000) == 1458
    assert mtu_of(replace(SUBNET, mtu_bytes=1450), HOST, 1400) == 1450


def test_of_a_host_that_is_not_known_no_mtu_is_told() -> None:
    found = terms_of(PORT, SUBNET, None)
    assert found is not None
    assert "interface-mtu" not in options4(ask4(client4("discover"), found))
    assert ICMPv6NDOptMTU not in advertised(router.advertisement(found))


# Whatever comes

QUESTIONS = [
    (UpcallKind.DHCP4, client4("discover", ALL)),
    (UpcallKind.DHCP4, client4("request", ALL, ("client_id", b"\x01abc"), ciaddr=CA4)),
    (UpcallKind.DHCP6, client6(DHCP6_Solicit(), association(CA6), ORO)),
    (UpcallKind.DHCP6, client6(DHCP6_Renew(), SERVED, association(CA6, "fd00:1::99"), DHCP6OptIA_PD(iaid=2))),
    (UpcallKind.ROUTER_SOLICITATION, SOLICITATION),
]


@examples(300)
@given(st.data())
def test_whatever_a_guest_sends_nothing_is_raised_and_answers_are_bounded_and_its_own(data: st.DataObject) -> None:
    kind, frame = data.draw(st.sampled_from(QUESTIONS))
    changed = bytearray(frame)
    for _ in range(data.draw(st.integers(0, 8))):
        changed[data.draw(st.integers(14, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    changed = changed[: data.draw(st.sampled_from((len(changed), cut)))] + data.draw(st.binary(max_size=60))
    found = answer(USUAL, kind, bytes(changed))
    if found is not None:
        assert len(found) <= 1514
        assert found[6:12] == bytes.fromhex(ROUTER.replace(":", ""))


@given(st.binary(max_size=400), st.sampled_from(list(UpcallKind)))
def test_garbage_is_answered_with_silence(payload: bytes, kind: UpcallKind) -> None:
    udp = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / Raw(payload)
    assert answer(USUAL, kind, payload) is None
    assert kind is not UpcallKind.DHCP4 or answer(USUAL, kind, bytes(Ether(src=MAC) / udp)) is None


def test_tshark_reads_every_answer_without_a_warning(tmp_path: Path) -> None:
    asked = [
        (of, *question)
        for of in (USUAL, NO_ROUTER, terms(replace(PORT, cas=(CA4, OWN_6)), ipv6_mode=Ipv6Mode.SLAAC))
        for question in [
            *QUESTIONS,
            (UpcallKind.DHCP4, client4("request", ("requested_addr", "10.0.1.9"))),
            (UpcallKind.DHCP4, client4("inform", ALL, ciaddr=CA4)),
            (UpcallKind.DHCP6, client6(DHCP6_Release(), SERVED, association(CA6))),
            (UpcallKind.DHCP6, client6(DHCP6_InfoRequest(), DHCP6OptOptReq(reqopts=[23, 24, 32, 56]))),
            (UpcallKind.ROUTER_SOLICITATION, NAMELESS),
        ]
    ]
    found = [reply for of, kind, frame in asked if (reply := answer(of, kind, frame)) is not None]
    found.append(router.farewell(bytes.fromhex(ROUTER.replace(":", ""))))
    assert len(found) > 20
    capture = tmp_path / "answers.pcap"
    wrpcap(str(capture), [Ether(each) for each in found])
    # Every checksum is looked at, and whatever tshark would call a warning or worse is listed.
    run = ["tshark", "-n", "-r", str(capture), "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    warned = subprocess.run(
        [*run, "-Y", "_ws.malformed || _ws.expert.severity >= 0x600000", "-T", "fields", "-e", "frame.number",
         "-e", "_ws.expert.message"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert warned.stdout == ""
    read = subprocess.run(
        [*run, "-Y", "dhcp || dhcpv6 || icmpv6.type == 134"], capture_output=True, text=True, check=True
    )
    assert len(read.stdout.splitlines()) == len(found)

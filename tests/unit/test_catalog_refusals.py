"""What the door does not let in: each row one request, the field that is at fault, and what the message says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from strategies.intents import (
    ABLE,
    VIRTUAL_MAC,
    domain,
    everything,
    host,
    network,
    port,
    route,
    said,
    subnet,
    tenant,
    two_tenants,
    without,
)
from weft.kit.errors import Conflict, Missing, Rejected
from weft.model import drafts, values
from weft.model.catalog import Catalog
from weft.model.drafts import Draft
from weft.model.features import Feature
from weft.model.names import Kind
from weft.model.values import Mac

BLUE = "tenants/blue/routing-domains/prod"


@dataclass(frozen=True)
class Row:
    """puts and deletes come to a world in which blue has ports on h1 and a route, and red the same addresses."""

    saying: str
    field: str
    puts: tuple[Draft, ...] = ()
    deletes: tuple[str, ...] = ()
    fault: type[Rejected] = Rejected


def refused(put: Draft, field: str, saying: str, fault: type[Rejected] = Rejected) -> Row:
    return Row(saying, f"puts[0].{field}", (put,), (), fault)


PAIRS = tuple(
    drafts.AddressPair(prefix, mac)
    for prefix in ("10.0.0.0/16", "fd00:1::/64", "fe80::/64")
    for mac in (VIRTUAL_MAC, None, values.ROUTER_MAC, "02:00:00:00:00:01")
)


def announcing(address: str, at: str = VIRTUAL_MAC, *, name: str = "vip", **more: Any) -> Draft:
    """A port that may use nearly everything, and announces this."""
    return port(
        f"blue/{name}", "prod/web", allowed_address_pairs=PAIRS, announced_addresses=(said(address, at),), **more
    )


ROWS = [
    # Names
    refused(drafts.Tenant("tenants/Blue"), "name", "'Blue' is not a DNS label"),
    refused(drafts.Tenant("hosts/h9"), "name", "names a host, not a tenant"),
    refused(port("green/x", "prod/web"), "name", "belongs to tenants/green, which does not exist"),
    refused(domain("green/prod"), "name", "belongs to tenants/green, which does not exist"),
    refused(subnet("blue/dev/a", "10.9.0.0/24"), "name", "routing-domains/dev, which does not exist"),
    refused(
        route("blue/dev/a", "10.9.0.0/24", next_hop="10.0.1.2"), "name", "routing-domains/dev, which does not exist"
    ),
    Row("is put twice", "puts[1].name", (tenant("green"), tenant("green"))),
    Row("is put in the same request", "deletes[0]", (tenant("blue"),), ("tenants/blue",)),
    Row("is deleted already", "deletes[1]", (), ("tenants/blue/ports/idle", "tenants/blue/ports/idle")),
    Row("tenants/green does not exist", "deletes[0]", (), ("tenants/green",), Missing),
    Row("nonsense does not exist", "deletes[0]", (), ("nonsense",), Missing),
    # Provider networks
    refused(network("192.0.2.1/24"), "spec.pools[0].prefix", "192.0.2.0/24 is the prefix that it is in"),
    refused(network("198.51.100.0/24", "224.0.0.0/8"), "spec.pools[1].prefix", "multicast"),
    refused(network("192.0.2.0/24", mtu_bytes=100), "spec.mtu_bytes", "MTU 100 is outside 576..65535"),
    refused(
        drafts.ProviderNetwork("provider-networks/n", (drafts.Pool("192.0.2.0/28", "192.0.2.16"),)),
        "spec.pools[0].first",
        "192.0.2.16 is not in 192.0.2.0/28",
    ),
    refused(
        drafts.ProviderNetwork("provider-networks/n", (drafts.Pool("192.0.2.0/28", "192.0.2.9", "192.0.2.8"),)),
        "spec.pools[0].first",
        "192.0.2.9 comes after the last, 192.0.2.8",
    ),
    # Hosts
    refused(
        drafts.Host("hosts/h9", (drafts.Uplink("eth1", "fabric", vlan=4095),)),
        "spec.uplinks[0].vlan",
        "VLAN 4095 is outside 1..4094",
    ),
    refused(
        drafts.Host("hosts/h9", (drafts.Uplink("eth 1", "fabric"),)), "spec.uplinks[0].interface", "interface's name"
    ),
    refused(
        drafts.Host("hosts/h9", (drafts.Uplink("e", "fabric", ()), drafts.Uplink("e", "fabric", ()))),
        "spec.uplinks[1].interface",
        "e is an uplink already",
    ),
    refused(
        drafts.Host("hosts/h9", (drafts.Uplink("eth1", "wire"),)),
        "spec.uplinks[0].provider_network",
        "provider-networks/wire does not exist",
    ),
    refused(host("h9", "192.0.2.300"), "spec.uplinks[0].pas[0]", "is not an IP address"),
    refused(host("h9", "192.0.2.99", "127.0.0.1"), "spec.uplinks[0].pas[1]", "loopback"),
    refused(host("h9", "192.0.2.2"), "spec.uplinks[0].pas[0]", "PA 192.0.2.2 is taken by hosts/h2", Conflict),
    refused(host("h9", "192.0.2.99", "192.0.2.99"), "spec.uplinks[0].pas[1]", "is taken by hosts/h9", Conflict),
    refused(host("h9", data_plane="ovs"), "spec.data_plane", "'ovs' is not a data plane; 'ebpf' is"),
    refused(host("h9", *(f"192.0.2.{n}" for n in range(100, 109))), "spec.uplinks", "9 PAs are more than"),
    refused(
        drafts.Host("hosts/h9", (drafts.Uplink("eth1", "fabric", None, "10.0.0.0/8"),)),
        "spec.uplinks[0].pool",
        "10.0.0.0/8 is no pool of provider-networks/fabric, which has 192.0.2.0/24",
    ),
    Row("has no pool to draw a PA from", "puts[1].spec.uplinks[0].pas", (network(), host("h9"))),
    Row(
        "no PA is left in 203.0.113.4/30 of provider-networks/fabric",
        "puts[3].spec.uplinks[0].pas",
        (network("203.0.113.4/30"), *(host(f"h{n}") for n in (6, 7, 8))),
        fault=Conflict,
    ),
    Row(
        "hosts/h1 has no PA, so nobody could reach a port on it, but tenants/blue/ports/web-1 runs there",
        "puts[0].spec.uplinks",
        (drafts.Host("hosts/h1", (drafts.Uplink("eth1", "fabric", ()),)),),
        fault=Conflict,
    ),
    # Hosts of both families in one routing domain
    refused(
        port("blue/new", "prod/db", host="six"),
        "spec.host",
        "hosts/six has fd64::6 for its first PA, and hosts/h1 has 192.0.2.1: hosts that run ports of one routing "
        f"domain, here {BLUE}, need first PAs of one IP version",
        Conflict,
    ),
    refused(port("blue/idle", "prod/db", host="six"), "spec.host", "and hosts/h1 has 192.0.2.1", Conflict),
    Row(
        "hosts/h2 has 192.0.2.2 for its first PA, and hosts/h1 has fd64::1",
        "puts[0].spec.host",
        (port("blue/new", "prod/web", host="h2"), host("h1", "fd64::1", "192.0.2.1")),
        fault=Conflict,
    ),
    Row(
        "hosts/h2 has 192.0.2.2 for its first PA, and hosts/six has fd64::6",
        "puts[1].spec.host",
        (port("red/a", "prod/web", host="six"), port("red/b", "prod/db", host="h2")),
        fault=Conflict,
    ),
    # Routing domains
    refused(domain("blue/dev", "x"), "spec.rdid", "is not a UUID"),
    refused(domain("blue/dev", "12445772-3630-53ac-9a78-8eed0702b1e7"), "spec.rdid", f"is taken by {BLUE}", Conflict),
    # Virtual subnets
    refused(subnet("blue/prod/new"), "spec.prefixes", "one IPv4 prefix, one IPv6 prefix, or one of each"),
    refused(subnet("blue/prod/new", "10.9.0.0/24", "x"), "spec.prefixes[1]", "'x' is not a prefix"),
    refused(subnet("blue/prod/new", "10.9.0.0/24", "10.8.0.0/24"), "spec.prefixes[1]", "second IPv4 prefix"),
    refused(subnet("blue/prod/new", "10.9.0.0/31"), "spec.prefixes[0]", "/30 is the longest"),
    refused(subnet("blue/prod/new", "fd09::/127"), "spec.prefixes[0]", "/126 is the longest"),
    refused(subnet("blue/prod/new", "0.0.0.0/0"), "spec.prefixes[0]", "guests cannot have addresses of 0.0.0.0/0"),
    refused(subnet("blue/prod/new", "fe80::/64"), "spec.prefixes[0]", "link-local"),
    refused(
        subnet("blue/prod/new", "fd09::/64", "10.0.0.0/16"),
        "spec.prefixes[1]",
        f"10.0.0.0/16 overlaps 10.0.2.0/24 of {BLUE}/virtual-subnets/db",
        Conflict,
    ),
    refused(subnet("blue/prod/new", "10.0.1.128/25"), "spec.prefixes[0]", "overlaps 10.0.1.0/24", Conflict),
    Row(
        "10.9.0.0/25 overlaps 10.9.0.0/24",
        "puts[1].spec.prefixes[0]",
        (subnet("blue/prod/a", "10.9.0.0/24", vsid=5000), subnet("blue/prod/b", "10.9.0.0/25", vsid=5001)),
        fault=Conflict,
    ),
    refused(subnet("blue/prod/new", "10.9.0.0/24", vsid=4095), "spec.vsid", "is outside 4096..16777214"),
    refused(
        subnet("red/prod/new", "10.9.0.0/24", vsid=7036557),
        "spec.vsid",
        f"is taken by {BLUE}/virtual-subnets/web: leave it out for a free one",
        Conflict,
    ),
    refused(subnet("blue/prod/new", "10.9.0.0/24", gateways=("10.8.0.1",)), "spec.gateways[0]", "is in none of"),
    refused(subnet("blue/prod/new", "10.9.0.0/24", gateways=("10.9.0.0",)), "spec.gateways[0]", "network address"),
    refused(subnet("blue/prod/new", "10.9.0.0/24", gateways=("10.9.0.255",)), "spec.gateways[0]", "broadcast address"),
    refused(
        subnet("blue/prod/new", "10.9.0.0/24", gateways=("10.9.0.1", "10.9.0.2")), "spec.gateways[1]", "second gateway"
    ),
    refused(subnet("blue/prod/new", "10.9.0.0/24", router_mac="01:00:00:00:00:01"), "spec.router_mac", "group's MAC"),
    refused(
        subnet("blue/prod/new", "10.9.0.0/24", router_mac="02:00:00:00:00:01"),
        "spec.router_mac",
        "taken by tenants/blue/ports/web-1",
        Conflict,
    ),
    refused(
        subnet("blue/prod/new", "10.9.0.0/24", rule="l2tp"),
        "spec.rule",
        "'l2tp' is not an isolation rule; 'nvgre', 'vxlan', 'geneve', 'gre', 'stt', 'rewrite' and 'vlan' are",
    ),
    refused(subnet("blue/prod/new", "10.9.0.0/24", mtu_bytes=67), "spec.mtu_bytes", "MTU 67 is outside 68..65535"),
    *(
        refused(
            subnet("blue/prod/new", "10.9.0.0/24", provider_group=text),
            "spec.provider_group",
            f"'{text}' is not a multicast address beyond one link; one such as 239.1.2.3 or ff15::1:2:3 would be right",
        )
        for text in ("10.0.0.1", "224.0.0.18", "ff02::12", "fd00::1")
    ),
    refused(
        subnet("blue/prod/new", "10.9.0.0/24", provider_group="239.1.2.3", rule="stt"),
        "spec.provider_group",
        "nothing goes to a group of the underlay, such as 239.1.2.3, by rule stt: give another rule first, or no group",
    ),
    refused(
        subnet("blue/prod/web", "10.0.1.0/24", "fd00:1::/64", provider_group="ff15::1:2:3"),
        "spec.provider_group",
        "the group ff15::1:2:3, but ports of this subnet run there",
        Conflict,
    ),
    refused(
        subnet("blue/prod/new", "10.9.0.0/24", flood_limit_pps=-1),
        "spec.flood_limit_pps",
        "flood_limit_pps -1 is outside 0..1000000000",
    ),
    refused(subnet("blue/prod/new", "fd09::/64", mtu_bytes=1279), "spec.mtu_bytes", "MTU 1279 is outside 1280..65535"),
    Row(
        "look alike on the wire",
        "puts[1].spec.vsid",
        (
            subnet("blue/prod/new", "10.9.0.0/24", vsid=5000),
            subnet("blue/prod/far", "10.9.1.0/24", vsid=5000 << 8 | 9, rule="gre"),
        ),
        fault=Conflict,
    ),
    Row(
        "look alike on the wire",
        "puts[1].spec.vsid",
        (
            subnet("blue/prod/far", "10.9.1.0/24", vsid=5000 << 8 | 9, rule="gre"),
            subnet("blue/prod/new", "10.9.0.0/24", vsid=5000),
        ),
        fault=Conflict,
    ),
    # Virtual subnets that others rest on
    refused(
        subnet("blue/prod/web", "10.9.1.0/24"), "spec.prefixes", "web-1 has an address that it could not keep", Conflict
    ),
    refused(
        subnet("blue/prod/web", "10.0.1.8/29", "fd00:1::/64"), "spec.prefixes", "10.0.1.5 is outside them", Conflict
    ),
    refused(subnet("blue/prod/web", "10.0.1.5/32"), "spec.prefixes[0]", "/30 is the longest"),
    refused(
        subnet("blue/prod/web", "10.0.1.4/30", "fd00:1::/64"),
        "spec.gateways",
        "gateway 10.0.1.5 is taken by tenants/blue/ports/web-1",
        Conflict,
    ),
    refused(
        subnet("blue/prod/web", "10.0.1.0/24", "fd00:1::/64", gateways=("10.0.1.5",)),
        "spec.gateways[0]",
        "gateway 10.0.1.5 is taken by tenants/blue/ports/web-1",
        Conflict,
    ),
    Row(
        "out would lead nowhere: next hop 10.0.2.9 is outside",
        "puts[0].spec.prefixes",
        (subnet("blue/prod/db", "10.7.0.0/24"),),
        ("tenants/blue/ports/idle",),
        Conflict,
    ),
    refused(
        subnet("blue/prod/db", "10.0.2.0/24", gateways=("10.0.2.9",)),
        "spec.gateways",
        "next hop 10.0.2.9 is the gateway",
        Conflict,
    ),
    # What guests are told
    *(
        refused(
            subnet("blue/prod/told", "10.9.0.0/24", "fd00:9::/60", dhcp=drafts.Dhcp(**said)), f"spec.dhcp.{at}", why
        )
        for said, at, why in (
            ({"lease_s": 59}, "lease_s", "a lease of 59 s is outside 60..4294967295"),
            ({"ipv6_mode": "auto"}, "ipv6_mode", "'auto' is not an IPv6 mode; 'stateful', 'stateless'"),
            ({"ipv6_mode": "slaac"}, "ipv6_mode", "in a /64 only (RFC 4862), and fd00:9::/60 is none"),
            ({"dns_servers": ("10.0.0.53", "dns")}, "dns_servers[1]", "'dns' is not an IP address"),
            ({"dns_servers": ("10.0.0.53", "10.0.0.53")}, "dns_servers[1]", "is listed twice"),
            ({"ntp_servers": ("224.0.1.1",)}, "ntp_servers[0]", "is no server's address: 224.0.0.0/4 is multicast"),
            ({"dns_servers": tuple(f"10.0.0.{n}" for n in range(9))}, "dns_servers", "9 are too many"),
            ({"search_domains": ("a b",)}, "search_domains[0]", "'a b' is not a domain name"),
            ({"search_domains": tuple("x" * 60 + f".{n}" for n in range(5))}, "search_domains", "bytes of search"),
            ({"routes": (drafts.DhcpRoute("0.0.0.0/0"),)}, "routes[0].prefix", "say router: true"),
            (
                {"routes": (drafts.DhcpRoute("10.0.0.1/8"),)},
                "routes[0].prefix",
                "10.0.0.0/8 is the prefix that it is in",
            ),
            (
                {"routes": (drafts.DhcpRoute("10.0.0.0/8", "10.8.0.1"),)},
                "routes[0].next_hop",
                "10.8.0.1 is no address of 10.9.0.0/24",
            ),
            (
                {"routes": (drafts.DhcpRoute("fd00::/16", "fd00:9::9"),)},
                "routes[0].next_hop",
                "by way of the gateway only",
            ),
        )
    ),
    refused(
        subnet("blue/prod/told", "10.9.0.0/24", dhcp=drafts.Dhcp(routes=(drafts.DhcpRoute("fd00::/16"),))),
        "spec.dhcp.routes[0].prefix",
        "fd00::/16 is IPv6, and the subnet has no IPv6 prefix",
    ),
    # Ports
    refused(port("blue/new", "web"), "spec.virtual_subnet", "'web' does not name a virtual-subnet"),
    refused(port("blue/new", "prod/none"), "spec.virtual_subnet", "virtual-subnets/none does not exist"),
    refused(
        port("blue/new", "tenants/red/routing-domains/prod/virtual-subnets/web"),
        "spec.virtual_subnet",
        "is a subnet of tenants/red; a port of tenants/blue needs one of its own",
    ),
    refused(port("blue/new", "prod/web", host="h9"), "spec.host", "hosts/h9 does not exist"),
    refused(port("blue/new", "prod/web", host="H9"), "spec.host", "does not name a host: write hosts/H"),
    refused(port("blue/new", "prod/web", host="bare"), "spec.host", "hosts/bare has no PA", Conflict),
    refused(port("blue/new", "prod/web", destination="h2"), "spec.destination", "on no host cannot move"),
    refused(port("blue/new", "prod/web", host="h1", destination="hosts/h1"), "spec.destination", "on hosts/h1 already"),
    refused(port("blue/new", "prod/web", host="h1", destination="h9"), "spec.destination", "hosts/h9 does not exist"),
    refused(port("blue/new", "prod/web", host="h1", destination="bare"), "spec.destination", "has no PA", Conflict),
    Row(
        "hosts that run ports of one routing domain",
        "puts[0].spec.destination",
        (port("blue/new", "prod/web", host="h1", destination="six"),),
        fault=Conflict,
    ),
    Row(
        "hosts/h2 does not exist",
        "puts[0].spec.destination",
        (port("blue/web-1", "prod/web", host="h1", destination="h2"),),
        ("hosts/h2",),
    ),
    refused(port("blue/new", "prod/web", mac="zz"), "spec.mac", "'zz' is not a MAC address"),
    refused(
        port("blue/new", "prod/db", mac="02:00:00:00:00:01"),
        "spec.mac",
        "is taken by tenants/blue/ports/web-1",
        Conflict,
    ),
    refused(port("blue/new", "prod/web", mac="02:57:45:46:54:01"), "spec.mac", "is the router's", Conflict),
    refused(port("blue/new", "prod/web", addresses=("10.0.1.9", "x")), "spec.addresses[1]", "is not an IP address"),
    refused(
        port("blue/new", "prod/web", addresses=("10.0.2.9",)),
        "spec.addresses[0]",
        "10.0.2.9 is outside 10.0.1.0/24 and fd00:1::/64",
    ),
    refused(
        port("blue/new", "prod/db", addresses=("fd00:1::9",)), "spec.addresses[0]", "fd00:1::9 is outside 10.0.2.0/24"
    ),
    refused(
        port("blue/new", "prod/web", addresses=("10.0.1.0",)), "spec.addresses[0]", "network address of 10.0.1.0/24"
    ),
    refused(port("blue/new", "prod/web", addresses=("10.0.1.255",)), "spec.addresses[0]", "broadcast address"),
    refused(
        port("blue/new", "prod/web", addresses=("fd00:1::",)), "spec.addresses[0]", "network address of fd00:1::/64"
    ),
    refused(port("blue/new", "prod/web", addresses=("10.0.1.1",)), "spec.addresses[0]", "is the gateway of", Conflict),
    refused(
        port("blue/new", "prod/web", addresses=("10.0.1.5",)),
        "spec.addresses[0]",
        "is taken by tenants/blue/ports/web-1",
        Conflict,
    ),
    refused(port("blue/new", "prod/web", addresses=("10.0.1.9", "10.0.1.9")), "spec.addresses[1]", "is listed twice"),
    refused(
        port("blue/new", "prod/web", admin_state="off"),
        "spec.admin_state",
        "'off' is not an admin state; 'up' and 'down' are",
    ),
    refused(
        port("blue/new", "prod/web", allowed_address_pairs=(drafts.AddressPair("10.0.0.0/8"), drafts.AddressPair("x"))),
        "spec.allowed_address_pairs[1].prefix",
        "'x' is not a prefix",
    ),
    refused(
        port("blue/new", "prod/web", allowed_address_pairs=(drafts.AddressPair("10.0.0.0/8", "zz"),)),
        "spec.allowed_address_pairs[0].mac",
        "'zz' is not a MAC",
    ),
    # Announced addresses
    refused(announcing("x", VIRTUAL_MAC), "spec.announced_addresses[0].address", "'x' is not an IP address"),
    refused(announcing("10.0.1.50", "zz"), "spec.announced_addresses[0].mac", "'zz' is not a MAC"),
    refused(
        announcing("10.0.1.50", "02:00:00:00:00:aa"),
        "spec.announced_addresses[0].address",
        "vip may not use 10.0.1.50 with 02:00:00:00:00:aa: no allowed address pair has both",
    ),
    refused(announcing("10.0.2.50"), "spec.announced_addresses[0].address", "10.0.2.50 is outside 10.0.1.0/24"),
    refused(announcing("10.0.1.0"), "spec.announced_addresses[0].address", "network address of 10.0.1.0/24"),
    refused(announcing("10.0.1.255"), "spec.announced_addresses[0].address", "broadcast address"),
    refused(announcing("10.0.1.1"), "spec.announced_addresses[0].address", "is the gateway of", Conflict),
    refused(
        announcing(values.link_local(values.ROUTER_MAC)),
        "spec.announced_addresses[0].address",
        "is the router's link-local address",
        Conflict,
    ),
    refused(
        announcing("10.0.1.5"),
        "spec.announced_addresses[0].address",
        "10.0.1.5 is tenants/blue/ports/web-1's, which runs on hosts/h1",
        Conflict,
    ),
    refused(
        announcing(values.link_local(Mac("02:00:00:00:00:01"))),
        "spec.announced_addresses[0].address",
        "is tenants/blue/ports/web-1's, which runs on hosts/h1",
        Conflict,
    ),
    refused(
        announcing("10.0.1.50", "02:00:00:00:00:01"),
        "spec.announced_addresses[0].mac",
        "is tenants/blue/ports/web-1's own",
        Conflict,
    ),
    refused(announcing("10.0.1.50", values.ROUTER_MAC), "spec.announced_addresses[0].mac", "is the router's", Conflict),
    refused(
        announcing("10.0.1.7", addresses=("10.0.1.7",)),
        "spec.announced_addresses[0].address",
        "10.0.1.7 is tenants/blue/ports/vip's own",
    ),
    refused(
        port(
            "blue/vip",
            "prod/web",
            allowed_address_pairs=PAIRS,
            announced_addresses=(said("10.0.1.50"), said("10.0.1.51"), said("10.0.1.50")),
        ),
        "spec.announced_addresses[2].address",
        "10.0.1.50 is listed twice",
    ),
    refused(
        port(
            "blue/vip",
            "prod/web",
            allowed_address_pairs=PAIRS,
            announced_addresses=tuple(said(f"10.0.1.{n}") for n in range(50, 115)),
        ),
        "spec.announced_addresses",
        "65 are more than the 64",
    ),
    Row(
        "10.0.1.50 is announced by tenants/blue/ports/a",
        "puts[1].spec.announced_addresses[0].address",
        (announcing("10.0.1.50", "02:00:00:00:00:0a", name="a", mac="02:00:00:00:00:0a"), announcing("10.0.1.50")),
        fault=Conflict,
    ),
    Row(
        f"MAC {VIRTUAL_MAC} is announced by tenants/blue/ports/a",
        "puts[1].spec.announced_addresses[0].mac",
        (announcing("10.0.1.51", name="a"), announcing("10.0.1.50")),
        fault=Conflict,
    ),
    Row(
        "no address is left in 10.9.0.0/30",
        "puts[2].spec.addresses",
        (subnet("blue/prod/tiny", "10.9.0.0/30"), port("blue/a", "prod/tiny"), port("blue/b", "prod/tiny")),
        fault=Conflict,
    ),
    Row(
        "MAC 02:00:00:00:00:77 is taken by tenants/blue/ports/a",
        "puts[1].spec.mac",
        (port("blue/a", "prod/web", mac="02:00:00:00:00:77"), port("blue/b", "prod/db", mac="02:00:00:00:00:77")),
        fault=Conflict,
    ),
    # Customer routes
    refused(route("blue/prod/r", "10.9.0.0", next_hop="10.0.1.9", metric=-1), "spec.metric", "metric -1 is outside"),
    refused(route("blue/prod/r", "x", next_hop="10.0.1.9"), "spec.prefix", "'x' is not a prefix"),
    refused(route("blue/prod/r", "0.0.0.0/0"), "spec.next_hop", "neither is given"),
    refused(
        route("blue/prod/r", "0.0.0.0/0", next_hop="10.0.1.9", virtual_subnet="web"), "spec.next_hop", "both are given"
    ),
    refused(
        route("blue/prod/r", "0.0.0.0/0", next_hop="10.5.0.1"), "spec.next_hop", "10.5.0.1 is outside every subnet"
    ),
    refused(route("blue/prod/r", "0.0.0.0/0", next_hop="fd00:1::9"), "spec.next_hop", "is not of the IP version"),
    refused(route("blue/prod/r", "0.0.0.0/0", next_hop="10.0.1.1"), "spec.next_hop", "is the gateway of"),
    refused(route("blue/prod/r", "0.0.0.0/0", virtual_subnet="none"), "spec.virtual_subnet", "does not exist"),
    refused(
        route("blue/prod/r", "0.0.0.0/0", virtual_subnet="tenants/red/routing-domains/prod/virtual-subnets/web"),
        "spec.virtual_subnet",
        f"is not in {BLUE}, whose route this is",
    ),
    # Removal of what is referred to
    Row(
        "tenants/blue cannot go: tenants/blue/routing-domains/prod refers to it",
        "deletes[0]",
        (),
        ("tenants/blue",),
        Conflict,
    ),
    Row(
        "provider-networks/fabric cannot go: hosts/h1 refers to it",
        "deletes[0]",
        (),
        ("provider-networks/fabric",),
        Conflict,
    ),
    Row(
        "hosts/h1 cannot go: tenants/blue/ports/web-1 refers to it",
        "deletes[1]",
        (),
        ("hosts/h3", "hosts/h1"),
        Conflict,
    ),
    Row(f"{BLUE} cannot go", "deletes[0]", (), (BLUE,), Conflict),
    Row(
        "cannot go: tenants/blue/ports/web-1 refers to it", "deletes[0]", (), (f"{BLUE}/virtual-subnets/web",), Conflict
    ),
    Row(
        "cannot go: tenants/red/routing-domains/prod/customer-routes/link refers",
        "deletes[0]",
        (),
        ("tenants/red/routing-domains/prod/virtual-subnets/web",),
        Conflict,
    ),
    Row(
        "out would lead nowhere: next hop 10.0.2.9 is outside",
        "deletes[1]",
        (),
        ("tenants/blue/ports/idle", f"{BLUE}/virtual-subnets/db"),
        Conflict,
    ),
]


@pytest.fixture
def catalog() -> Catalog:
    catalog = two_tenants()
    catalog.apply(
        [
            drafts.Host("hosts/bare", (drafts.Uplink("eth1", "fabric", ()),)),
            host("six", "fd64::6"),
            *(
                port(
                    f"{owner}/web-1",
                    "prod/web",
                    host="h1",
                    mac="02:00:00:00:00:01",
                    addresses=("10.0.1.5", "fd00:1::5"),
                )
                for owner in ("blue", "red")
            ),
            port("blue/idle", "prod/db"),
            route("blue/prod/out", "0.0.0.0/0", next_hop="10.0.2.9"),
            route("red/prod/link", "172.16.0.0/12", virtual_subnet="web"),
        ]
    )
    catalog.apply([], ["tenants/red/ports/web-1"])
    return catalog


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.field}: {row.saying}"[:80])
def test_what_is_wrong_is_refused_with_its_field_and_changes_nothing(catalog: Catalog, row: Row) -> None:
    before = everything(catalog)
    with pytest.raises(Rejected) as fault:
        catalog.apply(row.puts, row.deletes)
    assert row.saying in fault.value.message
    assert fault.value.field == row.field
    assert type(fault.value) is row.fault
    assert everything(catalog) == before


LACKING = [
    (
        Feature.UNDERLAY_IPV6,
        refused(
            host("h9", "192.0.2.99", "fd00::1"),
            "spec.uplinks[0].pas[1]",
            "data plane ebpf cannot use fd00::1: it lacks underlay-ipv6",
        ),
    ),
    (
        Feature.UNDERLAY_IPV6,
        Row("cannot use a PA of fd00::/64", "puts[1].spec.uplinks[0].pas", (network("fd00::/64"), host("h9"))),
    ),
    (
        Feature.NVGRE,
        refused(
            port("blue/new", "prod/web", host="h1"),
            "spec.host",
            "hosts/h1 has data plane ebpf, which lacks nvgre",
            Conflict,
        ),
    ),
    (
        Feature.VXLAN,
        Row(
            "hosts/h1 has data plane ebpf, which lacks vxlan",
            "puts[1].spec.host",
            (subnet("blue/prod/far", "10.9.0.0/24", rule="vxlan"), port("blue/new", "prod/far", host="h1")),
            fault=Conflict,
        ),
    ),
]


@pytest.mark.parametrize(("feature", "row"), LACKING, ids=lambda part: getattr(part, "saying", str(part))[:60])
def test_what_a_data_plane_cannot_do_is_refused_where_it_lacks_it_and_taken_where_not(
    feature: Feature, row: Row
) -> None:
    lacking = two_tenants(without(feature))
    before = everything(lacking)
    with pytest.raises(Rejected) as fault:
        lacking.apply(row.puts)
    assert row.saying in fault.value.message
    assert (fault.value.field, type(fault.value)) == (row.field, row.fault)
    assert everything(lacking) == before
    assert two_tenants(ABLE).apply(row.puts)


def test_a_refused_batch_leaves_no_trace_of_its_good_half(catalog: Catalog) -> None:
    before = everything(catalog)
    with pytest.raises(Rejected):
        catalog.apply([port("blue/good", "prod/web"), host("h9"), port("blue/bad", "prod/web", mac="zz")])
    assert everything(catalog) == before
    (change,) = catalog.apply([port("blue/later", "prod/web")])
    assert change.new == catalog.get("tenants/blue/ports/later")
    assert catalog.ports[change.name].addresses == ("10.0.1.2", "fd00:1::2")


def test_the_same_addresses_and_macs_in_two_routing_domains_are_normal(catalog: Catalog) -> None:
    catalog.apply([port("red/web-1", "prod/web", mac="02:00:00:00:00:01", addresses=("10.0.1.5", "fd00:1::5"))])
    assert len(catalog.objects(Kind.PORT)) == 3

"""Small random policies: what one host is told, and what its neighbours are. Consistent, as a compiler's output is."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from strategies import security
from weft.contracts.dataplane import WAYS, Way
from weft.model.features import FALLBACK, LACKING
from weft.policy.rows import (
    AddressGroup,
    Dhcp,
    Host,
    Ipv6Mode,
    Limit,
    MacRecord,
    Member,
    Pair,
    Peer,
    Port,
    Qos,
    Record,
    Rewrite,
    Route,
    Row,
    Rule,
    SecurityGroup,
    Subnet,
    Uplink,
)
from weft.reference import trunk

ROUTER_MAC = "02:57:45:46:54:01"
HOSTS = ("hosts/h1", "hosts/h2", "hosts/h3")
RDIDS = ("0b1e0000-0000-4000-8000-00000000000a", "7ed00000-0000-4000-8000-00000000000b")
PAS4 = {"hosts/h1": "192.0.2.11", "hosts/h2": "192.0.2.12", "hosts/h3": "198.51.100.13"}
MORE4 = {"hosts/h1": "192.0.2.111", "hosts/h2": "192.0.2.112", "hosts/h3": "198.51.100.113"}
PAS6 = {"hosts/h1": "2001:db8:f::11", "hosts/h2": "2001:db8:f::12", "hosts/h3": "2001:db8:f::13"}
#: Marks, and limits that let everything or nothing pass, whenever it comes.
QOS = (
    Qos(dscp=46),
    Qos(outer_dscp=None),
    Qos(Limit(10**12, 1 << 28, 10**9, 1 << 20), Limit(10**12, 1 << 28), dscp=10, outer_dscp=None),
    Qos(Limit(1)),
)
VLAN = 100
#: Of the underlay; subnets may share one, and some are of the wrong family.
GROUPS = ("239.77.0.1", "239.77.0.2", "ff15::77:1")
RULES = tuple(rule for rule in Rule if rule is not Rule.VLAN)
NETWORK = "provider-networks/fabric"
#: A machine behind the switch.
BEHIND = "02:99:00:00:00:01"
VRRP_MAC = "00:00:5e:00:01:07"


@dataclass(frozen=True, repr=False)
class Policy:
    """Rows by host: what each host of a small data centre is told."""

    rows: dict[str, tuple[Row, ...]]
    ways: dict[str, dict[str, tuple[Way, ...]]]  # by host, as its data plane is told

    def __repr__(self) -> str:
        # Whole it is too long for hypothesis, which writes it at each failure and for each strategy made from it.
        return f"Policy({', '.join(f'{host}: {len(rows)} rows' for host, rows in self.rows.items())})"

    def of(self, host: str, kind: type[Row]) -> tuple[Row, ...]:
        return tuple(row for row in self.rows[host] if isinstance(row, kind))

    def ports(self, host: str) -> tuple[Port, ...]:
        return tuple(row for row in self.rows[host] if isinstance(row, Port))

    def bindings(self, host: str) -> dict[str, str]:
        """Port -> an interface name, short enough for the kernel. Sub-ports are at their parents'."""
        return {port.port: f"tap{number}" for number, port in enumerate(self.ports(host)) if port.parent is None}

    def interface(self, host: str, port: Port) -> str:
        """Where the port's guest sends."""
        return self.bindings(host)[port.port if port.parent is None else port.parent]

    def sender(self, host: str, port: Port, frame: bytes) -> tuple[Port, bytes]:
        """Whose a frame at the port's interface is, by its tag, and the frame without that."""
        vlan = trunk.vlan_of(frame)
        holder = port.port if port.parent is None else port.parent
        for each in self.ports(host):
            if each.parent == holder and vlan and each.vlan == vlan:
                return each, trunk.untagged(frame)
        return next(each for each in self.ports(host) if each.port == holder), frame

    @property
    def domain_of_port(self) -> dict[str, str]:
        """Port -> RDID."""
        found = {}
        for rows in self.rows.values():
            rdids = {row.vsid: row.rdid for row in rows if isinstance(row, Subnet)}
            found |= {row.port: rdids[row.vsid] for row in rows if isinstance(row, Port) and row.vsid in rdids}
        return found


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


@st.composite
def policies(draw: st.DrawFn, underlay6: bool = False, guards: bool = False) -> Policy:
    """Two routing domains with the same CAs on three hosts. underlay6: all may be placed at IPv6 PAs.

    guards: ports may have security groups, or only port security.
    """
    address_groups, world = draw(security.worlds()) if guards else ((), {})
    version = draw(st.sampled_from((4, 6))) if underlay6 else 4
    pas = {host: _pas(draw, host, version) for host in HOSTS}
    mtu_bytes = draw(st.sampled_from((576, 1342, 1500, 9000)))
    vlan = draw(st.sampled_from((0, 0, VLAN)))
    shared: dict[str, list[Row]] = {}
    ports: dict[str, list[Port]] = {host: [] for host in HOSTS}
    domains_of: dict[str, set[str]] = {host: set() for host in HOSTS}
    for domain, rdid in enumerate(RDIDS):
        number = 0  # so both domains have the same addresses and MACs
        rows: list[Row] = []
        for index in (1, 2):
            vsid = 5000 + 10 * domain + index
            subnet = _subnet(draw, rdid, vsid, index)
            rule = draw(st.sampled_from(subnet.accepts))
            if subnet.vlan and draw(st.booleans()):
                rule = Rule.VLAN
            subnet = replace(subnet, bridged=rule is Rule.VLAN)
            rows.append(subnet)
            rows += [Route(rdid, prefix, vsid) for prefix in subnet.prefixes]
            for host in draw(st.lists(st.sampled_from(HOSTS), min_size=1, max_size=3)):
                number += 1
                port = _port(draw, subnet, number, f"tenants/{'ab'[domain]}/ports/p{number}-{index}")
                if guards:
                    groups = draw(security.of_port(world)) if draw(st.integers(0, 3)) else ()
                    secured = bool(groups) or draw(st.integers(0, 3)) == 0
                    port = replace(port, groups=groups, port_security=secured)
                if draw(st.integers(0, 4)) == 0:
                    port = _at_another(draw, port, ports[host])
                pa = pas[host][0]
                # Another host: it is moving there. What is rewritten moves at once, and a sub-port with its parent.
                stays = rule is Rule.REWRITE or port.parent is not None
                to = host if stays else draw(st.sampled_from((host, host, *HOSTS)))
                also = None if to == host else pas[to][0]
                rows += [Record(vsid, ca, pa, port.mac, rule, also, port.groups) for ca in port.cas]
                bare = Rule.NVGRE if rule is Rule.REWRITE else rule
                rows.append(MacRecord(vsid, port.mac, pa, bare, also))
                if Rule.REWRITE in subnet.accepts:
                    rows += [Rewrite(_stands_for(ca, domain), vsid, ca) for ca in port.cas if draw(st.integers(0, 5))]
                for each in dict.fromkeys((host, to)):
                    if not any(isinstance(row, Member) and (row.vsid, row.pa) == (vsid, pas[each][0]) for row in rows):
                        # While a rule changes, perhaps another than the others': all take each.
                        others = [one for one in subnet.accepts if one not in LACKING]
                        by = draw(st.sampled_from((bare, bare, bare, *others)))
                        rows.append(Member(vsid, pas[each][0], by))
                    ports[each].append(port)
                    domains_of[each].add(rdid)
        rows += [
            Peer(rdid, pas[host][0], pas[host], ("",) * len(pas[host])) for host in HOSTS if rdid in domains_of[host]
        ]
        rows += _customer_routes(draw, rdid, rows)
        shared[rdid] = rows
    return Policy(
        {
            host: (
                Host(host, pas[host], (Uplink("eth0", mtu_bytes, NETWORK, vlan=vlan),)),
                *(row for rdid in RDIDS if rdid in domains_of[host] for row in shared[rdid]),
                *(address_groups if guards else ()),
                *(group for number, group in world.items() if any(number in port.groups for port in ports[host])),
                *ports[host],
            )
            for host in HOSTS
        },
        {host: _ways(draw, pas, host, domains_of) for host in HOSTS},
    )


@st.composite
def changed(draw: st.DrawFn, policy: Policy) -> Policy:
    """The same ports at the same interfaces, with what tenants and operators change while they run: rules, who has
    which groups, who may send, who has come to where he was moving to, addresses that are gone.
    """
    rows_of = {row.key: row for rows in policy.rows.values() for row in rows if not isinstance(row, Host)}
    groups = {row.number: row for row in rows_of.values() if isinstance(row, SecurityGroup)}
    address_groups, world = draw(security.worlds())
    # Groups of one port are all stateful, or none is: that stays as it is.
    world = {
        number: replace(group, stateful=groups[number].stateful if number in groups else group.stateful)
        for number, group in world.items()
        if number in groups or draw(st.booleans())
    }
    if draw(st.integers(0, 2)) == 0:
        world = groups
    ports: dict[str, Port] = {}
    for row in rows_of.values():
        if isinstance(row, Port):
            if draw(st.integers(0, 3)) == 0:
                row = replace(row, groups=draw(security.of_port(world)))
                row = replace(row, port_security=bool(row.groups) or draw(st.booleans()))
            if draw(st.integers(0, 7)) == 0:
                row = replace(row, enabled=not row.enabled)
            ports[row.port] = row
    bears = {(port.vsid, port.mac): port.groups for port in ports.values()}
    arrived = {at: draw(st.integers(0, 2)) == 0 for at in bears}
    gone = {key for key, row in rows_of.items() if isinstance(row, Record) and draw(st.integers(0, 11)) == 0}

    def now(row: Row) -> Row:
        if isinstance(row, Port):
            return ports[row.port]
        if isinstance(row, Record):
            row = replace(row, groups=bears[row.vsid, row.mac])
        if isinstance(row, Record | MacRecord) and row.also is not None and arrived[row.vsid, row.mac]:
            row = replace(row, pa=row.also, also=None)
        return row

    rows: dict[str, tuple[Row, ...]] = {}
    for host, some in policy.rows.items():
        kept = [now(row) for row in some if row.key not in gone and not isinstance(row, SecurityGroup | AddressGroup)]
        named = {number for row in kept if isinstance(row, Port) for number in row.groups}
        first = [row for row in kept if not isinstance(row, Port)]
        bound = [row for row in kept if isinstance(row, Port)]
        has = [group for number, group in world.items() if number in named]
        rows[host] = (*first, *address_groups, *has, *bound)
    return Policy(rows, policy.ways)


def _stands_for(ca: str, domain: int) -> str:
    """A PA of its own for an address."""
    address = ipaddress.ip_address(ca)
    if address.version == 4:
        return f"198.51.{100 + domain}.{int(address) & 0xFF | (int(address) >> 8 & 3) << 6}"
    return f"2001:db8:{0xA0 + domain:x}:{int(address) >> 80 & 0xFFFF:x}::{int(address) & 0xFFFF:x}"


def _pas(draw: st.DrawFn, host: str, version: int) -> tuple[str, ...]:
    """The PA that its ports are placed at first; perhaps one more behind it, for IPv6 of the other family."""
    if version == 6:
        return draw(st.sampled_from(((PAS6[host],), (PAS6[host], PAS4[host]))))
    return draw(st.sampled_from(((PAS4[host],), (PAS4[host], MORE4[host]))))


def _ways(
    draw: st.DrawFn, pas: dict[str, tuple[str, ...]], host: str, domains_of: dict[str, set[str]]
) -> dict[str, tuple[Way, ...]]:
    """Perhaps some, to hosts that it shares a domain with."""
    found = {}
    for other in HOSTS:
        if other != host and domains_of[other] & domains_of[host] and draw(st.booleans()):
            first = pas[other][0]
            ends = [[pa for pa in each if (":" in pa) == (":" in first)] for each in (pas[host], pas[other])]
            way = st.builds(Way, *map(st.sampled_from, ends), st.sampled_from((0, 0, 576, 1400, 9100)))
            found[first] = tuple(draw(st.lists(way, min_size=1, max_size=2)) * WAYS)[:WAYS]
    return found


def _subnet(draw: st.DrawFn, rdid: str, vsid: int, index: int) -> Subnet:
    prefixes = draw(
        st.sampled_from(
            (
                (f"10.0.{index}.0/24", f"2001:db8:{index}::/64"),
                (f"2001:db8:{index}::/64", f"10.0.{index}.0/24"),
                (f"10.0.{index}.0/24",),
                (f"2001:db8:{index}::/64",),
            )
        )
    )
    gateways = tuple(str(ipaddress.ip_network(prefix)[1]) for prefix in prefixes)
    router_mac = draw(st.sampled_from((ROUTER_MAC, "02:57:45:46:54:02")))
    mtu_bytes = draw(st.sampled_from((0, 0, 0, 576, 1300, 9000)))
    accepts = draw(st.sampled_from((*((rule,) for rule in RULES), (Rule.NVGRE,), (Rule.VXLAN, Rule.GRE), RULES)))
    segment = draw(st.integers(0, 2)) == 0
    if segment:
        accepts = (Rule.NVGRE, Rule.VLAN)
    if Rule.REWRITE in accepts:  # what cannot be rewritten travels all the same
        accepts = tuple(rule for rule in Rule if rule in accepts or rule is FALLBACK)
    dhcp = draw(st.sampled_from((None, Dhcp(), Dhcp(ipv6_mode=Ipv6Mode.SLAAC), Dhcp(ipv6_mode=Ipv6Mode.NONE))))
    return Subnet(
        vsid,
        rdid,
        prefixes,
        gateways,
        router_mac,
        mtu_bytes,
        accepts,
        dhcp=dhcp,
        broadcast=draw(st.integers(0, 9)) != 0,
        snooping=draw(st.integers(0, 3)) != 0,
        vlan=vsid % 1000 if segment else 0,
        network=draw(st.sampled_from((NETWORK,) * 7 + ("provider-networks/another",))) if segment else "",
        external_gateway=segment and draw(st.integers(0, 3)) == 0,
        provider_group=draw(st.sampled_from((None, None, None, *GROUPS))),
    )


def _port(draw: st.DrawFn, subnet: Subnet, number: int, name: str) -> Port:
    cas = tuple(str(ipaddress.ip_network(prefix)[3 + number]) for prefix in subnet.prefixes)
    mac = _mac(number)
    pairs = draw(
        st.lists(
            st.sampled_from(
                (
                    Pair(VRRP_MAC, subnet.prefixes[0]),
                    Pair(mac, "172.16.0.0/12"),
                    Pair(mac, "0.0.0.0/0"),
                    Pair(mac, "::/0"),
                    Pair(mac, "2001:db8:99::/48"),
                )
            ),
            max_size=2,
            unique=True,
        )
    )
    qos = draw(st.sampled_from(QOS)) if draw(st.integers(0, 3)) == 0 else None
    return Port(
        name,
        subnet.vsid,
        mac,
        cas,
        tuple(pairs),
        enabled=draw(st.integers(0, 9)) != 0,
        qos=qos,
        dhcp=draw(st.integers(0, 3)) != 0,
        dhcp_server=draw(st.integers(0, 3)) == 0,
    )


def _at_another(draw: st.DrawFn, port: Port, others: list[Port]) -> Port:
    """The port at another's interface, if there is one."""
    parents = [other.port for other in others if other.parent is None]
    if not parents:
        return port
    parent, vlan = draw(st.sampled_from(parents)), draw(st.sampled_from((1, 100, 4094)))
    if any((other.parent, other.vlan) == (parent, vlan) for other in others):
        return port
    return replace(port, parent=parent, vlan=vlan)


def _customer_routes(draw: st.DrawFn, rdid: str, rows: list[Row]) -> list[Row]:
    """Prefixes behind a guest, or on-link where no subnet says so."""
    records = [row for row in rows if isinstance(row, Record)]
    found: list[Row] = []
    for prefix in draw(
        st.lists(st.sampled_from(("0.0.0.0/0", "::/0", "172.16.0.0/12", "172.16.5.0/24", "10.0.2.128/25")), unique=True)
    ):
        via = draw(st.sampled_from(records)) if records else None
        if via is None or (":" in via.ca) != (":" in prefix):
            continue
        found.append(Route(rdid, prefix, via.vsid, draw(st.sampled_from((via.ca, via.ca, None)))))
    return found

"""The policy under the packet table: what host h1 is told, and its bindings. Tenants blue and red use the same CAs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from weft.contracts.dataplane import Wanted, Way
from weft.policy.rows import (
    Dhcp,
    Host,
    Limit,
    MacRecord,
    Member,
    Pair,
    Peer,
    Port,
    Qos,
    Record,
    Route,
    Row,
    Subnet,
    Uplink,
)

BLUE = "0b1e0000-0000-4000-8000-000000000001"
RED = "7ed00000-0000-4000-8000-000000000002"

PA1, PA2, PA3 = "192.0.2.11", "192.0.2.12", "198.51.100.13"
PA1_SECOND, PA2_SECOND = "192.0.2.111", "192.0.2.122"
PA_UNREACHABLE = "203.0.113.40"  #: the kernel has no route there
PA_OTHER_FAMILY = "2001:db8:f::41"
PA1_6, PA2_6 = "2001:db8:f::11", "2001:db8:f::12"

ROUTER = "02:57:45:46:54:01"
ROUTER_2 = "02:57:45:46:54:02"  # of blue's second subnet
UPLINK = "wup0"

BLUE_1, BLUE_2, BLUE_V4, RED_1, RED_2 = 5001, 5002, 5003, 6001, 6002
UNKNOWN = 5099  #: no Subnet row here
MTU_2 = 1300  #: mtu_bytes of BLUE_2
REMOTE_MTU = 1500 - 42

WEB1, WEB2, WEB3, FAR = "02:00:00:00:01:04", "02:00:00:00:01:05", "02:00:00:00:01:20", "02:00:00:00:01:30"
FW, OFF, LOST, ELSE = "02:00:00:00:01:09", "02:00:00:00:01:08", "02:00:00:00:01:66", "02:00:00:00:01:40"
DB1, DB2, OLD = "02:00:00:00:02:06", "02:00:00:00:02:07", "02:00:00:00:03:04"
VRRP = "00:00:5e:00:01:07"
VRRP_9 = "00:00:5e:00:01:09"  #: fw is its master
RED_WEB3, RED_WEB5, RED_DB2 = "02:00:00:00:0e:20", "02:00:00:00:0e:50", "02:00:00:00:0e:07"

PORTS = (
    Port("tenants/blue/ports/web-1", BLUE_1, WEB1, ("10.0.1.4", "2001:db8:1::4")),
    Port(
        "tenants/blue/ports/web-2",
        BLUE_1,
        WEB2,
        ("10.0.1.5", "2001:db8:1::5"),
        (
            Pair(VRRP, "10.0.1.100/32"),
            Pair(WEB2, "10.0.1.96/28"),
            Pair(VRRP, "2001:db8:1::100/128"),
            Pair(WEB2, "2001:db8:1::98/128"),
        ),
    ),
    Port(
        "tenants/blue/ports/fw",
        BLUE_1,
        FW,
        ("10.0.1.9", "2001:db8:1::9"),
        (
            Pair(FW, "172.16.0.0/12"),
            Pair(FW, "2001:db8:99::/48"),
            Pair(FW, "224.0.0.0/3"),
            Pair(VRRP_9, "10.0.1.109/32"),
        ),
        macs=(VRRP_9,),
        dhcp_server=True,
    ),
    Port("tenants/blue/ports/off", BLUE_1, OFF, ("10.0.1.8", "2001:db8:1::8"), enabled=False),
    Port("tenants/blue/ports/lost", BLUE_1, LOST, ("10.0.1.66",)),
    Port("tenants/blue/ports/db-1", BLUE_2, DB1, ("10.0.2.6", "2001:db8:2::6"), dhcp=False),
    Port("tenants/blue/ports/old", BLUE_V4, OLD, ("10.0.3.4",), (Pair(OLD, "::/0"),)),
    Port("tenants/red/ports/web-1", RED_1, WEB1, ("10.0.1.4", "2001:db8:1::4")),
    Port("tenants/red/ports/orphan", UNKNOWN, "02:00:00:00:09:04", ("10.0.9.4",)),
)

#: Port -> interface. Port lost is not bound; ghost is bound and has no row.
BINDINGS = {
    "tenants/blue/ports/web-1": "tapweb1",
    "tenants/blue/ports/web-2": "tapweb2",
    "tenants/blue/ports/fw": "tapfw",
    "tenants/blue/ports/off": "tapoff",
    "tenants/blue/ports/db-1": "tapdb1",
    "tenants/blue/ports/old": "tapold",
    "tenants/red/ports/web-1": "tapred1",
    "tenants/red/ports/orphan": "taporphan",
    "tenants/blue/ports/ghost": "tapghost",
}

#: An interface that no port is bound to.
UNBOUND_INTERFACE = "tapnone"


def _lives(vsid: int, mac: str, pa: str, *cas: str) -> list[Row]:
    return [*(Record(vsid, ca, pa, mac) for ca in cas), MacRecord(vsid, mac, pa)]


def _both(vsid: int, number: int, mac: str, pa: str) -> list[Row]:
    index = vsid % 1000
    return _lives(vsid, mac, pa, f"10.0.{index}.{number}", f"2001:db8:{index}::{number}")


ROWS: tuple[Row, ...] = (
    Host("hosts/h1", (PA1, PA1_SECOND), (Uplink(UPLINK, 1500),)),
    Subnet(BLUE_1, BLUE, ("10.0.1.0/24", "2001:db8:1::/64"), ("10.0.1.1", "2001:db8:1::1"), ROUTER, 0),
    Subnet(
        BLUE_2, BLUE, ("10.0.2.0/24", "2001:db8:2::/64"), ("10.0.2.1", "2001:db8:2::1"), ROUTER_2, MTU_2, dhcp=Dhcp()
    ),
    Subnet(BLUE_V4, BLUE, ("10.0.3.0/24",), ("10.0.3.1",), ROUTER, 0, dhcp=Dhcp()),
    Subnet(RED_1, RED, ("10.0.1.0/24", "2001:db8:1::/64"), ("10.0.1.1", "2001:db8:1::1"), ROUTER, 0, dhcp=Dhcp()),
    Subnet(RED_2, RED, ("10.0.2.0/24", "2001:db8:2::/64"), ("10.0.2.1", "2001:db8:2::1"), ROUTER, 0),
    *_both(BLUE_1, 4, WEB1, PA1),
    *_both(BLUE_1, 5, WEB2, PA1),
    *_both(BLUE_1, 9, FW, PA1),
    *_both(BLUE_1, 8, OFF, PA1),
    *_lives(BLUE_1, VRRP_9, PA1, "10.0.1.109", "2001:db8:1::109"),  # announced by fw
    *_lives(BLUE_1, WEB3, PA2, "10.0.1.98", "2001:db8:1::98"),  # announced elsewhere, and web-2 may have it, too
    *_lives(BLUE_1, LOST, PA1, "10.0.1.66"),
    *_both(BLUE_1, 20, WEB3, PA2),
    *_both(BLUE_1, 30, FAR, PA3),
    *_lives(BLUE_1, ELSE, PA_UNREACHABLE, "10.0.1.40"),
    *_lives(BLUE_1, "02:00:00:00:01:41", PA_OTHER_FAMILY, "10.0.1.41"),
    *_both(BLUE_2, 6, DB1, PA1),
    *_both(BLUE_2, 7, DB2, PA2),
    *_lives(BLUE_V4, OLD, PA1, "10.0.3.4"),
    *_both(RED_1, 4, WEB1, PA1),
    *_both(RED_1, 20, RED_WEB3, PA3),
    *_both(RED_1, 50, RED_WEB5, PA2),
    *_both(RED_2, 7, RED_DB2, PA3),
    *(Member(vsid, pa) for vsid in (BLUE_1, RED_1) for pa in (PA1, PA2, PA3)),
    *(Member(BLUE_2, pa) for pa in (PA1, PA2)),
    Member(BLUE_V4, PA1),
    Member(RED_2, PA3),
    Route(BLUE, "10.0.1.0/24", BLUE_1),
    Route(BLUE, "2001:db8:1::/64", BLUE_1),
    Route(BLUE, "10.0.2.0/24", BLUE_2),
    Route(BLUE, "2001:db8:2::/64", BLUE_2),
    Route(BLUE, "10.0.3.0/24", BLUE_V4),
    Route(BLUE, "172.16.0.0/12", BLUE_1, "10.0.1.9"),
    Route(BLUE, "2001:db8:99::/48", BLUE_1, "2001:db8:1::9"),
    Route(BLUE, "172.31.0.0/16", BLUE_1, "10.0.1.20"),
    Route(BLUE, "172.20.0.0/16", BLUE_1, "10.0.1.250"),
    Route(BLUE, "10.9.0.0/16", UNKNOWN),
    Route(RED, "10.0.1.0/24", RED_1),
    Route(RED, "2001:db8:1::/64", RED_1),
    Route(RED, "10.0.2.0/24", RED_2),
    Route(RED, "2001:db8:2::/64", RED_2),
    Route(RED, "::/0", RED_1, "2001:db8:1::20"),
    *PORTS,
)


@dataclass(frozen=True)
class Policy:
    rows: tuple[Row, ...]
    bindings: dict[str, str]
    unreachable: frozenset[str]  # PAs that the kernel has no route to
    ways: dict[str, tuple[Way, ...]] = field(default_factory=dict)
    listeners: dict[str, tuple[str, ...]] = field(default_factory=lambda: LISTENERS)
    wanted: dict[tuple[int, str], Wanted] = field(default_factory=dict)


#: Who has asked for which groups: the same one in either tenant.
LISTENERS = {
    "tenants/blue/ports/web-2": ("239.1.2.3", "ff15::123"),
    "tenants/blue/ports/off": ("239.1.2.3",),
    "tenants/red/ports/web-1": ("239.1.2.3", "239.9.9.9", "ff15::123"),
}

MAIN = Policy(ROWS, BINDINGS, frozenset({PA_UNREACHABLE, PA_OTHER_FAMILY}))

_TO_6 = {PA1: PA1_6, PA2: PA2_6}


def _over_6(row: Row) -> Row:
    if isinstance(row, Host):
        return replace(row, pas=(PA1_6,))
    if isinstance(row, Record | MacRecord | Member):
        return replace(row, pa=_TO_6.get(row.pa, row.pa))
    return row


#: The same over an IPv6 underlay.
OVER_IPV6 = Policy(
    tuple(_over_6(row) for row in ROWS if row.key[0] != "members" or row.key[2] != PA3), BINDINGS, frozenset()
)


PATH_MTU = 1400

#: Host 2 has two PAs, and there are two ways to it: flows of even places take the one, of odd places the other, where
#: less fits.
SEVERAL = Policy(
    (*ROWS, Peer(BLUE, PA2, (PA2, PA2_SECOND), ("a", "b"))),
    BINDINGS,
    MAIN.unreachable,
    {PA2: (Way(PA1, PA2), Way(PA1_SECOND, PA2_SECOND, PATH_MTU)) * 8},
)

#: Limits that nothing passes, since there is no burst, whenever a packet comes; and those that everything passes.
NO_BITS, NO_PACKETS = Limit(1), Limit(None, 0, 1)
WIDE = Limit(10**12, 1 << 28, 10**9, 1 << 20)

_QOS = {
    "tenants/blue/ports/web-1": Qos(WIDE, WIDE, dscp=46),
    "tenants/blue/ports/web-2": Qos(None, NO_BITS, dscp=0, outer_dscp=None),
    "tenants/blue/ports/fw": Qos(NO_BITS, None, dscp=10),
    "tenants/blue/ports/db-1": Qos(None, NO_PACKETS, outer_dscp=34),
    "tenants/red/ports/web-1": Qos(NO_PACKETS, NO_BITS),
}

#: The same with limits and marks.
LIMITED = Policy(
    tuple(replace(row, qos=_QOS.get(row.port)) if isinstance(row, Port) else row for row in ROWS),
    BINDINGS,
    MAIN.unreachable,
)

#: What differs between subnets: one that carries no broadcast, and one that carries every group to everybody.
QUIET = replace(MAIN, rows=tuple(replace(row, broadcast=False) if isinstance(row, Subnet) else row for row in ROWS))
OPEN = replace(MAIN, rows=tuple(replace(row, snooping=False) if isinstance(row, Subnet) else row for row in ROWS))

_HOUR_S = 3600.0
#: The groups of the same name that are snooped, in either IP version.
GROUPS = frozenset({"239.1.2.3", "ff15::123"})
#: The other hosts have said which groups their guests listen to: one to these, one to none; of the third it is too old.
#: In the other tenant's subnet nothing has been said.
HEEDING = replace(MAIN, wanted={(BLUE_1, PA2): Wanted(GROUPS, _HOUR_S), (BLUE_1, PA3): Wanted(frozenset(), _HOUR_S)})
FORGETTING = replace(
    MAIN, wanted={(BLUE_1, PA2): Wanted(frozenset(), 0.0), (BLUE_1, PA3): Wanted(frozenset(), _HOUR_S)}
)
#: The firewall is a multicast router.
ROUTED = replace(MAIN, listeners={**LISTENERS, "tenants/blue/ports/fw": ("0.0.0.0", "::")})

VLAN = 100

#: The uplink's PAs are in a VLAN.
TAGGED = Policy(
    tuple(replace(row, uplinks=(Uplink(UPLINK, 1500, vlan=VLAN),)) if isinstance(row, Host) else row for row in ROWS),
    BINDINGS,
    MAIN.unreachable,
)

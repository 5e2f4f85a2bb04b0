"""Ports with security groups on a whole data plane: what one guest sends and another gets, packet by packet.

What the tracker makes of conversations is in conversations.py; here it is asked where, of whom, and by which rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from packets import build as b
from packets import policy as p
from packets.policy import MAIN, UPLINK, WEB1, WEB2, WEB3, Policy
from weft.policy.drop import DropReason
from weft.policy.rows import AddressGroup, Direction, Port, Record, SecurityGroup, SecurityRule

WEB1_PORT, WEB2_PORT, FW_PORT = (f"tenants/blue/ports/{name}" for name in ("web-1", "web-2", "fw"))
IN, OUT = Direction.INGRESS, Direction.EGRESS
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58

CLIENTS = SecurityGroup(
    1,
    "clients",
    rules=(SecurityRule(11, "clients/out", OUT, 4), SecurityRule(12, "clients/out6", OUT, 6)),
)
SERVERS = SecurityGroup(
    2,
    "servers",
    rules=(
        SecurityRule(21, "servers/http", IN, 4, TCP, 80, 80, remote_group=1),
        SecurityRule(22, "servers/http6", IN, 6, TCP, 80, 80, remote_group=1),
        SecurityRule(23, "servers/dns", IN, 4, UDP, 53, 53, remote_prefix="10.0.1.0/24"),
        SecurityRule(24, "servers/not-fw", IN, 4, UDP, 53, 53, remote_prefix="10.0.1.9/32", allow=False, priority=5),
        SecurityRule(25, "servers/office", IN, 4, TCP, 443, 443, remote_addresses=31),
        SecurityRule(26, "servers/ping", IN, 4, ICMP, 8 << 8, 8 << 8),
    ),
)
OFFICES = AddressGroup(31, "offices", ("10.0.1.20/32",))
PLAIN = SecurityGroup(
    3,
    "plain",
    stateful=False,
    rules=(SecurityRule(41, "plain/in", IN, 4, UDP, 53, 53), SecurityRule(42, "plain/out", OUT, 4, UDP)),
)

FTP_CLIENTS = SecurityGroup(
    4,
    "ftp-clients",
    rules=(
        SecurityRule(51, "ftp-clients/ftp", OUT, 4, TCP, 21, 21),
        SecurityRule(52, "ftp-clients/6", OUT, 6, TCP, 21, 21),
    ),
)
FTP_SERVERS = SecurityGroup(
    5,
    "ftp-servers",
    rules=(
        SecurityRule(61, "ftp-servers/ftp", IN, 4, TCP, 21, 21),
        SecurityRule(62, "ftp-servers/6", IN, 6, TCP, 21, 21),
    ),
)

GROUPS = {WEB1_PORT: (1,), WEB2_PORT: (2,)}
_BEARS = {"10.0.1.4": (1,), "10.0.1.5": (2,), "2001:db8:1::4": (1,), "2001:db8:1::5": (2,)}


def guarded(
    groups: dict[str, tuple[int, ...]],
    rows: tuple[SecurityGroup, ...] = (CLIENTS, SERVERS),
    *,
    fw: bool = False,
    bears: dict[str, tuple[int, ...]] = _BEARS,
) -> Policy:
    """MAIN with groups on some ports; of blue's first subnet records bear what is said. fw: its port_security."""
    found = []
    for row in MAIN.rows:
        if isinstance(row, Port):
            row = replace(row, groups=groups.get(row.port, ()), port_security=row.port == FW_PORT and fw)
        elif isinstance(row, Record) and row.vsid == p.BLUE_1:
            row = replace(row, groups=bears.get(row.ca, ()))
        found.append(row)
    return replace(MAIN, rows=(*found, OFFICES, *rows))


GUARDED = guarded(GROUPS)
NO_HTTP = guarded(GROUPS, (CLIENTS, replace(SERVERS, rules=SERVERS.rules[2:])))
KEPT = tuple(replace(group, keep=True) for group in (CLIENTS, SERVERS))
KEPT_NO_HTTP = (KEPT[0], replace(KEPT[1], rules=SERVERS.rules[2:]))
#: The server has two groups, and the other one keeps nothing.
NOT_BOTH = {WEB1_PORT: (1,), WEB2_PORT: (2, 4)}
FOURTH = SecurityGroup(4, "fourth")
ALONE = guarded(GROUPS, bears={})
STATELESS = guarded({WEB2_PORT: (3,)}, (PLAIN,))
FTP = guarded({WEB1_PORT: (4,), WEB2_PORT: (5,)}, (FTP_CLIENTS, FTP_SERVERS))
NO_FTP = guarded({WEB1_PORT: (4,), WEB2_PORT: (5,)}, (FTP_CLIENTS, replace(FTP_SERVERS, rules=FTP_SERVERS.rules[1:])))
SECURED = guarded({}, (), fw=True)

#: What is said of one packet by rules of everybody, of a prefix and of a group, of its protocol and of any.
STANDING = SecurityGroup(
    7,
    "standing",
    rules=(
        SecurityRule(81, "standing/out", OUT, 4),
        SecurityRule(82, "standing/all", IN, 4),
        SecurityRule(83, "standing/no-group", IN, 4, UDP, 1001, 1001, remote_group=1, allow=False),
        SecurityRule(84, "standing/no-prefix", IN, 4, UDP, 1002, 1002, remote_prefix="10.0.1.4/32", allow=False),
        SecurityRule(85, "standing/nobody", IN, 4, UDP, 1003, 1006, allow=False, priority=5),
        SecurityRule(86, "standing/group-as-high", IN, 4, UDP, 1003, 1003, remote_group=1, priority=5),
        SecurityRule(87, "standing/group-higher", IN, 4, UDP, 1004, 1004, remote_group=1, priority=6),
        SecurityRule(88, "standing/prefix-higher", IN, 4, UDP, 1005, 1005, remote_prefix="10.0.1.0/24", priority=6),
        SecurityRule(89, "standing/group-lower", IN, 4, UDP, 1006, 1006, remote_group=1, priority=4),
        SecurityRule(90, "standing/none-of-icmp", IN, 4, ICMP, allow=False),
    ),
)

#: May open HTTP connections, and nothing else.
HTTP_ALONE = SecurityGroup(
    6,
    "narrow",
    rules=(SecurityRule(71, "narrow/4", OUT, 4, TCP, 80, 80), SecurityRule(72, "narrow/6", OUT, 6, TCP, 80, 80)),
)
IGMP = 2
#: And IGMP.
IGMP_TOO = replace(HTTP_ALONE, rules=(*HTTP_ALONE.rules, SecurityRule(73, "narrow/igmp", OUT, 4, IGMP)))
NARROW = guarded({WEB1_PORT: (6,)}, (HTTP_ALONE,))


def narrowed(policy: Policy, group: SecurityGroup = HTTP_ALONE) -> Policy:
    """The policy, with this one group on a port."""
    port = next(row for row in policy.rows if isinstance(row, Port) and row.port == WEB1_PORT)
    return replace(policy, rows=(*policy.rows, replace(port, groups=(6,)), group))


def _second(policy: Policy, change: Callable[[Port], Port | None]) -> Policy:
    """The policy, with web-2 as it is said to be, or without it."""
    found = (change(row) if isinstance(row, Port) and row.port == WEB2_PORT else row for row in policy.rows)
    return replace(policy, rows=tuple(row for row in found if row is not None))


def without_second(policy: Policy) -> Policy:
    return _second(policy, lambda _: None)


def another_mac(policy: Policy) -> Policy:
    return _second(policy, lambda port: replace(port, mac="02:00:00:00:01:55"))


def arriving_second(policy: Policy) -> Policy:
    return _second(policy, lambda port: replace(port, arriving=True))


REFUSED, INVALID = DropReason.SECURITY_GROUP, DropReason.CONNECTION_INVALID
MACS = {
    "10.0.1.4": WEB1,
    "10.0.1.5": WEB2,
    "10.0.1.20": WEB3,
    "10.0.1.9": p.FW,
    "2001:db8:1::4": WEB1,
    "2001:db8:1::5": WEB2,
}
TAPS = {
    "10.0.1.4": "tapweb1",
    "10.0.1.5": "tapweb2",
    "10.0.1.9": "tapfw",
    "2001:db8:1::4": "tapweb1",
    "2001:db8:1::5": "tapweb2",
}
FIRST, SECOND, FIREWALL, FAR_ONE = "10.0.1.4", "10.0.1.5", "10.0.1.9", "10.0.1.20"


@dataclass(frozen=True)
class Exchange:
    """One frame: by which interface, and why it is dropped, or that it goes on. policy: told before it."""

    interface: str
    frame: bytes
    dropped: DropReason | None = None
    policy: Policy | None = None


@dataclass(frozen=True)
class Scene:
    name: str
    policy: Policy
    exchanges: tuple[Exchange, ...]


def talk(
    source: str, to: str, layer: b.Packet, dropped: DropReason | None = None, policy: Policy | None = None
) -> Exchange:
    """By the port that has the source, or, of host 2's, by the uplink."""
    frame = b.eth(MACS[to], b.network(source, to) / layer, MACS[source])
    if source in TAPS:
        return Exchange(TAPS[source], frame, dropped, policy)
    outer = b.nvgre(p.PA1, p.BLUE_1, 0, frame, source=p.PA2)
    return Exchange(UPLINK, b.eth("02:00:00:00:ff:01", b.IP(outer), "02:00:00:00:ff:02"), dropped, policy)


def tcp(flags: str, seq: int, ack: int, ports: tuple[int, int] = (40000, 80), data: bytes = b"") -> b.Packet:
    return b.TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq, ack=ack, window=1000) / b.Raw(data)


def opened(source: str, to: str, port: int = 80) -> tuple[Exchange, ...]:
    return (
        talk(source, to, tcp("S", 100, 0, (40000, port))),
        talk(to, source, tcp("SA", 500, 101, (port, 40000))),
        talk(source, to, tcp("A", 101, 501, (40000, port))),
        talk(source, to, tcp("PA", 101, 501, (40000, port), b"question")),
        talk(to, source, tcp("PA", 501, 109, (port, 40000), b"answer")),
    )


def dns(source: str, to: str, *, answer: bool = False, dropped: DropReason | None = None, port: int = 53) -> Exchange:
    ends = (port, 40000) if answer else (40000, port)
    return talk(source, to, b.UDP(sport=ends[0], dport=ends[1]) / b.Raw(b"name"), dropped)


def ftp(client: str, server: str, said: bytes, *, by_server: bool = False, port: int = 40000) -> tuple[Exchange, ...]:
    """A control connection up to where one of both has said something."""
    hello, user = b"220 ready\r\n", b"USER anonymous\r\n"
    ways = (port, 21), (21, port)
    ours, theirs = 101 + len(user), 501 + len(hello)
    return (
        talk(client, server, tcp("S", 100, 0, ways[0])),
        talk(server, client, tcp("SA", 500, 101, ways[1])),
        talk(client, server, tcp("A", 101, 501, ways[0])),
        talk(server, client, tcp("PA", 501, 101, ways[1], hello)),
        talk(client, server, tcp("PA", 101, theirs, ways[0], user)),
        talk(server, client, tcp("PA", theirs, ours, ways[1], said))
        if by_server
        else talk(client, server, tcp("PA", ours, theirs, ways[0], said)),
    )


def to_all(port: int, dropped: DropReason | None = None) -> Exchange:
    body = b.network(FIRST, "255.255.255.255") / b.UDP(sport=40000, dport=port) / b.Raw(b"anybody")
    return Exchange("tapweb1", b.eth("ff:ff:ff:ff:ff:ff", body), dropped)


def joins(group: str = "239.1.2.3") -> Exchange:
    """IGMPv2, that the guest listens to it."""
    report = b.IP(src=FIRST, dst=group, ttl=1, proto=IGMP) / b.Raw(b"\x16" + bytes(7))
    return Exchange("tapweb1", b.eth("01:00:5e:01:02:03", report))


def scenes() -> list[Scene]:
    data = tcp("PA", 109, 507, data=b"more")
    return [
        Scene("a member of the group that a rule names opens, and no other", GUARDED, (
            *opened(FIRST, SECOND),
            talk(FIREWALL, SECOND, tcp("S", 100, 0), REFUSED),
            talk(FIRST, SECOND, tcp("S", 100, 0, (40000, 81)), REFUSED),
            talk(SECOND, FIRST, tcp("S", 100, 0), REFUSED),
        )),
        Scene("by IPv6 likewise", GUARDED, (
            *opened("2001:db8:1::4", "2001:db8:1::5"), talk("2001:db8:1::5", "2001:db8:1::4", tcp("S", 1, 0), REFUSED),
        )),
        Scene("from another host by an address group", GUARDED, (
            talk(FAR_ONE, SECOND, tcp("S", 100, 0, (40000, 443))),
            talk(SECOND, FAR_ONE, tcp("SA", 500, 101, (443, 40000))),
            talk(FAR_ONE, SECOND, tcp("S", 100, 0), REFUSED),
            talk(FAR_ONE, SECOND, tcp("A", 100, 5, (40001, 443)), INVALID),
        )),
        Scene("a rule that denies goes first by its priority", GUARDED, (
            dns(FIRST, SECOND), dns(SECOND, FIRST, answer=True), dns(FIREWALL, SECOND, dropped=REFUSED),
        )),
        Scene(
            "the highest decides, and of equals one that denies, whomever each names",
            guarded({WEB1_PORT: (1,), WEB2_PORT: (7,)}, (CLIENTS, STANDING)),
            (
                *(
                    dns(FIRST, SECOND, port=port, dropped=None if port in {1000, 1004, 1005} else REFUSED)
                    for port in range(1000, 1007)
                ),
                *(
                    dns(FIREWALL, SECOND, port=port, dropped=None if port in {1000, 1001, 1002, 1005} else REFUSED)
                    for port in range(1000, 1007)
                ),
                talk(FIREWALL, SECOND, b.echo(4), REFUSED),
            ),
        ),
        Scene("answers are of their connection", GUARDED, (
            talk(FIREWALL, SECOND, b.echo(4)),
            talk(SECOND, FIREWALL, b.echo_reply(4)),
            talk(SECOND, FIREWALL, b.echo(4), REFUSED),
            talk(SECOND, FIREWALL, b.ICMP(type=0, id=9), REFUSED),
        )),
        Scene("a rule that goes cuts its connections", GUARDED, (
            *opened(FIRST, SECOND),
            talk(FIRST, SECOND, data, REFUSED, NO_HTTP),
            talk(FIRST, SECOND, data, None, GUARDED),
        )),
        Scene("unless all groups of the port keep theirs, which new ones have nothing of", guarded(GROUPS, KEPT), (
            *opened(FIRST, SECOND),
            talk(FIRST, SECOND, data, None, guarded(GROUPS, KEPT_NO_HTTP)),
            talk(FIRST, SECOND, tcp("S", 100, 0, (40001, 80)), REFUSED),
        )),
        Scene("and one that keeps nothing cuts them", guarded(NOT_BOTH, (*KEPT, FOURTH)), (
            *opened(FIRST, SECOND), talk(FIRST, SECOND, data, REFUSED, guarded(NOT_BOTH, (*KEPT_NO_HTTP, FOURTH))),
        )),
        Scene("what was kept is cut when it is to be kept no longer", guarded(GROUPS, KEPT), (
            *opened(FIRST, SECOND),
            talk(FIRST, SECOND, data, None, guarded(GROUPS, KEPT_NO_HTTP)),
            talk(FIRST, SECOND, data, REFUSED, NO_HTTP),
        )),
        Scene("what was cut stays so when connections are kept from then on, until rules let it again", GUARDED, (
            *opened(FIRST, SECOND),
            talk(FIRST, SECOND, data, REFUSED, NO_HTTP),
            talk(FIRST, SECOND, data, REFUSED, guarded(GROUPS, KEPT_NO_HTTP)),
            talk(FIRST, SECOND, data, None, guarded(GROUPS, KEPT)),
        )),
        Scene("a port that comes anew has no connection of a former one of its name", guarded(GROUPS, KEPT), (
            *opened(FIRST, SECOND),
            talk(FIRST, SECOND, data, DropReason.VSID_ACL, without_second(guarded(GROUPS, KEPT))),
            talk(FIRST, SECOND, data, INVALID, guarded(GROUPS, KEPT)),
            talk(SECOND, FIRST, tcp("PA", 507, 113, (80, 40000), b"more"), REFUSED),
        )),
        Scene("nor of its own with another MAC", guarded(GROUPS, KEPT), (
            *opened(FIRST, SECOND),
            dns(FIRST, SECOND),
            talk(FIRST, SECOND, data, DropReason.VSID_ACL, another_mac(guarded(GROUPS, KEPT))),
            talk(FIRST, SECOND, data, INVALID, guarded(GROUPS, KEPT)),
            dns(SECOND, FIRST, answer=True, dropped=REFUSED),
        )),
        Scene("one that comes from another host may have some of before", guarded(GROUPS, KEPT), (
            *opened(FIRST, SECOND),
            talk(FIRST, SECOND, data, DropReason.VSID_ACL, without_second(guarded(GROUPS, KEPT))),
            talk(FIRST, SECOND, data, None, arriving_second(guarded(GROUPS, KEPT))),
            talk(FIRST, SECOND, tcp("R", 200_000, 0), INVALID),
        )),
        Scene("so does a member that is one no more", GUARDED, (
            *opened(FIRST, SECOND), talk(FIRST, SECOND, data, REFUSED, ALONE), talk(FIRST, SECOND, data, None, GUARDED),
        )),
        Scene("stateless: each packet by itself", STATELESS, (
            dns(FIRST, SECOND), dns(SECOND, FIRST, answer=True), dns(SECOND, FIRST, port=99),
            dns(FIRST, SECOND, answer=True, dropped=REFUSED, port=99), talk(SECOND, FIRST, tcp("S", 1, 0), REFUSED),
        )),
        Scene("port security alone: out, and what answers", SECURED, (
            dns(FIRST, FIREWALL, dropped=REFUSED), dns(FIREWALL, FIRST), dns(FIRST, FIREWALL, answer=True),
        )),
        Scene("to many: each copy is asked of at its port", GUARDED, (to_all(53), to_all(54))),
        Scene("of what the host keeps of groups nobody is asked, and no connection is made", NARROW, (
            joins(), to_all(80, REFUSED), talk(FIRST, SECOND, tcp("S", 1, 0)),
        )),
        Scene("the gateway answers what may be sent", GUARDED, (
            Exchange("tapweb1", b.eth(p.ROUTER, b.network(FIRST, "10.0.1.1") / b.echo(4))),
            Exchange("tapweb2", b.eth(p.ROUTER, b.network(SECOND, "10.0.1.1") / b.echo(4), WEB2), REFUSED),
        )),
        Scene("FTP: active, by the client's word, at both ports", FTP, (
            talk(SECOND, FIRST, tcp("S", 1, 0, (20, 50_000)), REFUSED),
            *ftp(FIRST, SECOND, b"PORT 10,0,1,4,195,80\r\n"),
            *opened(SECOND, FIRST, 50_000),
            talk(SECOND, FIRST, tcp("S", 1, 0, (20, 50_000)), REFUSED),
        )),
        Scene("FTP: passive, by the server's word, at both ports", FTP, (
            talk(FIRST, SECOND, tcp("S", 1, 0, (40001, 50_000)), REFUSED),
            *ftp(FIRST, SECOND, b"227 Entering Passive Mode (10,0,1,5,195,80).\r\n", by_server=True),
            *opened(FIRST, SECOND, 50_000),
        )),
        Scene("FTP: by IPv6", FTP, (
            *ftp("2001:db8:1::4", "2001:db8:1::5", b"229 Extended (|||50000|)\r\n", by_server=True),
            *opened("2001:db8:1::4", "2001:db8:1::5", 50_000),
            *ftp("2001:db8:1::4", "2001:db8:1::5", b"EPRT |2|2001:db8:1::4|50001|\r\n", port=40001),
            *opened("2001:db8:1::5", "2001:db8:1::4", 50_001),
        )),
        Scene("FTP: from another host", FTP, (
            *ftp(FAR_ONE, SECOND, b"227 (10,0,1,5,195,80)\r\n", by_server=True),
            *opened(FAR_ONE, SECOND, 50_000),
            talk(FIREWALL, SECOND, tcp("S", 1, 0, (40000, 50_000)), REFUSED),
        )),
        Scene("FTP: nobody is let bounce", FTP, (
            *ftp(FIRST, SECOND, b"PORT 10,0,1,9,195,80\r\n"),
            talk(SECOND, FIREWALL, tcp("S", 1, 0, (20, 50_000)), REFUSED),
            talk(SECOND, FIRST, tcp("S", 1, 0, (20, 50_000)), REFUSED),
        )),
        Scene("FTP: with the control connection's rule its data connections go, and come back", FTP, (
            *ftp(FIRST, SECOND, b"227 (10,0,1,5,195,80)\r\n", by_server=True),
            *opened(FIRST, SECOND, 50_000),
            talk(FIRST, SECOND, tcp("PA", 109, 507, (40000, 50_000), b"more"), REFUSED, NO_FTP),
            talk(FIRST, SECOND, tcp("PA", 109, 507, (40000, 50_000), b"more"), None, FTP),
        )),
        Scene("routed, to another subnet", GUARDED, (
            Exchange("tapweb1", b.eth(p.ROUTER, b.network(FIRST, "10.0.2.6") / b.echo(4))),
            Exchange("tapdb1", b.eth(p.ROUTER_2, b.network("10.0.2.6", FIRST) / b.echo_reply(4), p.DB1)),
            Exchange("tapdb1", b.eth(p.ROUTER_2, b.network("10.0.2.6", SECOND) / b.echo(4), p.DB1)),
            Exchange("tapdb1", b.eth(p.ROUTER_2, b.network("10.0.2.6", FIRST) / b.echo(4), p.DB1), REFUSED),
        )),
    ]  # fmt: skip


SCENES = scenes()

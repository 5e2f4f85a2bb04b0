"""Other connection trackers beside Weft's: Linux's own behind nftables, and Open vSwitch's ct() in userspace.

Both stand on both hosts of a topology, are stateful, and have as many rules as Weft's group: of RULES, one lets the
traffic in, by the set of its members. Measures nothing.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import openvswitch
from bench.topology import Side, Topology, reached, topology
from weft.lab import shell
from weft.model.features import Rule

RULES = 1_000
RULE = Rule.VXLAN  # of Open vSwitch's tunnel
LINUX, OPEN_VSWITCH = "linux", "ovs"
_MEMBERS = ipaddress.ip_address("10.90.0.0")


@dataclass(frozen=True, slots=True)
class Tracker:
    """forget: every connection, before new ones are counted."""

    side: Side
    forget: Callable[[], None] = lambda: None


@contextmanager
def peers(members: int) -> Iterator[tuple[Tracker, Tracker]]:
    """Linux's and Open vSwitch's, up and carrying, in namespaces of their own."""
    with topology() as up, openvswitch.peers(up, (RULE,)) as switches:
        plain, switched = up.side("plain"), switches.side(RULE)
        for number in (1, 2):
            _filter(f"{up.name}host{number}", members)
            _track(switches.home(number), members)
        sides = (
            Side(LINUX, plain.client, plain.server, plain.target),
            Side(OPEN_VSWITCH, switched.client, switched.server, switched.target),
        )
        for each in sides:
            reached(each)
        _check(up, switches)
        yield Tracker(sides[0]), Tracker(sides[1], partial(_forget, switches))


def _members(count: int, *guests: str) -> list[str]:
    return [*guests, *(str(_MEMBERS + each) for each in range(count - len(guests)))]


def _filter(host: str, members: int) -> None:
    """Rules as elements of a set that one look-up judges: what nftables has for many of them."""
    rules = ", ".join(f"10.{each % 200}.0.0/16 . {each}-{each + 3}" for each in range(1, 4 * RULES, 4))
    ruleset = f"""
        table inet guard {{
            set members {{ type ipv4_addr; elements = {{ {", ".join(_members(members, "10.2.1.2", "10.2.2.2"))} }} }}
            set rules {{ type ipv4_addr . inet_service; flags interval; elements = {{ {rules} }} }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                ct state invalid drop
                ip saddr . tcp dport @rules accept
                ip saddr @members accept
            }}
        }}
    """
    _given(shell.inside(host, ["nft", "-f", "-"]), ruleset)


def _track(home: Path, members: int) -> None:
    """A flow for each rule and each member: Open vSwitch classifies by tuple space, whose cost is the masks' number."""
    bridge = f"unix:{home}/br-{openvswitch.KINDS[RULE][0]}.mgmt"
    second = openvswitch.KINDS[RULE][1]
    let = "actions=ct(commit,zone=1),NORMAL"
    flows = [
        "table=0,priority=10,arp,actions=NORMAL",
        "table=0,priority=5,ip,actions=ct(table=1,zone=1)",
        "table=1,priority=20,ip,ct_state=+trk+est,actions=NORMAL",
        "table=1,priority=20,ip,ct_state=+trk+inv,actions=drop",
        *(
            f"table=1,priority=10,tcp,ct_state=+trk+new,nw_src=10.{each % 200}.0.0/16,tp_dst={each}/0xfffc,{let}"
            for each in range(4, 4 * RULES + 4, 4)
        ),
        *(
            f"table=1,priority=9,ip,ct_state=+trk+new,nw_src={each},{let}"
            for each in _members(members, f"10.{second}.0.2", f"10.{second}.0.3")
        ),
    ]
    _given(["ovs-ofctl", "-O", "OpenFlow14", "--bundle", "replace-flows", bridge, "-"], "\n".join(flows))


def _given(command: list[str], text: str) -> None:
    done = subprocess.run(command, check=False, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[:500]}")


def _forget(switches: openvswitch.Peers) -> None:
    """What Open vSwitch has of connections that ended unseen, it holds against new ones between the same ports.

    It drops their packets as invalid, so that each client that comes upon such a port waits, and after some turns, or
    in a long one, all of them do: it would be measured by how long it has been used already.
    """
    for number in (1, 2):
        command = ["ovs-appctl", "-t", f"{switches.home(number)}/switch.ctl", "dpctl/flush-conntrack"]
        subprocess.run(command, check=True, capture_output=True)


def _check(up: Topology, switches: openvswitch.Peers) -> None:
    """That what has just been pinged was tracked, on every host: what is not in use would be fast."""
    for number in (1, 2):
        if shell.within(f"{up.name}host{number}", _tracked) == 0:
            raise RuntimeError(f"Linux tracks nothing on host {number}")
        command = [
            "ovs-appctl",
            "-t",
            f"{switches.home(number)}/switch.ctl",
            "dpctl/dump-conntrack",
            "netdev@ovs-netdev",
        ]
        if "icmp" not in subprocess.run(command, check=True, capture_output=True, text=True).stdout:
            raise RuntimeError(f"Open vSwitch tracks nothing on host {number}")


def _tracked() -> int:
    """Connections that Linux has in this namespace."""
    _, first, *_ = Path("/proc/thread-self/net/stat/nf_conntrack").read_text(encoding="ascii").splitlines()
    return int(first.split()[0], 16)

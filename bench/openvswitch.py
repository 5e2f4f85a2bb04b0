"""Open vSwitch's userspace datapath beside Weft, in the same namespaces: a switch a host, as its users set it up.

Each host has an uplink of its own for it (100.66.0.0/16), since the switch takes the interface whole. The bridge br-phy
has the uplink and the tunnel end point's address; for each kind of tunnel there is a bridge with the guest's veth and a
tunnel port, which learns (the NORMAL action). The guests' checksum offload is off, and with it TSO: Open vSwitch 3.1
neither finishes checksums of what it takes from a veth nor puts TSO packets into tunnels. Measures nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.topology import MTU_BYTES, Side, Topology, reached
from weft.lab import shell
from weft.model.features import Rule, overhead_bytes

#: Open vSwitch's word for each rule, and the second byte of the guests' addresses there.
KINDS: Mapping[Rule, tuple[str, int]] = {Rule.GRE: ("gre", 5), Rule.VXLAN: ("vxlan", 6), Rule.GENEVE: ("geneve", 7)}
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


@dataclass(frozen=True, slots=True)
class Peers:
    """What ``peers`` has set up."""

    up: Topology
    at: Path

    def home(self, number: int) -> Path:
        """Where the switch of that host has its sockets."""
        return self.at / f"h{number}"

    def side(self, rule: Rule) -> Side:
        kind, second = KINDS[rule]
        return Side(f"ovs-{kind}", f"{self.up.name}guest1", f"{self.up.name}guest2", f"10.{second}.0.3")


@contextmanager
def peers(up: Topology, rules: Sequence[Rule] = tuple(KINDS)) -> Iterator[Peers]:
    """Up and carrying; gone again at the end, but for the interfaces, which go with their namespaces."""
    fabric = f"{up.name}fabric"
    with ExitStack() as stack:
        found = Peers(up, stack.enter_context(processes.directory()))
        for number in (1, 2):
            host, guest = f"{up.name}host{number}", f"{up.name}guest{number}"
            shell.ip_batch([_wire(f"name ovsup netns {host}", f"name ovs{number} netns {fabric}", MTU_BYTES)])
            shell.ip_batch([f"address add 100.66.{number}.1/24 dev ovs{number}", f"link set ovs{number} up"], fabric)
            shell.ip_batch(["link set ovsup up"], host)
            for rule in rules:
                kind, second = KINDS[rule]
                near, far = f"name o{kind} netns {host}", f"name o{kind} netns {guest}"
                shell.ip_batch([_wire(near, far, MTU_BYTES - overhead_bytes(rule, 4))])
                shell.ip_batch([f"link set o{kind} up"], host)
                shell.ip_batch(
                    [f"address add 10.{second}.0.{number + 1}/24 dev o{kind}", f"link set o{kind} up"], guest
                )
                subprocess.run(
                    shell.inside(guest, ["ethtool", "-K", f"o{kind}", "tx", "off"]), check=True, capture_output=True
                )
            (home := found.home(number)).mkdir()
            stack.enter_context(_switch(home, host))
            _configure(home, host, number, rules)
        for rule in rules:
            reached(found.side(rule))
        yield found


def _wire(near: str, far: str, mtu_bytes: int) -> str:
    return f"link add {near} mtu {mtu_bytes} type veth peer {far} mtu {mtu_bytes}"


@contextmanager
def _switch(home: Path, namespace: str) -> Iterator[None]:
    """ovsdb-server and ovs-vswitchd with nothing outside ``home``."""
    environment = {**os.environ, **{name: str(home) for name in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR")}}
    subprocess.run(["ovsdb-tool", "create", str(home / "conf.db"), str(SCHEMA)], check=True, env=environment)
    with ExitStack() as stack:
        database = ["ovsdb-server", str(home / "conf.db"), f"--remote=punix:{home}/db.sock", f"--unixctl={home}/db.ctl"]
        stack.enter_context(processes.running(home / "db.log", database, environment))
        processes.wait((home / "db.sock").exists, "the switch's database listens")
        switch = ["ovs-vswitchd", f"unix:{home}/db.sock", f"--unixctl={home}/switch.ctl"]
        stack.enter_context(processes.running(home / "switch.log", shell.inside(namespace, switch), environment))
        yield


def _configure(home: Path, host: str, number: int, rules: Sequence[Rule]) -> None:
    other = 3 - number

    def bridge(name: str) -> list[str]:
        return ["--", "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", "fail_mode=standalone"]

    words = [*bridge("br-phy"), "--", "add-port", "br-phy", "ovsup"]
    for rule in rules:
        kind, _ = KINDS[rule]
        tunnel = [f"type={kind}", f"options:remote_ip=100.66.{other}.2", "options:key=100"]
        words += [*bridge(f"br-{kind}"), "--", "add-port", f"br-{kind}", f"o{kind}"]
        words += ["--", "add-port", f"br-{kind}", f"t{kind}", "--", "set", "interface", f"t{kind}", *tunnel]
    subprocess.run(["ovs-vsctl", "--no-wait", f"--db=unix:{home}/db.sock", "init"], check=True, capture_output=True)
    # Waits until the switch has done it.
    subprocess.run(
        ["ovs-vsctl", "--timeout=20", f"--db=unix:{home}/db.sock", *words[1:]], check=True, capture_output=True
    )
    shell.ip_batch(
        [
            f"address add 100.66.{number}.2/24 dev br-phy",
            "link set br-phy up",
            f"route add 100.66.{other}.0/24 via 100.66.{number}.1 dev br-phy",
        ],
        host,
    )

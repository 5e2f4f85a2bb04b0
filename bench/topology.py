"""guest1 - host1 - fabric - host2 - guest2, in network namespaces, with one path per contender. Measures nothing.

Each guest has four interfaces: weft0 (a subnet on both hosts), routed0 (two subnets, the distributed router between
them), plain0 (the hosts forward by their own routes, no overlay) and vxlan0 (a Linux VXLAN device in a bridge). The
wires under them, and everything that the hosts and the fabric do with a packet once it is on the way, are the same.

Every name begins with this process's id, so a run that was killed is cleaned up by the next one.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from bench.processes import PREFIX, alive
from weft.dataplane.ebpf.maps import Sizes
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.lab import shell
from weft.model.features import Rule, overhead_bytes
from weft.policy.rows import ORDER, Host, MacRecord, Port, Record, Rewrite, Route, Row, Subnet, Uplink

T = TypeVar("T")

MTU_BYTES = 1500
ROOMY_MTU_BYTES = 1600  # of the uplinks, as README would have it: guests keep 1500 whatever the rule
RDID = "6d0c6c6e-2b7a-5f6e-9d57-77656674626e"
ROUTER_MAC = "02:57:45:46:54:01"
BRIDGED, NEAR, FAR = 5001, 5002, 5003  # VSIDs: weft0 of both guests; routed0 of guest 1; routed0 of guest 2
#: Inside FAR's prefix: guest 2 takes any of these as its own, so records can be spread over a million destinations.
MANY = ipaddress.ip_network("10.80.0.0/12")
GUEST2 = "10.64.0.2"  # in FAR
OWN_RECORDS = 4  # of the guests themselves

#: A subnet on both hosts for each rule beside NVGRE: its VSID, and the second byte of its addresses.
BY_RULE: Mapping[Rule, tuple[int, int]] = {
    Rule.VXLAN: (5010, 20),
    Rule.GENEVE: (5011, 21),
    Rule.GRE: (5012, 22),
    Rule.STT: (5013, 23),
    Rule.REWRITE: (5014, 24),
    Rule.VLAN: (5015, 25),
}
#: The fabric switches this VLAN from host to host, beside what it routes.
VLAN, NETWORK = 100, "provider-networks/bench"

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Side:
    """One way from guest 1 to guest 2. target: guest 2's address there."""

    name: str
    client: str  # namespaces
    server: str
    target: str


def pa(number: int) -> str:
    return f"100.65.{number}.2"


def guest_pa(number: int) -> str:
    """What stands for the guest's CA where it travels by IP rewrite."""
    return f"100.65.{number}.20"


def routed_mac(number: int) -> str:
    return f"02:00:00:02:00:0{number}"


def ruled_mac(number: int, rule: Rule) -> str:
    return f"02:00:00:03:{BY_RULE[rule][1]:02x}:0{number}"


def rule_rows(number: int, rules: Sequence[Rule]) -> list[Row]:
    """What host ``number`` is told of the subnets that travel by these rules, in the tables' order."""
    found: list[Row] = []
    for rule in rules:
        vsid, second = BY_RULE[rule]
        prefix, gateway = f"10.{second}.0.0/24", f"10.{second}.0.1"
        subnet = Subnet(vsid, RDID, (prefix,), (gateway,), ROUTER_MAC, 0, (rule,))
        if rule is Rule.VLAN:
            subnet = replace(subnet, vlan=VLAN, network=NETWORK, bridged=True)
        found.append(subnet)
        for each in (1, 2):
            found.append(Record(vsid, f"10.{second}.0.{each + 1}", pa(each), ruled_mac(each, rule), rule))
            found.append(MacRecord(vsid, ruled_mac(each, rule), pa(each), rule))
            if rule is Rule.REWRITE:
                found.append(Rewrite(guest_pa(each), vsid, f"10.{second}.0.{each + 1}"))
        ca = f"10.{second}.0.{number + 1}"
        pas = (guest_pa(number),) if rule is Rule.REWRITE else ()
        found.append(Port(f"tenants/bench/ports/{rule}-{number}", vsid, ruled_mac(number, rule), (ca,), pas=pas))
    return sorted(found, key=lambda row: ORDER[row.key[0]])


def guest_mtu_bytes(rule: Rule, uplink_mtu_bytes: int) -> int:
    """What the rule leaves of the uplink's, and no more than plain's guests have."""
    return min(MTU_BYTES, uplink_mtu_bytes - overhead_bytes(rule, 4))


def rows(number: int, uplink_mtu_bytes: int = MTU_BYTES) -> list[Row]:
    """What host ``number`` is told, in the tables' order."""

    def port(path: str, vsid: int, mac: str, ca: str) -> Port:
        return Port(f"tenants/bench/ports/{path}-{number}", vsid, mac, (ca,))

    def bridged_mac(each: int) -> str:
        return f"02:00:00:01:00:0{each}"

    near, far = ("10.4.0.2", GUEST2)
    records = [
        *(Record(BRIDGED, f"10.1.0.{each + 1}", pa(each), bridged_mac(each)) for each in (1, 2)),
        Record(NEAR, near, pa(1), routed_mac(1)),
        Record(FAR, far, pa(2), routed_mac(2)),
    ]
    subnets = {BRIDGED: "10.1.0.0/24", NEAR: "10.4.0.0/24", FAR: "10.64.0.0/10"}
    return [
        Host(f"hosts/h{number}", (pa(number),), (Uplink("eth0", uplink_mtu_bytes, NETWORK),)),
        *(
            Subnet(vsid, RDID, (prefix,), (str(ipaddress.ip_network(prefix)[1]),), ROUTER_MAC, 0)
            for vsid, prefix in subnets.items()
        ),
        *records,
        *(MacRecord(each.vsid, each.mac, each.pa) for each in records),
        *(Route(RDID, prefix, vsid) for vsid, prefix in subnets.items()),
        port("weft", BRIDGED, bridged_mac(number), f"10.1.0.{number + 1}"),
        port("routed", *((NEAR, routed_mac(1), near) if number == 1 else (FAR, routed_mac(2), far))),
    ]


def filler(count: int) -> Iterator[Record]:
    """Records of addresses that guest 2 answers for, all different."""
    first = int(MANY.network_address)
    if count > MANY.num_addresses:
        raise ValueError(f"{count} records; {MANY} has {MANY.num_addresses} addresses")
    where, mac = pa(2), routed_mac(2)
    return (Record(FAR, str(ipaddress.IPv4Address(first + each)), where, mac) for each in range(count))


class HostPlane:
    """A host's data plane, on a thread of its own inside the host's namespace."""

    def __init__(self, namespace: str, pins: Path, sizes: Sizes) -> None:
        self._thread = ThreadPoolExecutor(1, f"in {namespace}", shell.enter, (namespace,))
        try:
            self._plane = self._thread.submit(EbpfDataPlane, pins, sizes).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def run(self, work: Callable[[EbpfDataPlane], T]) -> T:
        return self._thread.submit(work, self._plane).result()

    def update(self, what: list[Row]) -> None:
        failures = self.run(lambda plane: plane.update(what))
        if failures:
            raise RuntimeError(f"{len(failures)} rows were refused; the first: {failures[0]}")

    def remove(self) -> None:
        try:
            self.run(EbpfDataPlane.remove)
        finally:
            self._thread.shutdown()


class Topology:
    """The five namespaces, up. planes: host 1's and host 2's."""

    def __init__(self, name: str, planes: tuple[HostPlane, HostPlane]) -> None:
        self.name, self.planes = name, planes

    def side(self, path: str) -> Side:
        targets = {"weft": "10.1.0.3", "routed": GUEST2, "plain": "10.2.2.2", "vxlan": "10.3.0.3"}
        return Side(path, f"{self.name}guest1", f"{self.name}guest2", targets[path])

    def sides(self, *paths: str) -> list[Side]:
        return [self.side(each) for each in paths]

    def ruled(self, rule: Rule) -> Side:
        """By a rule of those that it was set up with."""
        target = f"10.{BY_RULE[rule][1]}.0.3"
        return Side(f"weft-{rule}", f"{self.name}guest1", f"{self.name}guest2", target)

    def many(self) -> Side:
        """To MANY: by a record each, which ``filler`` makes, or by one route."""
        return Side("many", f"{self.name}guest1", f"{self.name}guest2", str(MANY.network_address))


@contextmanager
def topology(
    records: int = 0, *, one_route: bool = False, rules: Sequence[Rule] = (), uplink_mtu_bytes: int = MTU_BYTES
) -> Iterator[Topology]:
    """Up, carrying on every path, and gone again at the end. records: so many more in the hosts' maps.

    one_route: guest 2 is a router that has all of MANY behind it, whatever records there are. rules: a subnet for each.
    """
    sweep()
    name = f"{PREFIX}{os.getpid()}-{next(_numbers)}-"
    pins = shell.BPF_FILESYSTEM / name.rstrip("-")
    sizes = Sizes(records=max(65_536, (1_000_000 + 10) * 2))  # the same for whatever number is in it
    shell.mount_bpf_filesystem()
    with ExitStack() as stack:
        stack.callback(shell.remove_tree, pins)
        stack.callback(_delete, name)
        _build(name, uplink_mtu_bytes)
        _add_ruled(name, rules, uplink_mtu_bytes)
        planes = []
        for number in (1, 2):
            plane = HostPlane(f"{name}host{number}", pins / f"h{number}", sizes)
            stack.callback(plane.remove)
            plane.update(rows(number, uplink_mtu_bytes))
            plane.update(rule_rows(number, rules))
            plane.update(list(filler(records)))
            if one_route:
                plane.update([Route(RDID, str(MANY), FAR, GUEST2)])
            paths = ("weft", "routed", *rules)
            bindings = {f"tenants/bench/ports/{path}-{number}": f"tap{path}" for path in paths}
            failures = plane.run(lambda each, bindings=bindings: each.bind(bindings))  # type: ignore[misc]
            if failures:
                raise RuntimeError(f"the ports cannot be bound: {failures[0]}")
            planes.append(plane)
        up = Topology(name, (planes[0], planes[1]))
        for path in ("weft", "routed", "plain", "vxlan"):
            reached(up.side(path))
        for rule in rules:
            reached(up.ruled(rule))
        yield up


def sweep() -> None:
    """Take away what runs that are no more have left behind."""
    for each in shell.namespaces(PREFIX):
        if not alive(each):
            shell.delete_namespaces([each])
    if shell.BPF_FILESYSTEM.is_dir():
        for path in shell.BPF_FILESYSTEM.glob(f"{PREFIX}*"):
            if not alive(path.name):
                shell.remove_tree(path)


def _delete(name: str) -> None:
    shell.delete_namespaces(shell.namespaces(name))


def _build(name: str, uplink_mtu_bytes: int) -> None:
    fabric, hosts, guests = f"{name}fabric", f"{name}host", f"{name}guest"
    numbers = (1, 2)
    shell.ip_batch(
        f"netns add {each}" for each in (fabric, *(f"{kind}{n}" for kind in (hosts, guests) for n in numbers))
    )
    for each in shell.namespaces(name):
        shell.within(each, lambda: _sysctls({"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1}))
        shell.ip_batch(["link set lo up"], each)
    for each in (fabric, *(f"{hosts}{n}" for n in numbers)):
        shell.within(each, lambda: _sysctls({"ipv4/ip_forward": 1}))
    for n in numbers:
        other = 3 - n
        host, guest = f"{hosts}{n}", f"{guests}{n}"
        weft_mtu, vxlan_mtu = (guest_mtu_bytes(rule, uplink_mtu_bytes) for rule in (Rule.NVGRE, Rule.VXLAN))
        bridged, routed = (each for each in rows(n) if isinstance(each, Port))
        wires = [
            (f"name eth0 netns {host}", f"name host{n} netns {fabric}", uplink_mtu_bytes),
            (f"name tapweft netns {host}", f"name weft0 netns {guest} address {bridged.mac}", weft_mtu),
            (f"name taprouted netns {host}", f"name routed0 netns {guest} address {routed.mac}", weft_mtu),
            (f"name plain netns {host}", f"name plain0 netns {guest}", MTU_BYTES),
            (f"name vx netns {host}", f"name vxlan0 netns {guest}", vxlan_mtu),
        ]
        shell.ip_batch(f"link add {near} mtu {mtu} type veth peer {far} mtu {mtu}" for near, far, mtu in wires)
        shell.ip_batch([f"address add 100.65.{n}.1/24 dev host{n}", f"link set host{n} up"], fabric)
        shell.ip_batch([f"route add 10.2.{n}.0/24 via {pa(n)}"], fabric, force=True)  # once more when the host is up
        shell.ip_batch(
            [
                f"address add {pa(n)}/24 dev eth0",
                *(f"link set {each} up" for each in ("eth0", "tapweft", "taprouted", "plain", "vx")),
                f"route add default via 100.65.{n}.1",
                f"address add 10.2.{n}.1/24 dev plain",
                f"link add vxlan100 mtu {vxlan_mtu} type vxlan id 100 local {pa(n)} remote {pa(other)} dstport 8472",
                f"link add br0 mtu {vxlan_mtu} type bridge",
                *(f"link set {each} master br0" for each in ("vxlan100", "vx")),
                *(f"link set {each} up" for each in ("vxlan100", "br0")),
            ],
            host,
        )
        far = "10.64.0.0/10 via 10.4.0.1" if n == 1 else "10.4.0.0/24 via 10.64.0.1"
        shell.ip_batch(
            [
                f"address add {bridged.cas[0]}/24 dev weft0",
                f"address add {routed.cas[0]}/{24 if n == 1 else 10} dev routed0",
                f"address add 10.2.{n}.2/24 dev plain0",
                f"address add 10.3.0.{n + 1}/24 dev vxlan0",
                *(f"link set {each} up" for each in ("weft0", "routed0", "plain0", "vxlan0")),
                f"route add {far} dev routed0",
                f"route add 10.2.{other}.0/24 via 10.2.{n}.1 dev plain0",
            ],
            guest,
        )
    shell.ip_batch([f"route replace 10.2.{n}.0/24 via {pa(n)}" for n in numbers], fabric)
    shell.ip_batch([f"route add local {MANY} dev lo"], f"{guests}2")


def _add_ruled(name: str, rules: Sequence[Rule], uplink_mtu_bytes: int) -> None:
    for n in (1, 2) if Rule.VLAN in rules else ():
        switched = (
            f"dev host{n} ingress protocol 802.1Q u32 match u32 0 0 action mirred egress redirect dev host{3 - n}"
        )
        for words in (f"qdisc add dev host{n} clsact", f"filter add {switched}"):
            subprocess.run(["tc", "-n", f"{name}fabric", *words.split()], check=True, capture_output=True)
    for rule, n in itertools.product(rules, (1, 2)):
        host, guest, mtu = f"{name}host{n}", f"{name}guest{n}", guest_mtu_bytes(rule, uplink_mtu_bytes)
        far = f"name w{rule} netns {guest} address {ruled_mac(n, rule)}"
        shell.ip_batch([f"link add name tap{rule} netns {host} mtu {mtu} type veth peer {far} mtu {mtu}"])
        shell.ip_batch([f"link set tap{rule} up"], host)
        address = f"10.{BY_RULE[rule][1]}.0.{n + 1}/24"
        shell.ip_batch([f"address add {address} dev w{rule}", f"link set w{rule} up"], guest)


def _sysctls(values: dict[str, int]) -> None:
    for key, value in values.items():
        path = Path("/proc/sys/net", key)
        with suppress(FileNotFoundError):  # a kernel without IPv6
            path.write_text(str(value), encoding="ascii")


def reached(side: Side, patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        command = shell.inside(side.client, ["ping", "-n", "-c", "1", "-W", "1", side.target])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{side.name}: guest 1 does not reach {side.target}: {done.stdout}{done.stderr}")

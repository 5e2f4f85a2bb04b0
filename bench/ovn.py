"""ovn: OVN's control plane beside Weft's own, on the same machine in the same run, with as many ports and hosts.

OVN's northd and two databases have 500 chassis and 22,500 logical ports, in 50 switches of 450. Most chassis are rows
only, as most of Weft's hosts here are listeners only; some are real: ovn-controller with an Open vSwitch of its own
(dummy datapath: all of the control plane, and no packets). Measures nothing of what either does with packets.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import agents, fleet, processes
from bench.context import Context
from bench.fleet import PORTS_OF_DOMAIN, PORTS_OF_HOST, Fleet, Way
from bench.pairs import percentile
from bench.report import Figure, ReportOnly

SCHEMAS = Path("/usr/share/ovn")
SWITCH_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
BATCH = 1_000  # ports of one transaction, as in Weft's own fleet
PATIENCE_S = 240.0
ADDED = 30  # ports, one at a time, but no more than fit in the time
ADDING_S = 60.0
LEAST = 3
REAL = 2  # chassis: one for each CPU, since each recomputes most of the deployment's flows for itself

Row = Mapping[str, Any]


class Database:
    """A client of one OVSDB server (RFC 7047), one transaction at a time."""

    def __init__(self, path: Path, name: str) -> None:
        self._name, self._numbers = name, itertools.count()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(str(path))
        self._pending = ""
        self._decoder = json.JSONDecoder()

    def close(self) -> None:
        self._socket.close()

    def transact(self, operations: Sequence[Row]) -> list[dict[str, Any]]:
        number = next(self._numbers)
        self._send({"method": "transact", "params": [self._name, *operations], "id": number})
        while (answer := self._receive()).get("id") != number:
            if answer.get("method") == "echo":
                self._send({"result": answer["params"], "error": None, "id": answer["id"]})
        results: list[dict[str, Any]] = answer["result"]
        if wrong := [each for each in results if each and each.get("error")]:
            raise RuntimeError(f"{self._name} refused a transaction: {wrong[0]}")
        return results

    def rows(self, table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        [found] = self.transact([{"op": "select", "table": table, "where": [], "columns": list(columns)}])
        rows: list[dict[str, Any]] = found["rows"]
        return rows

    def until(self, table: str, where: Sequence[Sequence[Any]], row: Row, patience_s: float = PATIENCE_S - 1) -> None:
        """Returns once what ``where`` finds is such a row: the server says so, nobody asks again and again."""
        wait = {"op": "wait", "timeout": int(patience_s * 1000), "table": table, "where": list(where)}
        self.transact([{**wait, "columns": list(row), "until": "==", "rows": [row]}])

    def _send(self, message: Row) -> None:
        self._socket.sendall(json.dumps(message).encode())

    def _receive(self) -> dict[str, Any]:
        parts = [self._pending] if self._pending else []
        while True:
            text = "".join(parts).lstrip()
            # Answers have no end but their last brace, and only what ends in one can be whole.
            if text.endswith("}"):
                try:
                    message, end = self._decoder.raw_decode(text)
                except json.JSONDecodeError:
                    pass
                else:
                    self._pending = text[end:]
                    return dict(message)
            if not (some := self._socket.recv(1 << 20)):
                raise RuntimeError(f"{self._name} has hung up")
            parts = [text, some.decode()]


@dataclass(slots=True)
class Chassis:
    """A real one: what runs on a host of OVN's."""

    name: str
    home: Path
    pids: list[int] = field(default_factory=list)

    def vsctl(self, *words: str) -> None:
        command = ["ovs-vsctl", "--timeout=120", f"--db=unix:{self.home}/db.sock", *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:6])}: {done.stderr.strip()}")

    def flows(self) -> int:
        """OpenFlow flows in its switch."""
        command = ["ovs-ofctl", "dump-aggregate", f"unix:{self.home}/br-int.mgmt"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return int(said.partition("flow_count=")[2].split()[0])

    def plug(self, ports: Sequence[str]) -> None:
        """Interfaces for logical ports, as a virtual machine monitor makes them."""
        words: list[str] = []
        for port in ports:
            words += ["--", "add-port", "br-int", port, "--", "set", "interface", port, "type=dummy"]
            words += [f"external_ids:iface-id={port}"]
        self.vsctl("--no-wait", *words[1:])


@dataclass(slots=True)
class Central:
    """NB, SB and northd, and the real chassis."""

    at: Path
    north: Database
    south: Database
    pids: dict[str, int]
    chassis: list[Chassis]
    _asked: int = 0

    def transact(self, operations: Sequence[Row]) -> tuple[int, list[dict[str, Any]]]:
        """A change of the north database, counted as ``ovn-nbctl --wait`` counts: its number, and its results."""
        self._asked += 1
        counted = {"op": "update", "table": "NB_Global", "where": [], "row": {"nb_cfg": self._asked}}
        return self._asked, self.north.transact([*operations, counted])

    def computed(self, number: int) -> None:
        """--wait=sb: northd has made the south's rows of that change."""
        self.north.until("NB_Global", [], {"sb_cfg": number})

    def programmed(self, number: int) -> None:
        """--wait=hv: so has every real chassis its flows."""
        self.north.until("NB_Global", [], {"hv_cfg": number})

    def up(self, port: Sequence[str]) -> None:
        """Its chassis has bound it, and northd has heard so. By its id: a server looks through all for a name."""
        self.north.until("Logical_Switch_Port", [["_uuid", "==", port]], {"up": True})


def run(context: Context) -> list[Figure]:
    settings = context.settings
    size = Fleet(settings.domain_hosts, settings.domain_hosts * PORTS_OF_HOST)
    real = 2 if settings.quick else REAL
    added = 5 if settings.quick else ADDED
    with processes.directory() as at:
        theirs = _ovn(context, at, size, real, added)
    with processes.directory() as at:
        ours = _weft(context, at, size, real, added)
    return _figures(size, real, theirs, ours)


@dataclass(frozen=True, slots=True)
class Theirs:
    """Times in ms, of each port added: until northd's rows, every real chassis, and the port's own being up."""

    filled_s: float
    settled_s: float  # and so long until every real chassis had all of its flows
    computed: list[float]
    programmed: list[float]
    up: list[float]
    central: Cost
    chassis: Cost
    logical_flows: int
    flows: int


@dataclass(frozen=True, slots=True)
class Ours:
    """whole: until every host that needs it has its rows. programmed: until the kernels of real agents have it."""

    filled_s: float
    whole: list[float]
    cost: Cost
    programmed: list[float]
    settled_s: float
    agents: Cost


@dataclass(frozen=True, slots=True)
class Cost:
    """Of processes together: the most memory so far, and the CPU's time for a port more."""

    bytes: int
    cpu_ms: float


def _ovn(context: Context, at: Path, size: Fleet, real: int, added: int) -> Theirs:
    with _central(at) as central, ExitStack() as stack:
        _chassis_rows(central, range(real, size.hosts))
        context.progress(f"ovn: {size.ports:,} ports on {size.hosts} chassis")
        began = time.perf_counter()
        central.computed(_fill(central, size))
        filled_s = time.perf_counter() - began
        context.progress(f"ovn: northd has computed them after {filled_s:.1f} s")
        central.computed(_bind(central, size, real))
        began = time.perf_counter()
        for number in range(real):
            chassis = stack.enter_context(_chassis(central, number))
            central.chassis.append(chassis)
            chassis.plug([_port(port) for port in range(number, size.ports, size.hosts)])
        ids = {each["name"]: each["_uuid"] for each in central.north.rows("Logical_Switch_Port", ["_uuid", "name"])}
        for port in range(size.ports):
            if port % size.hosts < real:
                central.up(ids[_port(port)])
        central.programmed(central.transact([])[0])
        settled_s = time.perf_counter() - began
        context.progress(f"ovn: {real} real chassis have their flows after {settled_s:.1f} s")
        return _added(context, central, size, added, filled_s, settled_s)


def _added(context: Context, central: Central, size: Fleet, added: int, filled_s: float, settled_s: float) -> Theirs:
    pause = random.Random(1)  # noqa: S311 - no secret: so that no request meets the same beat of anything
    times: list[tuple[float, float, float]] = []
    of_chassis = [pid for each in central.chassis for pid in each.pids]
    before = [sum(map(processes.cpu_seconds, pids)) for pids in (central.pids.values(), of_chassis)]
    until = time.monotonic() + ADDING_S
    for number in range(added):
        if number >= LEAST and time.monotonic() > until:
            break
        name = f"x{number}"
        central.chassis[number % len(central.chassis)].plug([name])
        time.sleep(0.05 + pause.random() * 0.1)
        began = time.perf_counter()
        made, [port, *_] = central.transact(_ports(number % size.domains, [(name, PORTS_OF_DOMAIN + number)]))
        central.computed(made)
        computed = time.perf_counter()
        central.programmed(made)
        programmed = time.perf_counter()
        central.up(port["uuid"])
        times.append(tuple((each - began) * 1e3 for each in (computed, programmed, time.perf_counter())))  # type: ignore[arg-type]
        context.progress("ovn: {:.0f} ms to the south, {:.0f} ms to the chassis, {:.0f} ms up".format(*times[-1]))
    used = [
        (sum(map(processes.cpu_seconds, pids)) - so_far) * 1e3 / len(times)
        for pids, so_far in zip((central.pids.values(), of_chassis), before, strict=True)
    ]
    computed_ms, programmed_ms, up_ms = (list(each) for each in zip(*times, strict=True))
    return Theirs(
        filled_s,
        settled_s,
        computed_ms,
        programmed_ms,
        up_ms,
        Cost(sum(map(processes.memory_peak_bytes, central.pids.values())), used[0]),
        Cost(sum(map(processes.memory_peak_bytes, of_chassis)), used[1]),
        len(central.south.rows("Logical_Flow", ["_uuid"])),
        central.chassis[0].flows(),
    )


def _weft(context: Context, at: Path, size: Fleet, real: int, count: int) -> Ours:
    way = Way.free()
    with fleet.serving(at, str(at / "controller.db"), way) as process:
        context.progress(f"ovn: the same {size.ports:,} ports in Weft")
        began = time.perf_counter()
        fleet.fill(way, size)
        filled_s = time.perf_counter() - began
        found = asyncio.run(fleet.added(way, size, count, process.pid))
        cost = Cost(processes.memory_peak_bytes(process.pid), found.cpu_ms)
        context.progress(f"ovn: and {real} real agents of Weft's")
        # Those that the port is for: a host has the records of its own routing domains.
        domains = [each for each in range(size.domains) if fleet.needed(size, each) >= set(range(real))]
        with ExitStack() as stack:
            began = time.perf_counter()
            real_ones = []
            for host in range(real):
                of_host = [each for each in range(size.domains) if host in fleet.needed(size, each)]
                records = sum(min(PORTS_OF_DOMAIN, size.ports - each * PORTS_OF_DOMAIN) for each in of_host)
                real_ones.append(stack.enter_context(agents.agent(at, f"h{host}", records)))
            settled_s = time.perf_counter() - began
            pids = [each.pid for each in real_ones]
            used = sum(map(processes.cpu_seconds, pids))
            times = _programmed(way, real_ones, domains, count)
            used = sum(map(processes.cpu_seconds, pids)) - used
            of_agents = Cost(sum(map(processes.memory_peak_bytes, pids)), used * 1e3 / count)
    context.progress(f"ovn: in their kernels after {percentile(sorted(times), 0.5):.1f} ms")
    return Ours(filled_s, found.whole, cost, times, settled_s, of_agents)


def _programmed(way: Way, real: Sequence[agents.Agent], domains: Sequence[int], count: int) -> list[float]:
    """From the request until every agent's kernel has the port's record, in ms."""
    connection = way.operator()
    pause = random.Random(3)  # noqa: S311 - no secret
    times = []
    for number in range(count):
        time.sleep(0.05 + pause.random() * 0.1)
        domain, ca = domains[number % len(domains)], f"10.0.200.{number + 1}"
        subnet = f"tenants/t{domain}/routing-domains/d/virtual-subnets/s"
        connection.request("GET", f"/v1/{subnet}")
        vsid = int(json.loads(connection.getresponse().read())["spec"]["vsid"])
        spec = {"virtual_subnet": "d/s", "host": f"h{number % len(real)}", "addresses": [ca]}
        began = time.perf_counter()
        fleet.put(connection, f"tenants/t{domain}/ports/y{number}", spec)
        processes.wait(
            lambda vsid=vsid, ca=ca: all(each.has(vsid, ca) for each in real),  # type: ignore[misc]
            f"the agents have {ca}",
            every_s=0.0002,
        )
        times.append((time.perf_counter() - began) * 1e3)
    connection.close()
    return times


def _figures(size: Fleet, real: int, theirs: Theirs, ours: Ours) -> list[Figure]:
    def of(values: Sequence[float], share: float) -> float:
        return percentile(sorted(values), share)

    mine = of(ours.whole, 0.5)
    weft = f"Weft: {mine:.1f} ms until all {size.needing} hosts that need it have its rows"
    kernel = of(ours.programmed, 0.5)
    programmed = f"Weft {kernel:.1f} ms until the kernels of {real} hosts with real agents have its record"
    asked = f"{len(theirs.computed)} ports, one at a time, beside {size.ports:,} on {size.hosts} chassis"
    return [
        Figure(
            "ovn_computed_p50", of(theirs.computed, 0.5), "ms", ReportOnly("from the request; as --wait=sb"),
            f"{asked}, until the south database has what northd made of it ({theirs.logical_flows:,} logical flows); "
            f"{weft}",
        ),
        Figure(
            "ovn_computed_p99", of(theirs.computed, 0.99), "ms", ReportOnly("see p50"),
            f"Weft {of(ours.whole, 0.99):.1f} ms",
        ),
        Figure(
            "ovn_programmed_p50", of(theirs.programmed, 0.5), "ms", ReportOnly("from the request; as --wait=hv"),
            f"and until {real} real chassis say that they have done it ({theirs.flows:,} OpenFlow flows on the first); "
            f"{programmed}",
        ),
        Figure(
            "ovn_programmed_p99", of(theirs.programmed, 0.99), "ms", ReportOnly("see p50"),
            f"Weft {of(ours.programmed, 0.99):.1f} ms",
        ),
        Figure(
            "ovn_up_p50", of(theirs.up, 0.5), "ms", ReportOnly("from the request"),
            "and until the port is up: its own chassis has bound it, and northd has heard of it",
        ),
        Figure(
            "ovn_computed_vs_weft", of(theirs.computed, 0.5) / mine, "ratio", ReportOnly("OVN : Weft, p50"),
            f"OVN has then computed {of(theirs.computed, 0.5):.0f} ms and told nobody; {weft}",
        ),
        Figure(
            "ovn_programmed_vs_weft", of(theirs.programmed, 0.5) / kernel, "ratio", ReportOnly("OVN : Weft, p50"),
            f"OVN {of(theirs.programmed, 0.5):.0f} ms to {real} real chassis' switches; {programmed}",
        ),
        Figure(
            "ovn_filled", size.ports / theirs.filled_s, "ports/s", ReportOnly(f"in transactions of {BATCH:,}"),
            f"until northd has computed the last; Weft {size.ports / ours.filled_s:,.0f} ports/s, each durable",
        ),
        Figure("ovn_settled", theirs.settled_s, "s", ReportOnly(f"until {real} new real chassis have it all"),
            f"one after the other, with their own ports; Weft's agents, without, {ours.settled_s:.1f} s"
        ),
        Figure(
            "ovn_central_cpu", theirs.central.cpu_ms, "ms", ReportOnly("of CPU for a port more"),
            f"northd and both databases; Weft's controller {ours.cost.cpu_ms:.1f} ms, with {size.hosts} feeds",
        ),
        Figure(
            "ovn_central_rss", theirs.central.bytes / 2**20, "MiB", ReportOnly("VmHWM, northd and both databases"),
            f"{theirs.central.bytes / size.ports:,.0f} bytes a port; Weft's controller "
            f"{ours.cost.bytes / 2**20:,.0f} MiB",
        ),
        Figure(
            "ovn_chassis_cpu", theirs.chassis.cpu_ms / real, "ms", ReportOnly("of CPU for a port more, on one chassis"),
            f"ovn-controller, ovs-vswitchd and its database; Weft's agent {ours.agents.cpu_ms / real:.1f} ms",
        ),
        Figure(
            "ovn_chassis_rss", theirs.chassis.bytes / real / 2**20, "MiB", ReportOnly("VmHWM, one real chassis"),
            f"ovn-controller, ovs-vswitchd and its database; Weft's agent {ours.agents.bytes / real / 2**20:,.0f} MiB",
        ),
    ]  # fmt: skip


# What is in it


def _port(number: int) -> str:
    return f"p{number}"


def _switch(domain: int) -> str:
    return f"ls{domain}"


def _ports(domain: int, ports: Sequence[tuple[str, int]]) -> list[Row]:
    """(name, number in its domain) of each, with addresses and port security, as Weft's have."""
    made: list[Row] = []
    for name, number in ports:
        high, low = divmod(number + 10, 250)
        address = f"02:00:00:{domain:02x}:{high:02x}:{low:02x} 10.0.{high}.{low + 2}"
        row = {"name": name, "addresses": address, "port_security": address}
        made.append({"op": "insert", "table": "Logical_Switch_Port", "row": row, "uuid-name": f"n{name}"})
    names = ["set", [["named-uuid", f"n{name}"] for name, _ in ports]]
    where = [["name", "==", _switch(domain)]]
    return [
        *made,
        {"op": "mutate", "table": "Logical_Switch", "where": where, "mutations": [["ports", "insert", names]]},
    ]


def _fill(central: Central, size: Fleet) -> int:
    """The number of the last change."""
    number, _ = central.transact(
        [{"op": "insert", "table": "Logical_Switch", "row": {"name": _switch(each)}} for each in range(size.domains)]
    )
    for first in range(0, size.ports, BATCH):
        operations: list[Row] = []
        wanted = range(first, min(first + BATCH, size.ports))
        for domain, some in itertools.groupby(wanted, lambda port: port // PORTS_OF_DOMAIN):
            operations += _ports(domain, [(_port(each), each % PORTS_OF_DOMAIN) for each in some])
        number, _ = central.transact(operations)
    return number


def _chassis_rows(central: Central, numbers: Sequence[int]) -> None:
    operations: list[Row] = []
    for each in numbers:
        ip = f"100.64.{each // 250}.{each % 250 + 1}"
        encap = {"type": "geneve", "ip": ip, "chassis_name": f"h{each}", "options": ["map", [["csum", "true"]]]}
        chassis = {"name": f"h{each}", "hostname": f"h{each}", "encaps": ["named-uuid", f"e{each}"]}
        operations += [
            {"op": "insert", "table": "Encap", "row": encap, "uuid-name": f"e{each}"},
            {"op": "insert", "table": "Chassis", "row": chassis},
        ]
    central.south.transact(operations)


def _bind(central: Central, size: Fleet, real: int) -> int:
    """What the ovn-controllers of the chassis that are rows only would write; the number of a change after it."""
    chassis = {each["name"]: each["_uuid"] for each in central.south.rows("Chassis", ["_uuid", "name"])}
    operations: list[Row] = []
    for each in central.south.rows("Port_Binding", ["_uuid", "logical_port"]):
        if (host := int(each["logical_port"].removeprefix("p")) % size.hosts) >= real:
            row = {"chassis": chassis[f"h{host}"], "up": True}
            where = [["_uuid", "==", each["_uuid"]]]
            operations.append({"op": "update", "table": "Port_Binding", "where": where, "row": row})
    for first in range(0, len(operations), BATCH):
        central.south.transact(operations[first : first + BATCH])
    return central.transact([])[0]


# Its processes


@contextmanager
def _central(at: Path) -> Iterator[Central]:
    (home := at / "central").mkdir()
    environment = _environment(home)
    with ExitStack() as stack:
        pids = {}
        for name in ("nb", "sb"):
            database = home / f"{name}.db"
            _tool(["ovsdb-tool", "create", str(database), str(SCHEMAS / f"ovn-{name}.ovsschema")], environment)
            pids[name] = stack.enter_context(_database(home, database, name, environment))
            _tool([f"ovn-{name}ctl", f"--db=unix:{home}/{name}.sock", "init"], environment)
        words = ["ovn-northd", f"--ovnnb-db=unix:{home}/nb.sock", f"--ovnsb-db=unix:{home}/sb.sock"]
        pids["northd"] = stack.enter_context(
            processes.running(home / "northd.log", [*words, f"--unixctl={home}/northd.ctl"], environment)
        ).pid
        databases = Database(home / "nb.sock", "OVN_Northbound"), Database(home / "sb.sock", "OVN_Southbound")
        for each in databases:
            stack.callback(each.close)
        yield Central(at, *databases, pids, [])


@contextmanager
def _chassis(central: Central, number: int) -> Iterator[Chassis]:
    """Registered."""
    name = f"h{number}"
    (home := central.at / name).mkdir()
    environment = _environment(home)
    _tool(["ovsdb-tool", "create", str(home / "conf.db"), str(SWITCH_SCHEMA)], environment)
    with ExitStack() as stack:
        found = Chassis(name, home)
        found.pids.append(stack.enter_context(_database(home, home / "conf.db", "db", environment)))
        found.vsctl("--no-wait", "init")
        settings = {
            "system-id": name,
            "ovn-remote": f"unix:{central.at}/central/sb.sock",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": f"100.64.{number // 250}.{number % 250 + 1}",
            "ovn-monitor-all": "true",  # each needs nine tenths of it all
        }
        words = [f"external_ids:{key}={json.dumps(value)}" for key, value in settings.items()]
        found.vsctl("--no-wait", "set", "open_vswitch", ".", *words)
        switch = ["ovs-vswitchd", "--enable-dummy=override", "--disable-system", f"unix:{home}/db.sock"]
        controller = ["ovn-controller", f"unix:{home}/db.sock"]
        for word, command in (("switch", switch), ("controller", controller)):
            found.pids.append(stack.enter_context(processes.running(home / f"{word}.log", command, environment)).pid)
            if word == "switch":
                bridge = ["--", "set", "bridge", "br-int", "datapath_type=dummy", "fail_mode=secure"]
                found.vsctl("add-br", "br-int", *bridge, "other_config:disable-in-band=true")
        central.south.until("Chassis", [["name", "==", name]], {"name": name}, patience_s=120)
        yield found


@contextmanager
def _database(home: Path, file: Path, name: str, environment: Mapping[str, str]) -> Iterator[int]:
    command = ["ovsdb-server", str(file), f"--remote=punix:{home}/{name}.sock", f"--unixctl={home}/{name}.ctl"]
    with processes.running(home / f"{name}.log", command, environment) as process:
        processes.wait((home / f"{name}.sock").exists, f"the database {name} listens")
        yield process.pid


def _environment(home: Path) -> dict[str, str]:
    names = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVN_RUNDIR", "OVN_DBDIR", "OVN_LOGDIR")
    return {**os.environ, **dict.fromkeys(names, str(home))}


def _tool(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout

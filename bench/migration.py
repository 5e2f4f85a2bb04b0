"""migration: a virtual machine goes from host to host while it answers pings and echoes a TCP stream.

It has two NICs, one on Weft and one on a Linux bridge and VXLAN device of the same hosts, and is talked to by one of
them in each migration, in turn: what is compared is the network's part. What is counted is what the machine's peer
sees: pings without an answer, and the longest time without one.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import virtual_machines
from bench.context import Context
from bench.processes import PREFIX, ROOT, alive
from bench.report import AtMost, Figure, ReportOnly
from bench.virtual_machines import Image, Machine, Migrated, Nic
from weft.client import moves
from weft.dataplane.ebpf.waiting import FRESH_S
from weft.lab import plan, shell
from weft.lab.lab import Lab, labs
from weft.lab.plan import UPLINK

PORT = "tenants/blue/ports/vm"
ECHO_PORT = 7
PINGS_PER_S = 100
PATIENCE_S = 60.0
RUNS = 8
#: What is under way when a machine has moved is counted, and what the machine was given twice is answered.
SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Way:
    """One network from the machine to its peer, which has an interface of it in one namespace."""

    name: str
    tap: str
    address: str  # the machine's
    mtu_bytes: int


WEFT = Way("weft", "tapvm", "10.0.0.20", 1458)
BRIDGED = Way("bridged", "tapbr", "10.1.0.20", 1450)
WAYS = (WEFT, BRIDGED)
BRIDGED_MAC, BRIDGED_PEER, BRIDGED_INTERFACE = "02:00:00:00:01:14", "10.1.0.10/24", "bridged0"

_SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _ETH_P_ALL = 33, 35, 3
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
_REPLY = re.compile(r"\[(\d+\.\d+)\] .*icmp_seq=(\d+) ")


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one migration by one way, by the peer; milliseconds. lost_fresh: of the lost, those that the new host is to
    have kept for the machine. calm: what the gap is as long before, with no migration. stall: of the TCP stream. Parts
    of the gap: before, from the last answer until the machine stops; pause, until it runs on; waking, until it answers
    something new on its new tap (it begins with an empty translation cache, and with what waits for it on the tap);
    carrying, until its peer has that.
    """

    sent: int
    lost: int
    lost_fresh: int
    gap_ms: float
    calm_ms: float
    stall_ms: float
    before_ms: float
    pause_ms: float
    waking_ms: float
    carrying_ms: float


class Pings:
    """100 a second, until it is stopped. All times are the wall clock's, as QEMU's are."""

    def __init__(self, namespace: str, address: str) -> None:
        command = ["ping", "-D", "-n", "-i", str(1 / PINGS_PER_S), "-W", "2", address]
        self._process = subprocess.Popen(shell.inside(namespace, command), stdout=subprocess.PIPE, text=True)
        self._answers: dict[int, float] = {}
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def answered(self) -> int:
        return len(self._answers)

    @property
    def latest(self) -> int:
        """The number of the newest that was answered."""
        return max(dict(self._answers), default=0)

    def gap_ms(self, numbers: range) -> float:
        """The longest time without an answer, of these pings."""
        came = sorted(at for number, at in dict(self._answers).items() if number in numbers)
        return max(later - earlier for earlier, later in itertools.pairwise(came)) * 1000

    def unanswered(self, numbers: range) -> set[int]:
        return set(numbers) - dict(self._answers).keys()

    def around(self, resumed_s: float) -> tuple[float, tuple[float, int] | None]:
        """When the last answer came before that, and the first one after it: when, its number; None: none as yet."""
        answers = {at: number for number, at in dict(self._answers).items()}
        after = min((at for at in answers if at > resumed_s), default=None)
        return max(at for at in answers if at <= resumed_s), None if after is None else (after, answers[after])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _REPLY.match(line):
                # Sequence numbers are of 16 bits: fewer are sent. The first answer counts.
                self._answers.setdefault(int(found[2]), float(found[1]))


class Echo:
    """A TCP stream: 1000 bytes each 10 ms, and back."""

    def __init__(self, namespace: str, address: str) -> None:
        self._socket = shell.within(namespace, lambda: _connected(address))
        self._ended = threading.Event()
        self._threads = (threading.Thread(target=self._send), threading.Thread(target=self._receive))
        self.bytes = 0
        self.fault: str | None = None
        self._stalls: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with suppress(OSError):
            self._socket.shutdown(2)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    @property
    def heard_s(self) -> float:
        """When something came last."""
        return self._stalls[-1][0] if self._stalls else 0.0

    def stall_ms_since(self, begun_s: float) -> float:
        return max((length for at, length in self._stalls if at >= begun_s), default=0.0) * 1000

    def _send(self) -> None:
        number = 0
        with suppress(OSError):
            while not self._ended.wait(0.01):
                self._socket.sendall(bytes([number % 256]) * 1000)
                number += 1

    def _receive(self) -> None:
        last_s = time.time()
        try:
            while chunk := self._socket.recv(65_536):
                for at, byte in enumerate(chunk):
                    if byte != (self.bytes + at) // 1000 % 256:
                        self.fault = f"byte {self.bytes + at} came back wrong"
                        return
                self.bytes += len(chunk)
                now_s = time.time()
                self._stalls.append((now_s, now_s - last_s))
                last_s = now_s
            if not self._ended.is_set():
                self.fault = "the machine ended the connection"
        except OSError as error:
            if not self._ended.is_set():
                self.fault = str(error)


def _connected(address: str) -> socket.socket:
    """A machine answers pings before its server listens."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection((address, ECHO_PORT), timeout=PATIENCE_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)


class Watched:
    """Pings and their answers on the machine's tap, from now on; by the kernel's own time."""

    def __init__(self, namespace: str, tap: str) -> None:
        #: When each was first there, by its number.
        self.pings: dict[int, float] = {}
        self.answers: dict[int, float] = {}
        self._socket = shell.within(namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.bind((tap, _ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def read(self) -> None:
        while True:
            try:
                frame, told, _, (_, _, kind, *_) = self._socket.recvmsg(2048, 64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if frame[12:14] != b"\x08\0" or frame[23:24] != b"\1":  # IPv4 without options, ICMP
                continue
            [(_, _, stamp)] = told
            seconds, nanoseconds = struct.unpack("qq", stamp)
            number = int.from_bytes(frame[40:42], "big")
            if frame[34] == _ECHO_REQUEST and kind == socket.PACKET_OUTGOING:
                self.pings.setdefault(number, seconds + nanoseconds / 1e9)
            elif frame[34] == _ECHO_REPLY and kind != socket.PACKET_OUTGOING:
                self.answers.setdefault(number, seconds + nanoseconds / 1e9)


class Scene:
    """A lab, and a machine on one of its hosts."""

    def __init__(self, lab: Lab, of: Image) -> None:
        self._lab, self._image = lab, of
        self.host = "h1"
        self.peer = lab.guest("blue/peer").namespace
        self._bridge()
        with lab.client() as client:
            client.put(PORT, {"virtual_subnet": "prod/web", "host": self.host, "addresses": [WEFT.address]})
            mac = client.get(PORT).spec["mac"]
        self._nics = [
            Nic(way.tap, each, f"{way.address}/24", way.mtu_bytes)
            for way, each in zip(WAYS, (mac, BRIDGED_MAC), strict=True)
        ]
        self._machine = self._made(self.host, incoming=False)

    def _namespace(self, host: str) -> str:
        return plan.host_namespace(self._lab.spec.name, host)

    def _bridge(self) -> None:
        """The other way: on each host a bridge and a VXLAN device, which learns; as bench/topology.py has them."""
        hosts, mtu = self._lab.spec.hosts, BRIDGED.mtu_bytes
        far = self._namespace("h3")
        shell.ip_batch(
            [f"link add vx mtu {mtu} netns {far} type veth peer {BRIDGED_INTERFACE} mtu {mtu} netns {self.peer}"]
        )
        for host in hosts:
            others = [f"fdb append 00:00:00:00:00:00 dev vxlan100 dst {each.pa}" for each in hosts if each is not host]
            namespace = self._namespace(host.name)
            shell.ip_batch(
                [
                    f"link add vxlan100 mtu {mtu} type vxlan id 100 local {host.pa} dev {UPLINK} dstport 8472",
                    f"link add br0 mtu {mtu} type bridge",
                    "link set vxlan100 master br0",
                    *(["link set vx master br0", "link set vx up"] if host.name == "h3" else []),
                    "link set vxlan100 up",
                    "link set br0 up",
                ],
                namespace,
            )
            subprocess.run(["bridge", "-n", namespace, "-batch", "-"], input="\n".join(others), text=True, check=True)
        shell.ip_batch(
            [f"address add {BRIDGED_PEER} dev {BRIDGED_INTERFACE}", f"link set {BRIDGED_INTERFACE} up"], self.peer
        )

    def _made(self, host: str, *, incoming: bool) -> Machine:
        shell.ip_batch(
            [
                *(f"tuntap add {way.tap} mode tap vnet_hdr" for way in WAYS),
                f"link set {BRIDGED.tap} master br0",
                *(f"link set {way.tap} mtu {way.mtu_bytes} up" for way in WAYS),
            ],
            self._namespace(host),
        )
        directory = self._lab.paths.directory / f"vm-{host}"
        return Machine(self._namespace(host), self._image, self._nics, directory, incoming=incoming)

    def await_up(self) -> None:
        """Until the machine answers by both ways."""
        deadline_s = time.monotonic() + PATIENCE_S
        for way in WAYS:
            command = shell.inside(self.peer, ["ping", "-n", "-c", "1", "-W", "1", way.address])
            while subprocess.run(command, capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline_s, f"the machine does not answer by {way.name}"
        with self._lab.client() as client:
            moves.await_arrived(client, PORT)

    def migrate(
        self, to: str, before: Callable[[], None] = lambda: None, after: Callable[[Migrated], None] = lambda _: None
    ) -> Migrated:
        """As an operator does: both hosts ready, then QEMU's migration, then the end of the move. before, after: what
        is done on either side of QEMU's.
        """
        old, left = self._machine, self.host
        new = self._made(to, incoming=True)
        with self._lab.client() as client:
            moves.begin(client, PORT, f"hosts/{to}")
            moves.await_ready(client, PORT)
            before()
            done = old.migrate(new, self._lab.paths.directory / "migration.sock")
            after(done)
            moves.finish(client, PORT)
        self._machine, self.host = new, to
        old.end()
        shell.ip_batch([f"link delete {way.tap}" for way in WAYS], self._namespace(left))
        return done

    def measured(self, way: Way, talk: Talk, to: str) -> Seen:
        begun_s = time.time()
        calm, first = range(2, talk.pings.latest + 1), talk.pings.latest + 1  # the very first asks for a MAC, too
        with ExitStack() as left:
            watched: list[Watched] = []
            done = self.migrate(
                to,
                lambda: watched.append(left.enter_context(Watched(self._namespace(to), way.tap))),
                talk.await_heard,
            )
            talk.await_answers(SETTLE_S * PINGS_PER_S)
            assert talk.echo.fault is None, talk.echo.fault
            watched[0].read()
            return talk.seen(calm, first, begun_s, done, watched[0])

    def end(self) -> None:
        self._machine.end()


@dataclass(frozen=True, slots=True)
class Talk:
    """What the peer has with the machine by one way."""

    pings: Pings
    echo: Echo

    def await_heard(self, done: Migrated) -> None:
        """Until the machine has answered and echoed on its new host. What ends a move is work for every host, and
        taking a machine away for its own: here all of them share two cores with it.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while self.pings.around(done.resumed_s)[1] is None or self.echo.heard_s <= done.resumed_s:
            assert time.monotonic() < deadline_s, "the machine is not heard on its new host"
            assert self.echo.fault is None, self.echo.fault
            time.sleep(0.01)

    def await_answers(self, more: float) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        answered = self.pings.answered
        while self.pings.answered < answered + more:
            assert time.monotonic() < deadline_s, "the machine answers no more"
            time.sleep(0.01)

    def seen(self, calm: range, first: int, begun_s: float, done: Migrated, watched: Watched) -> Seen:
        numbers = range(first, self.pings.latest + 1)
        lost = self.pings.unanswered(numbers)
        last_s, next_heard = self.pings.around(done.resumed_s)
        assert next_heard is not None
        heard_s, number = next_heard
        answered_s = watched.answers[number]
        return Seen(
            sent=len(numbers),
            lost=len(lost),
            lost_fresh=sum(watched.pings.get(each, 0.0) > done.resumed_s - FRESH_S for each in lost),
            gap_ms=self.pings.gap_ms(numbers),
            calm_ms=self.pings.gap_ms(calm),
            stall_ms=self.echo.stall_ms_since(begun_s),
            before_ms=(done.stopped_s - last_s) * 1000,
            pause_ms=(done.resumed_s - done.stopped_s) * 1000,
            waking_ms=(answered_s - done.resumed_s) * 1000,
            carrying_ms=(heard_s - answered_s) * 1000,
        )


@contextmanager
def scene(name: str, images: Path = ROOT / "build" / "vm") -> Iterator[Scene]:
    """A lab of its own, with a machine that is up."""
    _sweep()
    of = virtual_machines.image(images)
    lab = Lab.up(Path(__file__).with_name("migration.yaml"), name=name)
    with ExitStack() as left:
        left.callback(Lab.down, name)
        made = Scene(lab, of)
        left.callback(made.end)
        made.await_up()
        yield made


def _sweep() -> None:
    """Take away what runs that are no more have left behind."""
    for name in labs():
        if name.startswith(PREFIX) and not alive(name):
            Lab.down(name)


def migrations(name: str, count: int, ways: Sequence[Way] = WAYS) -> dict[Way, list[Seen]]:
    """There and back, so often by each way: one at a time, since what two say is twice the work for the machine."""
    with scene(name) as one:
        seen: dict[Way, list[Seen]] = {way: [] for way in ways}
        for _ in range(count):
            for way in ways:
                with Pings(one.peer, way.address) as pings, Echo(one.peer, way.address) as echo:
                    while pings.answered < PINGS_PER_S or echo.bytes == 0:
                        assert echo.fault is None, echo.fault
                        time.sleep(0.01)
                    talk = Talk(pings, echo)
                    seen[way].append(one.measured(way, talk, "h2" if one.host == "h1" else "h1"))
        return seen


def run(context: Context) -> list[Figure]:
    seen = migrations(f"{PREFIX}{os.getpid()}-migration", RUNS)
    for number, each in enumerate(zip(seen[WEFT], seen[BRIDGED], strict=True), 1):
        context.progress(f"migration {number}: {each[0]}; {each[1]}")
    return figures(seen[WEFT], seen[BRIDGED])


def figures(ours: Sequence[Seen], theirs: Sequence[Seen]) -> list[Figure]:
    """By both ways, in turn. Parts of the gap are told of ours, with the others' beside them."""
    gaps, others = sorted(each.gap_ms for each in ours), sorted(each.gap_ms for each in theirs)
    detail = f"{len(ours)} migrations; each: {_each(gaps)}"
    sent, lost = sum(each.sent for each in ours), sum(each.lost for each in ours)

    def part(name: str, what: str, of: Callable[[Seen], float]) -> Figure:
        said = f"{what}; over the bridge {statistics.median(map(of, theirs)):.3g}"
        return Figure(f"migration_{name}", statistics.median(map(of, ours)), "ms", ReportOnly(said))

    return [
        Figure("migration_gap", statistics.median(gaps), "ms", AtMost(65), detail),
        Figure("migration_gap_worst", gaps[-1], "ms", AtMost(400), detail),
        Figure("migration_pings_lost", lost, "pings", AtMost(0), f"of {sent}"),
        Figure(
            "migration_gap_vs_bridged", statistics.median(gaps) / statistics.median(others), "ratio",
            ReportOnly("the machine's own part is most of both; by Weft it gets some frames twice, to lose none"),
            f"over the bridge and VXLAN, in turn: {_each(others)} ms",
        ),
        Figure(
            "migration_pings_lost_bridged", sum(each.lost for each in theirs), "pings",
            ReportOnly("as many migrations, over the bridge and VXLAN"),
        ),
        part("gap_calm", "the same of as many pings before, with no migration", lambda each: each.calm_ms),
        part("before", "of the gap: from the last answer until the machine stops", lambda each: each.before_ms),
        part("pause", "then QEMU's: until it runs on", lambda each: each.pause_ms),
        part("waking", "then, until it answers something new", lambda each: each.waking_ms),
        part("carrying", "then, until its peer has that", lambda each: each.carrying_ms),
        part("tcp_stall", "the longest time without a byte of the TCP stream", lambda each: each.stall_ms),
    ]  # fmt: skip


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.0f}" for each in values)

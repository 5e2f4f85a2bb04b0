"""A lab that runs: up, down, and what may be done to it in between. What is built is plan.py's to say.

Leaves nothing behind: everything that a lab makes bears its name, so `down` finds all of it with no memory of `up`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self

import msgspec

from weft.cli import agent_socket
from weft.cli.session import Failed
from weft.client import ApiError, Client, moves
from weft.kit.errors import Missing, Rejected, Retry
from weft.lab import plan, processes, shell
from weft.lab import spec as specs
from weft.lab.plan import Guest
from weft.lab.spec import LabSpec

#: How often the world is looked at while something is waited for.
POLL_S = 0.02

Progress = Callable[[str], None]


def silent(_text: str) -> None:
    """No progress."""


def root() -> Path:
    return Path(os.environ.get("WEFT_LAB_DIR", "/run/weft-lab"))


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a lab keeps what it keeps."""

    lab: str
    directory: Path

    @classmethod
    def of(cls, lab: str) -> Self:
        return cls(specs.lab_name(lab), root().resolve() / lab)

    @property
    def state(self) -> Path:
        return self.directory / "lab.json"

    @property
    def controller_socket(self) -> Path:
        return self.directory / "controller.sock"

    @property
    def controller_url(self) -> str:
        return f"unix://{self.controller_socket}"

    @property
    def pins(self) -> Path:
        return shell.BPF_FILESYSTEM / f"weft-lab-{self.lab}"

    def host(self, host: str) -> Path:
        return self.directory / "hosts" / host

    def agent_socket(self, host: str) -> Path:
        return self.host(host) / "agent.sock"

    def log(self, process: str) -> Path:
        return self.directory / "logs" / f"{process}.log"


@dataclass(frozen=True, slots=True)
class State:
    """What a lab remembers of itself, for commands that come later."""

    spec: LabSpec
    guests: dict[str, Guest]


class Stage(Enum):
    """How far a guest's move is."""

    PREPARED = "its new wire is there"
    BEGUN = "both hosts are to hold its port"
    READY = "both do, and everybody sends to both"
    CHANGED_OVER = "the guest speaks at its new host"
    FINISHED = "its port is to be there only"
    ARRIVED = "it is"


@dataclass(slots=True)
class Lab:
    """One lab. guests: those that were built, by port."""

    spec: LabSpec
    paths: Paths
    guests: dict[str, Guest] = field(default_factory=dict)

    # ---- from nothing to running, and back

    @classmethod
    def up(cls, file: Path, progress: Progress = silent, *, name: str | None = None, timeout_s: float = 60.0) -> Lab:
        """Build the lab of a YAML file, until every port is active. name: instead of the one in the file."""
        text = _read(file)
        spec = specs.parse(text, str(file), lambda other: _read(file.parent / other), name=name)
        paths = Paths.of(spec.name)
        _need_root()
        with locked(paths):
            if shell.namespaces(plan.prefix(spec.name)) or processes.find(paths.directory):
                raise Rejected(
                    f"the lab {spec.name} is there already, whole or in parts; `weft lab down {spec.name}` first"
                )
            lab = cls(spec, paths)
            try:
                lab._build(progress, timeout_s)
            except BaseException:
                _dismantle(paths)
                raise
            return lab

    def _build(self, progress: Progress, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        self.paths.log("x").parent.mkdir(exist_ok=True)
        shell.mount_bpf_filesystem()
        progress("starting the controller")
        self.start_controller()
        progress(f"{len(self.spec.hosts)} hosts and the fabric between them")
        shell.run(plan.underlay_steps(self.spec))
        self.await_controller(deadline)
        progress(f"applying {len(self.spec.objects)} objects")
        with self.client() as client:
            client.apply([(each.name, each.spec) for each in self.spec.objects])
            found = self._plan_guests(client)
        for host in self.spec.hosts:
            self.start_agent(host.name)
        progress(f"{len(found)} guests")
        shell.run(plan.guest_steps(self.spec, found))
        self._remember({guest.port: guest for guest in found})
        for host in self.spec.hosts:
            self.await_agent(host.name, deadline)
        for guest in found:
            if guest.explicit:
                self.attach(guest)
        self.await_active(deadline, progress)
        self._await_addresses(deadline, progress)

    @classmethod
    def load(cls, name: str) -> Lab:
        """A lab that is up."""
        paths = Paths.of(name)
        try:
            state = msgspec.json.decode(paths.state.read_bytes(), type=State)
        except FileNotFoundError:
            raise Missing(f"there is no lab {name} that is up; `weft lab status` lists those there are") from None
        return cls(state.spec, paths, state.guests)

    @staticmethod
    def down(name: str) -> bool:
        """Take away all that bears the lab's name. False: there was nothing."""
        paths = Paths.of(name)
        _need_root()
        if not _traces(paths):
            return False
        with locked(paths):
            _dismantle(paths)
        return True

    # ---- processes

    def client(self) -> Client:
        return Client(self.paths.controller_url)

    def start_controller(self) -> int:
        paths = self.paths
        command = _weft(
            "controller", "--listen", paths.controller_url, "--store", str(paths.directory / "controller.db")
        )
        return processes.start(command, "controller", paths.directory, paths.log("controller"))

    def start_agent(self, host: str) -> int:
        paths, home = self.paths, self.paths.host(host)
        (home / "state").mkdir(parents=True, exist_ok=True)
        command = _weft(
            "agent", "--host", host, "--controller", paths.controller_url, "--state", str(home / "state"),
            "--run", str(home), "--pins", str(paths.pins / host),
        )  # fmt: skip
        inside = shell.inside(plan.host_namespace(self.spec.name, host), command)
        return processes.start(inside, f"agent:{host}", paths.directory, paths.log(f"agent-{host}"))

    def pid(self, process: str) -> int:
        """Of ``controller`` or ``agent:<host>``."""
        for each in processes.find(self.paths.directory):
            if each.name == process:
                return each.pid
        raise Missing(f"the lab {self.spec.name} has no process {process}; see {self.paths.directory / 'logs'}")

    def kill(self, process: str, number: signal.Signals = signal.SIGKILL) -> None:
        processes.signal_one(self.paths.directory, self.pid(process), number)

    def mend(self, within_s: float = 30.0) -> None:
        """Start again what is not running, and wait until every port is active."""
        deadline = time.monotonic() + within_s
        running = {each.name for each in processes.find(self.paths.directory)}
        if "controller" not in running:
            self.start_controller()
        for host in self.spec.hosts:
            if f"agent:{host.name}" not in running:
                self.start_agent(host.name)
        self.await_controller(deadline)
        for host in self.spec.hosts:
            self.await_agent(host.name, deadline)
        self.await_active(deadline)

    # ---- waiting

    def await_controller(self, deadline: float) -> None:
        def healthy() -> bool:
            agent_socket.ask(str(self.paths.controller_socket), "GET", "/healthz")
            return True

        self._await(healthy, "controller", "the controller answers", deadline)

    def await_gone(self, process: str, within_s: float = 10.0) -> None:
        def gone() -> bool:
            return not any(each.name == process for each in processes.find(self.paths.directory))

        self._await(gone, None, f"{process} has ended", time.monotonic() + within_s)

    def await_agent(self, host: str, deadline: float) -> None:
        def healthy() -> bool:
            self.ask_agent(host, "GET", "/healthz")
            return True

        self._await(healthy, f"agent:{host}", f"the agent of {host} answers", deadline)

    def await_active(self, deadline: float, progress: Progress = silent) -> None:
        """Until the controller has heard of every guest's port that it is active on its host."""
        waiting: dict[str, Any] = {}

        def active() -> bool:
            with self.client() as client:
                ports = {each.name: each for each in client.list("tenants/-/ports", limit=1000)}
            waiting.clear()
            for guest in self.guests.values():
                status = ports[guest.port].status if guest.port in ports else {"state": "gone"}
                at_home = (status.get("host") or "").rsplit("/", 1)[-1] == guest.host
                wanted = (
                    "down" if guest.port in ports and ports[guest.port].spec.get("admin_state") == "down" else "active"
                )
                if status.get("state") != wanted or not at_home:
                    waiting[guest.port] = status
            progress(f"{len(self.guests) - len(waiting)} of {len(self.guests)} ports active")
            return not waiting

        self._await(active, None, "every port is active", deadline, waiting)

    def _await_addresses(self, deadline: float, progress: Progress) -> None:
        """Until duplicate address detection is over; it takes the kernel up to two seconds."""
        progress("addresses")
        left: list[object] = []

        def settled() -> bool:
            left[:] = shell.tentative(guest.namespace for guest in self.guests.values())
            return not left

        self._await(settled, None, "no guest's address is tentative", deadline, left)

    def _await(
        self, done: Callable[[], bool], process: str | None, what: str, deadline: float, facts: object = None
    ) -> None:
        """Polls. A process that is gone ends the wait at once, with the end of its log."""
        last: object = ""
        while True:
            try:
                if done():
                    return
            except (Retry, ApiError, Failed) as error:
                last = error
            if process is not None and not any(each.name == process for each in processes.find(self.paths.directory)):
                raise Retry(f"{process} has ended; its log ends so:\n{self._log_end(process)}")
            if time.monotonic() > deadline:
                raise Retry(f"in time it did not come about that {what}: {facts or last}\n{self._log_ends()}")
            time.sleep(POLL_S)

    def _log_end(self, process: str, lines: int = 15) -> str:
        log = self.paths.log(process.replace(":", "-"))
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(none)"

    def _log_ends(self) -> str:
        names = ["controller", *(f"agent:{host.name}" for host in self.spec.hosts)]
        return "\n".join(f"{name}: {self._log_end(name, 3)}" for name in names)

    # ---- guests

    def guest(self, short: str) -> Guest:
        name = specs.port_name(short, "GUEST")
        if (found := self.guests.get(name)) is None:
            known = ", ".join(sorted(each.removeprefix("tenants/").replace("/ports/", "/") for each in self.guests))
            raise Missing(f"{short!r} is no guest of the lab {self.spec.name}; it has {known}")
        return found

    def command(self, guest: str, command: Sequence[str]) -> list[str]:
        """What runs a command in a guest's namespace, or, for a host's name, in the host's."""
        hosts = {host.name for host in self.spec.hosts}
        if guest in hosts:
            return shell.inside(plan.host_namespace(self.spec.name, guest), command)
        return shell.inside(self.guest(guest).namespace, command)

    def environment(self) -> dict[str, str]:
        """For a command run in the lab: it is the lab's, and goes with it."""
        return processes.environment(self.paths.directory)

    def exec(self, guest: str, *command: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(guest, command), capture_output=True, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, env=self.environment(),
        )  # fmt: skip

    def ask_agent(self, host: str, method: str, target: str, body: Any = None) -> Any:
        return agent_socket.ask(str(self.paths.agent_socket(host)), method, target, body)

    def attach(self, guest: Guest) -> None:
        self.ask_agent(guest.host, "POST", "/attach", {"port": guest.port, "interface": guest.interface})

    def move(
        self, short: str, host: str, timeout_s: float = 60.0, reached: Callable[[Stage], None] = lambda _stage: None
    ) -> Guest:
        """To another host, as a live migration: whatever is sent to it meanwhile reaches both hosts. reached: called at
        each stage, which the move waits for.
        """
        deadline = time.monotonic() + timeout_s
        old = self.guest(short)
        if old.host == host:
            raise Rejected(
                f"{short} is on {host} already; the lab has {', '.join(each.name for each in self.spec.hosts)}"
            )
        new = plan.moved(self.spec, old, host, (each for each in self.guests.values() if each.port != old.port))
        shell.run(plan.arrival_steps(self.spec.name, new))
        with self.client() as client:
            try:
                reached(Stage.PREPARED)
                moves.begin(client, new.port, f"hosts/{host}")
                reached(Stage.BEGUN)
                if new.explicit:
                    self.attach(new)
                moves.await_ready(client, new.port, timeout_s=deadline - time.monotonic())
                reached(Stage.READY)
            except BaseException:
                moves.cancel(client, new.port)
                shell.run([plan.DeleteLink(new.namespace, plan.ARRIVING)])
                raise
            if shell.renames_live():
                shell.run(plan.welcome_steps(new))
                shell.await_addresses(new.namespace, plan.ARRIVING, new.addresses)
                shell.run(plan.change_over_steps(new))
            else:
                shell.run(plan.handover_steps(new))
            reached(Stage.CHANGED_OVER)
            moves.finish(client, new.port)
            reached(Stage.FINISHED)
            moves.await_arrived(client, new.port, timeout_s=deadline - time.monotonic())
            reached(Stage.ARRIVED)
            if shell.renames_live():
                shell.run(plan.settling_steps(new))
        if old.explicit:
            self.ask_agent(old.host, "POST", "/detach", {"port": old.port})
        self._remember({**self.guests, new.port: new})
        return new

    def _plan_guests(self, client: Client) -> list[Guest]:
        ports = [{"name": each.name, "spec": each.spec} for each in client.list("tenants/-/ports", limit=1000)]
        listed = client.list("tenants/-/routing-domains/-/virtual-subnets", limit=1000)
        return plan.guests(self.spec, ports, {each.name: each.spec for each in listed})

    def _remember(self, guests: dict[str, Guest]) -> None:
        self.guests = guests
        beside = self.paths.state.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(State(self.spec, guests)))
        beside.replace(self.paths.state)


def labs() -> list[str]:
    """Names of the labs that are there, whole or in parts."""
    directories = [each.name for each in root().iterdir() if each.is_dir()] if root().is_dir() else []
    named = [each.split(".")[1] for each in shell.namespaces("weft.")]
    return sorted({*directories, *named})


@contextmanager
def locked(paths: Paths) -> Iterator[None]:
    """One at a time builds a lab or takes it down. The lock is the directory, and goes with its holder's life."""
    while True:
        paths.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(paths.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Rejected(
                    f"another `weft lab up` or `down` of {paths.lab} is at work; wait for it or end it"
                ) from None
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == paths.directory.stat().st_ino:
                    yield
                    return
        finally:
            os.close(descriptor)  # a `down` took the directory away under us: once more, on the new one


def _traces(paths: Paths) -> bool:
    return (
        paths.directory.exists()
        or paths.pins.exists()
        or bool(shell.namespaces(plan.prefix(paths.lab)))
        or bool(processes.find(paths.directory))
    )


def _dismantle(paths: Paths) -> None:
    """Processes first: an agent that lives would put back what is taken."""
    processes.end(paths.directory, (each.pid for each in processes.find(paths.directory)))
    shell.delete_namespaces(shell.namespaces(plan.prefix(paths.lab)))
    shell.remove_tree(paths.pins)
    shell.remove_tree(paths.directory)
    with suppress(OSError):
        root().rmdir()  # unless another lab is there


def _weft(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "weft.apps.cli", *arguments]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"{file}: cannot be read: {error}") from error


def _need_root() -> None:
    if os.geteuid():
        raise Rejected("a lab needs root: it makes network namespaces and loads eBPF programs")

"""The agent as a process: where its parts are put together, its lock is held and its signals are heard.

It does nothing that outlives it: stopped or killed, what it has programmed stays as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from random import Random, SystemRandom

import structlog

from weft.agent import joining
from weft.agent.interest import Interest
from weft.agent.links import NetlinkLinks
from weft.agent.paths import Paths
from weft.agent.process import alone, live, locked, own
from weft.agent.service import Agent
from weft.apps import logs
from weft.client.client import AsyncClient
from weft.client.credentials import NONE, Credentials
from weft.contracts.dataplane import DataPlane
from weft.dataplane.ebpf import conntrack
from weft.dataplane.ebpf.maps import Sizes, Times
from weft.dataplane.ebpf.plane import EbpfDataPlane
from weft.kit import notify
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Rejected
from weft.model.names import Kind, parse_name_of
from weft.policy.connections import State

_log = structlog.get_logger("weft.agent")


def run(
    host: str,
    controller: str,
    state: Path,
    run: Path,
    pins: Path | None = None,
    sizes: Sizes | None = None,
    credentials: Credentials = NONE,
    join: str = "",
    learned_age_s: int = 300,
    tracking: conntrack.Settings | None = None,
) -> None:
    """Until SIGTERM or SIGINT. Raises Rejected or Conflict, saying why, when it cannot start.

    host: H or hosts/H. pins: where the data plane's programs and maps are pinned, one directory for each host.
    learned_age_s: how long who was heard in a VLAN behind an uplink is remembered.
    """
    name = _host_name(host)
    label = name.rpartition("/")[2]
    directory = pins or Path("/sys/fs/bpf/weft") / label
    times = Times(learned_ns=learned_age_s * 10**9)
    with alone():
        serve(
            name,
            controller,
            state,
            run,
            lambda: EbpfDataPlane(directory, sizes or Sizes(), times=times, tracking=tracking),
            credentials,
            join,
        )


def serve(
    host: str,
    controller: str,
    state: Path,
    run: Path,
    make_plane: Callable[[], DataPlane],
    credentials: Credentials = NONE,
    join: str = "",
) -> None:
    """The same for any data plane. It is made once the lock is held.

    join: a token by which the host gets a certificate, if it has none yet.
    """
    logs.configure()
    for directory, mode in ((state, 0o700), (run, 0o755)):
        try:
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as fault:
            raise Rejected(f"{directory} cannot be made: {fault.strerror}") from fault
    with locked(state, host):
        renewed_in = None
        if credentials.files.certificate is None and not credentials.token and controller.startswith("https:"):
            renewed_in = state / "tls"
            if join:
                joining.join(host, controller, join, renewed_in)
            credentials = Credentials(joining.joined(host, renewed_in))
        plane = make_plane()
        try:
            own(state, host)
            asyncio.run(_main(host, controller, state, run / "agent.sock", plane, credentials, renewed_in))
        finally:
            plane.close()


async def _main(
    host: str,
    controller: str,
    state: Path,
    socket: Path,
    plane: DataPlane,
    credentials: Credentials,
    renewed_in: Path | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with contextlib.closing(NetlinkLinks()) as links:
        # Jitter, no secret: hosts that come back at the same moment should not do so again.
        random = Random()  # noqa: S311 -- no secret: so that hosts do not all come back at once
        urls = controller.split(",")
        random.shuffle(urls)  # each controller has its share of the hosts
        async with AsyncClient(",".join(urls), credentials=credentials) as client:
            # Numbers of probes are secret until they are sent: whoever is not on the way cannot answer one.
            secret = SystemRandom()
            paths = Paths(random.random, lambda: secret.getrandbits(64))
            interest = Interest(random.random, lambda: secret.getrandbits(64))
            agent = Agent(host, plane, client, state, links, MonotonicClock(), random, paths, interest)
            keeper = joining.Keeper(host, client, credentials.files, MonotonicClock(), renewed_in=renewed_in)
            agent.certificate_ends = keeper.ends
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(keeper.run(), name="certificates")
                await live(agent, socket, stop, notify.ready)
                notify.stopping()
                keeping.cancel()
    _log.info("stopped; what is programmed stays", host=host)


def parse_sizes(given: Iterable[str]) -> Sizes:
    """``TABLE=ENTRIES`` each; what is not given stays at its default."""
    tables = [field.name for field in fields(Sizes)]
    entries: dict[str, int] = {}
    for each in given:
        table, _, number = each.partition("=")
        if table not in tables or not number.isdecimal():
            raise Rejected(f"{each!r} is not a size such as records=1000000; there are {', '.join(tables)}", "size")
        entries[table] = int(number)
    return Sizes(**entries)


def parse_tracking(given: Iterable[str]) -> conntrack.Settings:
    """``STATE=SECONDS``, ``most=N``, ``most-of-port=N``, ``ftp=PORT`` or ``ftp=off`` each; what is not given stays at
    its default.
    """
    states = {state.label: state for state in State}
    limits = {"most": 1 << 18, "most-of-port": 1 << 16}
    timeouts_s: dict[State, int] = {}
    ftp_port = 21
    for each in given:
        name, _, number = each.partition("=")
        if name == "ftp":
            ftp_port = _ftp_port(number)
            continue
        if not number.isdecimal() or not 1 <= int(number) <= 1 << 31 or (name not in states and name not in limits):
            known = ", ".join([*states, *limits, "ftp"])
            raise Rejected(f"{each!r} is no setting such as established=3600; there are {known}", "conntrack")
        if name in states:
            timeouts_s[states[name]] = int(number)
        else:
            limits[name] = int(number)
    return conntrack.Settings(limits["most"], limits["most-of-port"], timeouts_s, ftp_port)


def _ftp_port(given: str) -> int:
    """Of FTP servers; 0: off."""
    if given == "off":
        return 0
    if not given.isdecimal() or not 1 <= int(given) < 1 << 16:
        raise Rejected(f"ftp={given} is neither a port such as ftp=21, in 1..65535, nor ftp=off", "conntrack")
    return int(given)


def _host_name(host: str) -> str:
    return parse_name_of(Kind.HOST, host if "/" in host else f"hosts/{host}")

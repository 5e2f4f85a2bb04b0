"""The controller as a process: opens the store, listens, and ends in good order. Never binds what another has.

Everything that can be refused (the store, an address that is taken) is refused before the first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import stat
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
import uvicorn
from prometheus_client.core import Metric

from weft.apps import logs
from weft.client.client import AsyncClient
from weft.client.credentials import Credentials, is_loopback
from weft.contracts.cluster import Cluster
from weft.contracts.store import SCHEMA, Store
from weft.controller import peers
from weft.controller.access import Access
from weft.controller.access_api import AccessApi
from weft.controller.api import create_app
from weft.controller.audit import Audit
from weft.controller.callers import Bearer, Callers
from weft.controller.doors import Crowd, Door, Listener, Patience, Server, figures
from weft.controller.limits import Limits
from weft.controller.oidc import Oidc, read_settings
from weft.controller.rules import RuleChanges
from weft.controller.service import Service
from weft.controller.signing import Signer
from weft.kit import notify
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Rejected, Retry
from weft.store.address import certificate, open_cluster, open_store, shown
from weft.store.migration import migrate
from weft.tls.contexts import Files, ServerTls

DEFAULT_LISTEN = ("http://127.0.0.1:8640", "unix:///run/weft/controller.sock")

# After SIGTERM: requests that are being answered get this long; streams are told at once.
_GRACE_S = 1

# A full page of objects is small; what is large comes as a stream of its own. Waiting connections beyond are refused.
_BACKLOG = 1024

# How often the certificates' files are looked at.
_LOOK_S = 2.0

_log = structlog.stdlib.get_logger("weft.controller")


@dataclass(frozen=True, slots=True)
class Security:
    """What a controller shows and whom it believes. files: of https, None: there is none.

    insecure: plain HTTP is served elsewhere than on the loopback, too. issuer: certificate and key to sign hosts with.
    oidc: a file that says whose users are believed in, and what they may do.
    """

    files: Files | None = None
    insecure: bool = False
    issuer: tuple[Path, Path] | None = None
    oidc: Path | None = None

    def bearers(self) -> list[Bearer]:
        return [] if self.oidc is None else [Oidc(read_settings(self.oidc)).bearer]

    def signer(self) -> Signer | None:
        if self.issuer is None:
            return None
        if self.files is None or self.files.ca is None:
            raise Rejected("who signs hosts has to say whom they are to trust: --ca", "ca")
        return Signer(*self.issuer, self.files.ca)


#: Plain HTTP on this machine, and nothing else.
OPEN = Security()


def run(
    store: str, listen: Sequence[str] = DEFAULT_LISTEN, security: Security = OPEN, advertise: str | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. Rejected: something cannot be opened; Retry: starting again would help.

    advertise: where the other controllers of the store reach this one; the first of ``listen`` unless said.
    """
    logs.configure()
    # What the model holds is long-lived and without cycles: at the default thresholds a fifth of a large apply, and
    # most of a large delete, went into looking through it again and again.
    gc.set_threshold(50_000, 20, 1_000)
    asyncio.run(_until_signalled(store, listen, security, advertise))


async def _until_signalled(store: str, listen: Sequence[str], security: Security, advertise: str | None) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await serve(store, listen, stopping, ready=notify.ready, security=security, advertise=advertise)


async def serve(
    store: str,
    listen: Sequence[str],
    stopping: asyncio.Event,
    *,
    ready: Callable[[], None] = lambda: None,
    security: Security = OPEN,
    advertise: str | None = None,
) -> None:
    """Serve until ``stopping`` is set. ready: called once requests are answered."""
    tls = ServerTls(security.files or Files()) if any(url.startswith("https:") for url in listen) else None
    signer, bearers = security.signer(), security.bearers()
    with contextlib.ExitStack() as opened_doors:
        # Listening first: a second controller on one machine is told of the address, not of a locked file.
        listeners = [opened_doors.enter_context(_door(url, tls, security.insecure)) for url in listen]
        opened = await asyncio.to_thread(open_store, store)
        try:
            await _take_up(opened)
            service = await Service.start(opened)
            if service.schema != SCHEMA:
                _log.warning(
                    "the store is as the release before reads it, until weft store migrate", is_at=service.schema
                )
            _log.info("started", store=shown(store), revision=service.revision, listen=list(listen))
            cluster = open_cluster(store, advertise or listen[0])
            try:
                behind = _behind(service, cluster, Credentials(security.files or Files()))
                await _serve(service, listeners, stopping, ready, signer, bearers, behind, certificate(store))
                await service.stop()
            finally:
                await cluster.close()
        finally:
            await opened.close()
    if service.broken.is_set():
        raise Retry("memory and store may differ after a failure (see the log above); starting again mends it")
    _log.info("stopped", revision=service.revision)


async def _take_up(store: Store) -> None:
    """A store of the release before: where nobody else has it, it goes over to this one's schema now."""
    if not store.shared and store.schema != SCHEMA:
        done = await migrate(store, SCHEMA)
        _log.info("the store has gone over", schema_before=done.before, schema=done.after, objects=done.written)


async def _serve(
    service: Service,
    listeners: Sequence[Listener],
    stopping: asyncio.Event,
    ready: Callable[[], None],
    signer: Signer | None,
    bearers: Sequence[Bearer],
    behind: Sequence[Coroutine[Any, Any, None]],
    shown_to_etcd: Path | None,
) -> None:
    patience = Patience()
    access, log = Access(service), Audit(service)
    callers = Callers(
        [access.bearer, *bearers],
        # Where there is TLS, a process on this machine has to say who it is like any other.
        trusts_loopback=all(each.door is not Door.TLS for each in listeners),
        revoked=access.is_revoked,
    )
    limits = Limits()
    more = AccessApi(service, access, log, stopping, signer).routes()
    crowd = Crowd(patience)

    def measured() -> Iterable[Metric]:
        yield from figures(crowd, listeners, shown_to_etcd)
        yield from limits.figures()

    server = Server(
        uvicorn.Config(
            create_app(service, stopping, callers, more, measured, limits),
            log_config=None,
            access_log=False,
            lifespan="off",
            http="httptools",
            ws="none",
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_GRACE_S,
        ),
        listeners,
        crowd,
        ready,
    )
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve())
        working = [tasks.create_task(each) for each in behind]
        keeping = tasks.create_task(_keep_certificates(listeners))
        stopped, broken = tasks.create_task(stopping.wait()), tasks.create_task(service.broken.wait())
        await asyncio.wait((serving, stopped, broken), return_when=asyncio.FIRST_COMPLETED)
        notify.stopping()
        stopping.set()  # ends the streams
        server.should_exit = True
        broken.cancel()
        keeping.cancel()
        for task in working:
            task.cancel()


def _behind(service: Service, cluster: Cluster, credentials: Credentials) -> list[Coroutine[Any, Any, None]]:
    """What goes on behind the doors, for as long as the controller serves."""
    clock = MonotonicClock()
    return [
        service.run(),
        cluster.run(),
        peers.listen(service, cluster, lambda url: _peer(url, credentials), clock),
        # Each step is judged like any other write; that one controller takes them saves the others' attempts.
        peers.in_turn(cluster, "rules", lambda: RuleChanges(service, clock).run()),
    ]


def _peer(url: str, credentials: Credentials) -> AbstractAsyncContextManager[peers.Peer]:
    return AsyncClient(url, timeout_s=peers.SILENCE_S, credentials=credentials)


async def _keep_certificates(listeners: Sequence[Listener]) -> None:
    """Takes up certificates that were replaced. What goes wrong is logged, and tried again."""
    while True:
        await asyncio.sleep(_LOOK_S)
        for tls in {each.tls for each in listeners if each.tls is not None}:
            try:
                if tls.check():
                    _log.info("certificates were replaced")
            except Rejected as fault:
                _log.warning("certificates cannot be used; the former ones are", reason=str(fault))


@contextlib.contextmanager
def _door(url: str, tls: ServerTls | None, insecure: bool) -> Iterator[Listener]:
    with listening(url, insecure=insecure) as bound:
        if url.startswith("unix:"):
            yield Listener(Door.LOCAL, bound)
        elif url.startswith("https:"):
            yield Listener(Door.TLS, bound, tls)
        else:
            yield Listener(Door.LOOPBACK if is_loopback(bound.getsockname()[0]) else Door.OPEN, bound)


@contextlib.contextmanager
def listening(url: str, *, insecure: bool = False) -> Iterator[socket.socket]:
    """A socket that listens at ``http[s]://address:port`` or ``unix:///path``; a unix socket's file goes with it.

    Plain HTTP is for the loopback only, unless ``insecure``.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise _not_a_listener(url) from error
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        with _unix(Path(unquote(parts.path)), url) as bound:
            yield bound
    elif parts.scheme in ("http", "https") and parts.hostname and port is not None and parts.path in ("", "/"):
        with contextlib.closing(_tcp(parts.hostname, port, url, anywhere=insecure or parts.scheme == "https")) as bound:
            yield bound
    else:
        raise _not_a_listener(url)


def _not_a_listener(url: str) -> Rejected:
    return Rejected(f"'{url}' is nothing to listen at; {' or '.join(DEFAULT_LISTEN)} would be", "listen")


def _tcp(host: str, port: int, url: str, *, anywhere: bool) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise Rejected(f"cannot listen at {url}: {error.strerror}", "listen") from error
    if not anywhere and not is_loopback(str(address[0])):
        raise Rejected(
            f"at {url} whoever reaches it could do anything: serve https there, or say --insecure if nobody else can",
            "listen",
        )
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise _cannot_listen(url, error) from error
    return bound


@contextlib.contextmanager
def _unix(path: Path, url: str) -> Iterator[socket.socket]:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.closing(bound):
            try:
                _clear(path, url)
                path.parent.mkdir(parents=True, exist_ok=True)
                bound.bind(str(path))
                path.chmod(0o660)  # whoever may connect may do anything: root and the file's group
                bound.listen(_BACKLOG)
                ours = path.stat().st_ino
            except OSError as error:
                raise _cannot_listen(url, error) from error
            yield bound
    finally:
        with contextlib.suppress(FileNotFoundError, UnboundLocalError):
            if path.stat().st_ino == ours:
                path.unlink()


def _clear(path: Path, url: str) -> None:
    """Removes the socket of a controller that was killed; refuses where one listens, or the file is no socket."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Rejected(f"cannot listen at {url}: there is a file that is no socket", "listen")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise Rejected(f"cannot listen at {url}: another process does", "listen")


def _cannot_listen(url: str, error: OSError) -> Rejected:
    reason = "another process does" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
    return Rejected(f"cannot listen at {url}: {reason}", "listen")

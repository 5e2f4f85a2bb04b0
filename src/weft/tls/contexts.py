"""TLS for both ends of a connection, from files that may be replaced at any time. Never drops a connection for it.

TLS 1.3 only: every end is ours, or a browser or a tool of this decade.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from weft.kit.errors import Rejected
from weft.tls.expiry import ends

_State: TypeAlias = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Where certificates are, in PEM. key None: in the certificate's file. ca None: what the machine trusts."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.certificate, self.key, self.ca) if path is not None)


class ServerTls:
    """A server's end. Whoever connects may show a certificate; one that is shown has to be good."""

    def __init__(self, files: Files) -> None:
        """Raises Rejected when a file cannot be read, or is not what it should be."""
        if files.certificate is None or files.ca is None:
            raise Rejected("https needs a certificate and the authority that callers are to be of", "certificate")
        self._watched = Watched(files.all)
        self.files = files
        #: When what is in use ends, whatever is in the files by now.
        self.ends = ends(files.certificate, files.ca)
        self._current = self._make()
        # What a listener holds for its whole life; each handshake is by what is current then.
        self.context = self._make()
        self.context.sni_callback = self._choose

    def check(self) -> bool:
        """Whether the files were replaced, and are in use from now on. Raises Rejected; what was, stays in use."""
        return self._watched.check(self._take)

    def _take(self) -> None:
        self._current = self._make()
        self.ends = ends(self.files.certificate, self.files.ca)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # A resumed session would not look at the caller's certificate again.
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        _load(context, self.files)
        return context


class ClientTls:
    """A client's end: trusts nobody but the authorities in its file, and shows its certificate if it has one."""

    def __init__(self, files: Files) -> None:
        """Raises Rejected when a file cannot be read, or is not what it should be."""
        self._made_of = files
        self._files = Watched(files.all)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        if files.ca is None:
            self.context.load_default_certs()
        _load(self.context, files)

    def check(self) -> bool:
        """Whether the files were replaced: connections that are made from now on are by the new ones.

        An authority that is no longer in the file is trusted until the process ends. Raises Rejected.
        """
        return self._files.check(lambda: _load(self.context, self._made_of))


class Watched:
    """Files that may be replaced. Compares what they are, not what is in them: made anew, or grown, or touched."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._seen = self._look()

    def check(self, take: Callable[[], None]) -> bool:
        """Calls ``take`` when they are others than before; what it cannot take is tried again at the next look."""
        found = self._look()
        if found == self._seen:
            return False
        take()
        self._seen = found
        return True

    def _look(self) -> _State:
        return tuple(_state(path) for path in self._paths)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load(context: ssl.SSLContext, files: Files) -> None:
    if files.certificate is not None:
        try:
            # A password that is none: without it OpenSSL would ask the terminal for one.
            context.load_cert_chain(files.certificate, files.key, password="")
        except (ssl.SSLError, OSError) as error:
            if (
                files.key is None
                and files.certificate.exists()
                and b"PRIVATE KEY" not in files.certificate.read_bytes()
            ):
                raise Rejected(
                    f"there is no key in {files.certificate}: say where it is (WEFT_KEY, key)", "key"
                ) from error
            key = "" if files.key is None else f" with the key {files.key}"
            raise Rejected(f"the certificate {files.certificate}{key} cannot be used: {_said(error)}") from error
    if files.ca is not None:
        try:
            context.load_verify_locations(files.ca)
        except (ssl.SSLError, OSError) as error:
            raise Rejected(f"the authorities in {files.ca} cannot be used: {_said(error)}") from error


def _said(error: OSError) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or str(error)

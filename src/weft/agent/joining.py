"""How a host gets its certificate, and keeps it good: by a token, once, and then by the certificate itself.

The key is made here and never leaves. A token is not shown to anybody but a controller of the deployment that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from weft.client import access
from weft.client.client import ApiError, AsyncClient, Client
from weft.client.credentials import Credentials
from weft.contracts.clock import Clock
from weft.kit.errors import Rejected, Retry
from weft.tls import files
from weft.tls.certificates import Certificate, key_pem, make_key, make_request
from weft.tls.contexts import Files
from weft.tls.identity import Role
from weft.wire.access import Issued

_log = structlog.get_logger("weft.agent")

_HOST, _CA = "host.pem", "ca.crt"

#: How often files are looked at.
LOOK_S = 5.0
#: After a renewal that did not work.
RETRY_S = 60.0


def files_in(directory: Path) -> Files:
    """Where a host that has joined keeps what it was given: key and certificate in one, so that neither is alone."""
    return Files(directory / _HOST, None, directory / _CA)


def joined(host: str, directory: Path) -> Files:
    """What it was given. Raises Rejected where nothing was."""
    kept = files_in(directory)
    if not (directory / _HOST).exists():
        token = f"--join (WEFT_JOIN) and a token, as `weft host token {host.rpartition('/')[2]}` prints one"
        raise Rejected(f"{host} has no certificate in {directory} and no token to get one by: give it {token}", "join")
    return kept


def holder(directory: Path) -> tuple[str | None, Path]:
    """The host whose certificate is there, if one is and can be read, and the file."""
    path = directory / _HOST
    try:
        found = Certificate.of_pem(path.read_bytes()).identity
    except (OSError, Rejected):
        return None, path
    return (f"hosts/{found.label}" if found is not None and found.role is Role.HOST else None), path


def join(host: str, url: str, token: str, directory: Path) -> Files:
    """Does nothing where there is a certificate already. Raises Rejected, Retry or ApiError."""
    kept = files_in(directory)
    if (directory / _HOST).exists():
        return kept
    fingerprint = token.rpartition("_")[2]
    if len(fingerprint) != 64:
        raise Rejected("this is not a token to join by, such as `weft host token` gives", "join")
    for each in url.split(","):
        if not each.startswith("https:"):
            raise Rejected(f"a host joins by https, not by {each}", "controller")
    files.write(directory / _CA, _root(url.split(","), fingerprint))
    key = make_key()
    with Client(url, credentials=Credentials(Files(ca=directory / _CA))) as client:
        issued = access.join(client, token, make_request(key).decode())
    mine = Certificate.of_pem(issued.certificate.encode())
    if mine.identity is None or f"hosts/{mine.identity.label}" != host:
        raise Rejected(f"the token is for {mine.identity}, not for {host}", "join")
    _keep(directory, key_pem(key), issued)
    _log.info("joined", host=host, until=mine.not_after.isoformat())
    return kept


def _root(urls: Sequence[str], fingerprint: str) -> bytes:
    """Of the first controller that answers."""
    for rank, url in enumerate(urls, 1):
        try:
            return access.fetch_root(url, fingerprint)
        except Retry:
            if rank == len(urls):
                raise
    raise Rejected("there is no controller to join at", "controller")


def _keep(directory: Path, key: bytes, issued: Issued) -> None:
    files.write(directory / _CA, issued.ca.encode())
    files.write(directory / _HOST, key + issued.certificate.encode(), secret=True)


class Keeper:
    """Keeps a connection's certificate good: takes up files that were replaced, and renews what it was given."""

    def __init__(
        self,
        host: str,
        client: AsyncClient,
        used: Files,
        clock: Clock,
        *,
        renewed_in: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """renewed_in: where they are kept that came by joining; others are for somebody else to replace."""
        self._host = host
        self._client = client
        self._used = used
        self._clock = clock
        self._renewed_in = renewed_in
        self._now = now
        self._not_before_s = clock.now_s()  # the next try to renew

    def ends(self) -> datetime | None:
        """When the certificate that is shown ends."""
        found = self._read()
        return found.not_after if found else None

    async def run(self) -> None:
        """For ever. What goes wrong is logged, and tried again."""
        while True:
            await self._clock.sleep(LOOK_S)
            try:
                if self._client.check_certificates():
                    _log.info("certificates were replaced")
            except Rejected as fault:
                _log.warning("certificates cannot be used; the former ones are", reason=str(fault))
            if self._renewed_in is not None and self._is_due():
                await self._renew(self._renewed_in)

    def _is_due(self) -> bool:
        found = self._read()
        if found is None or self._clock.now_s() < self._not_before_s:
            return False
        return self._now() > found.not_before + (found.not_after - found.not_before) * 2 / 3

    async def _renew(self, directory: Path) -> None:
        key = make_key()
        try:
            issued = await access.renew(self._client, self._host, make_request(key).decode())
            _keep(directory, key_pem(key), issued)
            self._client.check_certificates()
            _log.info("the certificate was renewed")
        except (Retry, ApiError, Rejected) as fault:
            _log.warning("the certificate is not renewed yet", reason=str(fault))
            self._not_before_s = self._clock.now_s() + RETRY_S

    def _read(self) -> Certificate | None:
        if self._used.certificate is None:
            return None
        try:
            found = Certificate.all_of_pem(self._used.certificate.read_bytes())
        except (OSError, Rejected):
            return None
        return found[0]

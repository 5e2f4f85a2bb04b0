"""Certificates for tests: an authority in a directory, made once a module; and what each end is started with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from weft.client.credentials import Credentials
from weft.tls.authority import Authority
from weft.tls.contexts import Files
from weft.tls.identity import Identity, Role

CONTROLLER = Identity(Role.CONTROLLER, "c1")
ADMIN = Identity(Role.ADMIN, "alice")


def now() -> datetime:
    return datetime.now(UTC)


def authority(directory: Path) -> Authority:
    """With a controller at the loopback."""
    made = Authority.make(directory, "test", now())
    made.issue(CONTROLLER, ["127.0.0.1", "::1", "localhost"], now())
    return made


def files_of(authority: Authority, identity: Identity, life: timedelta = timedelta(days=1)) -> Files:
    """Of a holder; made when it is not there yet."""
    path = authority.directory / f"{identity.role.value}s" / f"{identity.label}.crt"
    if not path.exists():
        authority.issue(identity, ["127.0.0.1"] if identity.role.serves else [], now(), life)
    return Files(path, path.with_suffix(".key"), authority.ca)


def credentials_of(authority: Authority, identity: Identity) -> Credentials:
    return Credentials(files_of(authority, identity))

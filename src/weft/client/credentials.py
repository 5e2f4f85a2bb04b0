"""What a client shows to say who it is: a certificate, or a token. Never sends a token where others can read it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from weft.kit.errors import Rejected
from weft.tls.contexts import ClientTls, Files


@dataclass(frozen=True, slots=True)
class Credentials:
    """files: of TLS, for https only. token: a bearer token (RFC 6750)."""

    files: Files = field(default_factory=Files)
    token: str = field(default="", repr=False)

    def tls(self, url: str) -> ClientTls | None:
        return ClientTls(self.files) if url.startswith("https:") else None

    def headers(self, url: str) -> dict[str, str]:
        if not self.token:
            return {}
        if url.startswith("http:") and not is_loopback(urlsplit(url).hostname or ""):
            raise Rejected(f"a token is not sent to {url}, where others could read it: use https", "token")
        if not self.token.isascii() or not self.token.isprintable():
            raise Rejected("the token has characters that no token has", "token")
        return {"authorization": f"Bearer {self.token}"}


NONE = Credentials()


def is_loopback(host: str) -> bool:
    """Of a URL's host, as it is written."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Where controllers are, which of them is asked, and what this client has seen. Asks nobody itself."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from weft.kit.errors import Rejected
from weft.wire.api import AT_LEAST, SEEN, store_of

DEFAULT_URL = "http://127.0.0.1:8640"

#: One of several that does not take a connection is passed over after so long.
CONNECT_S = 1.0


class EndPoints:
    """``https://c1:8640,https://c2:8640``: any number; whoever answered last is asked next."""

    def __init__(self, urls: str) -> None:
        self.urls = tuple(each.strip() for each in urls.split(",") if each.strip())
        if not self.urls:
            raise Rejected(f"'{urls}' is not a controller's URL such as {DEFAULT_URL}")
        for each in self.urls:
            address(each)
        self.at = 0
        self._seen: tuple[str, int] | None = None

    def __len__(self) -> int:
        return len(self.urls)

    @property
    def url(self) -> str:
        return self.urls[self.at]

    def failed(self, at: int) -> None:
        """The next is asked next; unless somebody has gone on already."""
        if self.at == at:
            self.at = (at + 1) % len(self.urls)

    def note(self, headers: Mapping[str, str]) -> None:
        """What an answer has shown."""
        revision, _, history = headers.get(SEEN, "").partition("@")
        if revision.isdecimal():
            same = self._seen is not None and store_of(self._seen[0]) == store_of(history)
            known = self._seen[1] if self._seen is not None and same else 0
            self._seen = (history, max(known, int(revision)))

    def headers(self) -> dict[str, str]:
        """So that no controller shows less than another has shown."""
        return {} if self._seen is None or len(self.urls) == 1 else {AT_LEAST: f"{self._seen[1]}@{self._seen[0]}"}


def address(url: str) -> tuple[str, str | None]:
    """(base URL, unix socket's path or None)."""
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return "http://weft", unquote(parts.path)
    if parts.scheme in ("http", "https") and parts.netloc:
        return url.rstrip("/"), None
    raise Rejected(f"'{url}' is not a controller's URL such as {DEFAULT_URL} or unix:///run/weft/controller.sock")

"""An OpenID Connect issuer as a process: somebody else's program, in an environment of its own (make test makes it)."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from bench.free_ports import free_port

from polling import PATIENCE_S, eventually

PYTHON = Path(__file__).parents[2] / "build" / "issuer" / "bin" / "python"
CALLBACK = "http://127.0.0.1/back"


@dataclass(frozen=True, slots=True)
class Issuer:
    url: str

    def log_in(self, user: str, audience: str = "weft") -> str:
        """The user's ID token, by the authorization code flow, as a client of that name gets it."""
        with httpx2.Client(base_url=self.url, trust_env=False) as http:
            asked = {
                "client_id": audience, "redirect_uri": CALLBACK, "response_type": "code", "scope": "openid profile",
                "state": "x",
            }  # fmt: skip
            answer = http.post(f"/oauth2/authorize?{urlencode(asked)}", data={"sub": user})
            code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
            given = http.post(
                "/oauth2/token",
                data={"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK},
                auth=(audience, "any"),
            )
            found: str = given.json()["id_token"]
            return found


@contextmanager
def issuer(users: dict[str, dict[str, Any]], number: int | None = None) -> Iterator[Issuer]:
    """With these users and their claims. Another process has other keys."""
    if number is None:
        number = free_port()
    words = [word for user, claims in users.items() for word in ("--user-claims", json.dumps({"sub": user, **claims}))]
    command = [str(PYTHON), "-m", "oidc_provider_mock", "--port", str(number), "--token-max-age", "600", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: _answers(number), "the issuer answers", 30)
            yield Issuer(f"http://127.0.0.1:{number}")
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _answers(number: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", number)) == 0

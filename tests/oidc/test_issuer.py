"""Users of a real OpenID Connect issuer, at a controller over TLS."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import yaml
from bench.free_ports import free_port

from oidc.issuer import issuer
from polling import eventually
from unit.certificates import ADMIN, CONTROLLER, authority, credentials_of, files_of
from unit.controller_world import BASE
from weft.client import ApiError, Client, access
from weft.client.credentials import Credentials
from weft.controller.authorisation import Role
from weft.controller.oidc import Grant, Oidc, Settings
from weft.tls.contexts import Files

USERS = {
    "ann": {"weft_groups": ["blue-admins", "x"], "nickname": "ann"},
    "olga": {"weft_groups": ["netops"]},
    "eve": {"weft_groups": ["none"]},
}
GRANTS = [
    {"claim": "weft_groups", "value": "netops", "role": "operator"},
    {"claim": "weft_groups", "value": "blue-admins", "role": "tenant-admin", "tenant": "blue"},
]


def test_users_log_in_at_the_issuer_and_have_the_roles_that_their_groups_give(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    mine = files_of(ca, CONTROLLER)
    with issuer(USERS) as them:
        (tmp_path / "oidc.yaml").write_text(yaml.safe_dump({"issuer": them.url, "audience": "weft", "grants": GRANTS}))
        at = f"https://127.0.0.1:{free_port()}"
        command = [
            sys.executable, "-m", "weft.apps.cli", "controller", "--listen", at, "--store", str(tmp_path / "c.db"),
            "--certificate", str(mine.certificate), "--key", str(mine.key), "--ca", str(mine.ca),
            "--oidc", str(tmp_path / "oidc.yaml"),
        ]  # fmt: skip
        with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                eventually(lambda: b'"started"' in (tmp_path / "log").read_bytes(), "it starts", 30)
                with Client(at, credentials=credentials_of(ca, ADMIN)) as client:
                    client.apply(BASE)

                def known(token: str) -> tuple[str, str | None] | int:
                    with Client(at, credentials=Credentials(Files(ca=ca.ca), token)) as client:
                        try:
                            found = access.whoami(client)
                        except ApiError as error:
                            return error.status
                        return found["role"], found["of"]

                assert known(them.log_in("ann")) == ("tenant-admin", "tenants/blue")
                assert known(them.log_in("olga")) == ("operator", None)
                assert known(them.log_in("eve")) == 403
                assert known(them.log_in("ann", audience="another")) == 401
                token = them.log_in("ann")
                head, body, signature = token.split(".")
                assert known(f"{head}.{body}.{signature[::-1]}") == 401
                assert known(f"{head}.{them.log_in('olga').split('.')[1]}.{signature}") == 401
            finally:
                process.terminate()


def test_an_issuer_that_has_new_keys_is_asked_for_them_and_those_it_had_are_forgotten() -> None:
    number, now = free_port(), [0.0]
    settings = Settings(f"http://127.0.0.1:{number}", "weft", (Grant("weft_groups", "netops", Role.OPERATOR),))

    async def role(it: Oidc, token: str) -> Role | None:
        import time

        from weft.controller.authorisation import Denied

        now[0] = time.time() + extra
        try:
            caller = await it.bearer(token)
        except Denied:
            return None
        return caller.role if caller else None

    extra = 0.0
    it = Oidc(settings, lambda: now[0])
    with issuer(USERS, number) as them:
        first = them.log_in("olga")
        assert asyncio.run(role(it, first)) is Role.OPERATOR
    # It is away: what it has signed is good all the same.
    assert asyncio.run(role(it, first)) is Role.OPERATOR
    with issuer(USERS, number) as them:
        second = them.log_in("olga")
        assert asyncio.run(role(it, second)) is None  # not asked again within seconds
        extra = 20.0
        assert asyncio.run(role(it, second)) is Role.OPERATOR
        assert asyncio.run(role(it, first)) is None

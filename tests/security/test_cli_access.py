"""weft token, quota, audit, host and whoami, against a controller over TLS, as operators run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from bench.free_ports import free_port
from click.testing import CliRunner, Result

from polling import eventually
from unit.certificates import ADMIN, CONTROLLER, authority, files_of
from unit.test_cli_commands import INTENT
from weft.apps.cli import main
from weft.cli.access import seconds
from weft.cli.session import ExitCode
from weft.kit.errors import Rejected

Weft = Callable[..., Result]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of its administrator."""
    directory = tmp_path_factory.mktemp("deployment")
    ca = authority(directory / "ca")
    mine, hers = files_of(ca, CONTROLLER), files_of(ca, ADMIN)
    at = f"https://127.0.0.1:{free_port()}"
    started = {
        "WEFT_LISTEN": at, "WEFT_STORE": str(directory / "c.db"), "WEFT_CA": str(ca.ca),
        "WEFT_CERTIFICATE": str(mine.certificate), "WEFT_KEY": str(mine.key),
        "WEFT_ISSUER_CERTIFICATE": str(ca.directory / "hosts.crt"), "WEFT_ISSUER_KEY": str(ca.directory / "hosts.key"),
    }  # fmt: skip
    command = [sys.executable, "-m", "weft.apps.cli", "controller"]
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, stderr=log, env={**os.environ, **started}) as process,
    ):
        try:
            eventually(lambda: b'"started"' in (directory / "log").read_bytes(), "it starts", 30)
            yield {
                "WEFT_CONTROLLER": at, "WEFT_CA": str(ca.ca), "WEFT_CERTIFICATE": str(hers.certificate),
                "WEFT_KEY": str(hers.key), "WEFT_CONFIG": str(directory / "none"),
            }  # fmt: skip
        finally:
            process.terminate()


@pytest.fixture
def weft(environment: dict[str, str]) -> Weft:
    def run(*arguments: str, stdin: str | None = None, **more: str) -> Result:
        return CliRunner().invoke(main, arguments, input=stdin, env={**environment, **more}, prog_name="weft")

    assert run("apply", "-f", "-", stdin=INTENT).exit_code == 0
    return run


#: What somebody without a certificate shows.
NO_CERTIFICATE = {"WEFT_CERTIFICATE": "", "WEFT_KEY": ""}


def test_a_user_gets_a_token_uses_it_and_loses_it(weft: Weft) -> None:
    made = weft("token", "create", "--user", "ann", "--role", "tenant-reader", "--tenant", "blue", "--expires", "2h")
    assert made.exit_code == ExitCode.DONE
    ann = {**NO_CERTIFICATE, "WEFT_TOKEN": made.stdout.strip()}
    assert weft("whoami", **ann).stdout.startswith("user/ann: tenant-reader of tenants/blue, from 127.0.0.1")
    assert "blue/web-1" in weft("get", "ports", **ann).stdout
    refused = weft(
        "apply", "-f", "-", stdin="{name: tenants/blue/ports/web-1, spec: {virtual_subnet: prod/web}}", **ann
    )
    assert refused.exit_code == ExitCode.REFUSED
    assert "may not change anything" in refused.stderr
    (listed,) = [each for each in json.loads(weft("token", "list", "-o", "json").stdout) if each["user"] == "ann"]
    assert weft("token", "revoke", listed["id"]).exit_code == ExitCode.DONE
    assert weft("get", "ports", **ann).exit_code == ExitCode.REFUSED


def test_nobody_is_told_to_say_who_it_is(weft: Weft) -> None:
    refused = weft("get", "ports", **NO_CERTIFICATE)
    assert refused.exit_code == ExitCode.REFUSED
    assert "say who you are" in refused.stderr


def test_quotas_are_set_and_shown(weft: Weft) -> None:
    assert weft("quota", "set", "blue", "ports=2", "subnets=4").exit_code == ExitCode.DONE
    assert "port" in weft("quota", "get", "blue").stdout
    (shown,) = json.loads(weft("quota", "get", "-o", "json").stdout)
    assert shown["limits"] == {"port": 2, "virtual-subnet": 4}
    more = weft("apply", "-f", "-", stdin="{name: tenants/blue/ports/more, spec: {virtual_subnet: prod/web}}")
    assert more.exit_code == ExitCode.REFUSED
    assert "may have 2 of the kind port and has 2" in more.stderr
    assert weft("quota", "set", "blue").exit_code == ExitCode.DONE
    assert weft("quota", "set", "blue", "ports").exit_code == ExitCode.REFUSED


def test_who_did_what_is_listed_and_followed(weft: Weft, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "weft.apps.cli", "audit", "follow", "--revision", "0", "-o", "json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
    ) as following:
        try:
            weft("apply", "-f", "-", stdin="{name: tenants/green, spec: {description: seen}}")
            assert following.stdout is not None
            for line in following.stdout:
                entry = json.loads(line)
                if entry["changes"][0]["name"].startswith("tenants/green"):
                    break
        finally:
            following.terminate()
    assert entry["who"] == "weft://admins.weft/alice"
    assert entry["where"] == "127.0.0.1"
    after = {change["name"]: change["after"] for change in entry["changes"]}
    assert after["tenants/green"] == {"description": "seen"}
    listed = weft("audit", "list", "--limit", "5")
    assert "weft://admins.weft/alice" in listed.stdout
    assert "create tenants/green" in listed.stdout


def test_a_host_gets_a_token_and_loses_its_certificates(weft: Weft) -> None:
    made = weft("host", "token", "h1", "-o", "json")
    assert json.loads(made.stdout)["host"] == "hosts/h1"
    assert weft("host", "token", "h9").exit_code == ExitCode.NOT_FOUND
    assert weft("host", "revoke", "h1").exit_code == ExitCode.DONE
    unknown = weft("host", "revoke", "h9")
    assert (unknown.exit_code, unknown.stderr) == (ExitCode.NOT_FOUND, "error: there is no hosts/h9\n")


@pytest.mark.parametrize(("text", "wanted"), [("90d", 7_776_000), ("12h", 43_200), ("5m", 300)])
def test_times_are_read(text: str, wanted: int) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "d", "1", "-1d", "1w", "0h", "1.5h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="is not a time"):
        seconds(text)

"""weft ca, and what people configure for themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from bench.free_ports import free_port
from click.testing import CliRunner, Result

from polling import eventually
from unit.certificates import now
from weft.apps.cli import main
from weft.cli.session import ExitCode
from weft.tls.authority import Authority
from weft.tls.certificates import Certificate

Weft = Callable[..., Result]


@pytest.fixture
def weft(tmp_path: Path) -> Weft:
    def run(*arguments: str, **environment: str) -> Result:
        found = {"WEFT_CONFIG": str(tmp_path / "config.yaml"), **environment}
        return CliRunner().invoke(main, arguments, env=found, prog_name="weft")

    return run


def test_a_deployment_is_made_step_by_step_and_its_administrator_is_let_in(weft: Weft, tmp_path: Path) -> None:
    ca = str(tmp_path / "ca")
    at = f"https://127.0.0.1:{free_port()}"
    for words in (("init", ca), ("issue", ca, "controller/c1", "--address", "127.0.0.1"), ("issue", ca, "admin/alice")):
        assert weft("ca", *words).exit_code == ExitCode.DONE
    command = [
        sys.executable, "-m", "weft.apps.cli", "controller", "--listen", at, "--store", str(tmp_path / "c.db"),
        "--certificate", f"{ca}/controllers/c1.crt", "--key", f"{ca}/controllers/c1.key", "--ca", f"{ca}/ca.crt",
    ]  # fmt: skip
    configured = f"controller: {at}\nca: {ca}/ca.crt\ncertificate: {ca}/admins/alice.crt\nkey: {ca}/admins/alice.key\n"
    (tmp_path / "config.yaml").write_text(configured)
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            eventually(lambda: b'"started"' in (tmp_path / "log").read_bytes(), (tmp_path / "log").read_text())
            assert weft("status", "-o", "json").exit_code == ExitCode.DONE
            assert weft("get", "hosts").exit_code == ExitCode.DONE
            stranger = weft("get", "hosts", WEFT_CA="/etc/ssl/certs/ca-certificates.crt")
            assert stranger.exit_code == ExitCode.UNREACHABLE
        finally:
            process.terminate()


def test_what_is_about_to_end_is_renewed_and_nothing_else(weft: Weft, tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    for words in (("init", ca), ("issue", ca, "host/h1", "--days", "10"), ("issue", ca, "admin/alice")):
        weft("ca", *map(str, words))
    before = {each.name: each.certificate for each in Authority(ca).held()}
    renewed = json.loads(weft("ca", "renew", str(ca), "-o", "json").stdout)
    assert [each["name"] for each in renewed] == ["host/h1"]
    after = {each.name: each.certificate for each in Authority(ca).held()}
    assert [name for name in before if before[name] != after[name]] == ["host/h1"]
    assert json.loads(weft("ca", "renew", str(ca), "-o", "json").stdout)[0]["name"] == "host/h1"
    assert "no certificate ends within 3 days" in weft("ca", "renew", str(ca), "--within-days", "3").stderr
    assert after["host/h1"].not_after - now() < timedelta(days=11)


def test_a_renewed_root_is_still_the_root_of_what_it_has_signed(weft: Weft, tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    weft("ca", "init", str(ca))
    weft("ca", "issue", str(ca), "host/h1")
    issued = [Certificate.of_pem((ca / path).read_bytes()).parsed for path in ("hosts.crt", "hosts/h1.crt")]
    assert weft("ca", "renew", str(ca), "root", "hosts").exit_code == ExitCode.DONE
    (root,) = Certificate.all_of_pem((ca / "ca.crt").read_bytes())
    issued[0].verify_directly_issued_by(root.parsed)
    issued[1].verify_directly_issued_by(Certificate.of_pem((ca / "hosts.crt").read_bytes()).parsed)
    assert root == Certificate.of_pem((ca / "root.crt").read_bytes())


def test_keys_are_for_their_owner_only(weft: Weft, tmp_path: Path) -> None:
    weft("ca", "init", str(tmp_path / "ca"))
    weft("ca", "issue", str(tmp_path / "ca"), "admin/alice")
    keys = list((tmp_path / "ca").rglob("*.key"))
    assert len(keys) == 4
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("issue", "DIR", "controller/c1"), "needs the addresses"),
        (("issue", "DIR", "host/h1", "--address", "192.0.2.1"), "nobody connects to a host"),
        (("issue", "DIR", "king/arthur"), "roles are admin, operator"),
        (("issue", "DIR", "admin"), "'admin' is not a role and a name such as controller/c1"),
        (("issue", "DIR", "admin/../x"), "is not a name for a certificate"),
        (("issue", "DIR", "controller/c1", "--address", "é"), "neither a DNS name nor an IP address"),
        (("issue", "DIR", "controller/c1", "--address", "c1 .example"), "neither a DNS name nor an IP address"),
        (("issue", "DIR", "controller/c1", "--address", "10.0.0.300"), "neither a DNS name nor an IP address"),
        (("init", "DIR"), "there is an authority"),
        (("renew", "DIR", "admin/nobody"), "there is no certificate admin/nobody"),
        (("list", "ELSEWHERE"), "weft ca init"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(
    weft: Weft, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    weft("ca", "init", str(tmp_path / "ca"))
    places = {"DIR": str(tmp_path / "ca"), "ELSEWHERE": str(tmp_path / "nothing")}
    result = weft("ca", *(places.get(word, word) for word in words))
    assert result.exit_code in (ExitCode.REFUSED, ExitCode.NOT_FOUND)
    assert message in result.stderr


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("token: secret\n", 0o644, "others may read it"),
        ("colour: red\n", 0o600, "and nothing else"),
        ("[", 0o600, "is not YAML"),
        ("- a\n", 0o600, "and nothing else"),
        ("ca: 1\n", 0o600, "is not text"),
    ],
)
def test_a_configuration_that_is_not_right_is_refused(
    weft: Weft, tmp_path: Path, text: str, mode: int, message: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "config.yaml").chmod(mode)
    result = weft("get", "tenants")
    assert result.exit_code == ExitCode.REFUSED
    assert message in result.stderr

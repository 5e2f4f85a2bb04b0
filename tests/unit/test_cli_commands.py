"""The command line against a real controller: what it prints, and which exit code it ends with."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from polling import eventually
from weft.apps.cli import COMMANDS, main
from weft.cli import port, status
from weft.cli.session import EXIT_CODES, ExitCode, Failed
from weft.client import ApiError, Client, Item, moves
from weft.kit.errors import Conflict

Weft = Callable[..., Result]

#: Their commands are asked, not they.
GROUPS = {"port", "ca", "token", "quota", "audit", "host", "store"}

INTENT = """
- name: provider-networks/dc
  spec: {pools: [{prefix: 192.0.2.0/24}]}
- name: hosts/h1
  spec: {uplinks: [{interface: eth0, provider_network: dc, pas: [192.0.2.11]}]}
- name: hosts/h2
  spec: {uplinks: [{interface: eth0, provider_network: dc, pas: [192.0.2.12]}]}
---
- {name: tenants/blue}
- {name: tenants/blue/routing-domains/prod}
- name: tenants/blue/routing-domains/prod/virtual-subnets/web
  spec: {vsid: 5001, prefixes: [10.0.0.0/24]}
- name: tenants/blue/ports/web-1
  spec: {virtual_subnet: prod/web, host: h1}
- name: tenants/blue/ports/web-2
  spec: {virtual_subnet: prod/web, host: h2, addresses: [10.0.0.9]}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A controller of our own, as operators run it."""
    directory = tmp_path_factory.mktemp("controller")
    path = directory / "c.sock"
    command = [sys.executable, "-m", "weft.apps.cli", "controller", "--listen", f"unix://{path}", "--store", "c.db"]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, cwd=directory, stderr=log) as process:
        try:
            eventually(lambda: _listens(path), (directory / "log").read_text())
            yield f"unix://{path}"
        finally:
            process.terminate()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture
def weft(url: str) -> Iterator[Weft]:
    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, arguments, input=stdin, env={"WEFT_CONTROLLER": url}, prog_name="weft")

    assert run("apply", "-f", "-", stdin=INTENT).exit_code == 0
    yield run
    run("apply", "--delete", "--ignore-missing", "-f", "-", stdin=INTENT)


def printed(result: Result) -> object:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# ---- apply


def test_apply_again_changes_nothing(weft: Weft) -> None:
    assert weft("apply", "-f", "-", stdin=INTENT).stdout == "nothing to change\n"


def test_a_dry_run_shows_what_would_be_chosen_and_does_nothing(weft: Weft) -> None:
    more = "{name: tenants/blue/ports/web-3, spec: {virtual_subnet: prod/web}}"
    result = weft("apply", "--dry-run", "-f", "-", stdin=more)
    assert "1 object would change" in result.stdout
    assert "addresses: 10.0.0.3" in result.stdout
    assert weft("get", "blue/web-3").exit_code == ExitCode.NOT_FOUND


def test_an_update_shows_the_fields_that_change(weft: Weft) -> None:
    moved = "{name: tenants/blue/ports/web-1, spec: {virtual_subnet: prod/web, host: h2}}"
    result = weft("apply", "-f", "-", stdin=moved)
    assert "host: hosts/h1 -> hosts/h2" in result.stdout
    weft("apply", "-f", "-", stdin=INTENT)


@pytest.mark.parametrize("output", ["json", "name", "table"])
def test_apply_prints_its_changes(weft: Weft, output: str) -> None:
    result = weft("apply", "--dry-run", "-o", output, "-f", "-", stdin="{name: tenants/green}")
    assert "tenants/green" in result.stdout
    if output == "json":
        assert printed(result)["changes"][0]["action"] == "create"


def test_what_is_refused_is_told_with_file_line_object_and_field_and_nothing_is_done(
    weft: Weft, tmp_path: Path
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: tenants/green\n---\nname: tenants/blue/ports/x\nspec: {virtual_subnet: prod/web, mac: zz}\n")
    result = weft("apply", "-f", str(file))
    assert result.exit_code == ExitCode.REFUSED
    assert f"{file}:3: tenants/blue/ports/x: spec.mac: 'zz' is not a MAC address" in result.stderr
    assert weft("get", "tenant", "green").exit_code == ExitCode.NOT_FOUND


def test_what_others_refer_to_is_not_deleted(weft: Weft) -> None:
    result = weft("delete", "tenants/blue")
    assert result.exit_code == ExitCode.REFUSED
    assert "tenants/blue" in result.stderr
    assert weft("get", "tenants/blue").exit_code == 0


def test_delete_by_short_name_and_kind(weft: Weft) -> None:
    assert weft("delete", "blue/web-1").exit_code == 0
    assert weft("delete", "port", "blue/web-2", "-o", "name").stdout == "tenants/blue/ports/web-2\n"
    assert weft("delete", "blue/web-1").exit_code == ExitCode.NOT_FOUND
    assert weft("delete", "--ignore-missing", "blue/web-1").exit_code == 0


# ---- get, describe, status


def test_get_lists_a_kind_in_a_table(weft: Weft) -> None:
    head, *rows = weft("get", "ports").stdout.splitlines()
    assert head.split() == ["PORT", "SUBNET", "MAC", "ADDRESSES", "ANNOUNCED", "HOST", "STATE"]
    assert [row.split()[0] for row in rows] == ["blue/web-1", "blue/web-2"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["ports", "host=h1"], ["tenants/blue/ports/web-1"]),
        (["ports", "tenant=blue", "host=h2"], ["tenants/blue/ports/web-2"]),
        (["subnets", "tenant=blue", "domain=prod"], ["tenants/blue/routing-domains/prod/virtual-subnets/web"]),
        (["ports", "tenant=red"], []),
        (["port", "blue/web-2", "blue/web-1"], ["tenants/blue/ports/web-2", "tenants/blue/ports/web-1"]),
        (["host", "h1"], ["hosts/h1"]),
    ],
)
def test_get_finds_by_kind_filter_and_name(weft: Weft, words: list[str], names: list[str]) -> None:
    assert weft("get", *words, "-o", "name").stdout.splitlines() == names


def test_json_and_yaml_of_an_object_are_the_same_object(weft: Weft) -> None:
    as_json = printed(weft("get", "blue/web-1", "-o", "json"))
    assert yaml.safe_load(weft("get", "blue/web-1", "-o", "yaml").stdout) == as_json


@pytest.mark.parametrize("kind", ["tenants", "hosts", "ports", "subnets", "domains", "networks", "routes"])
def test_what_get_prints_is_what_apply_reads(weft: Weft, kind: str) -> None:
    listed = weft("get", kind, "-o", "yaml").stdout
    result = weft("apply", "-f", "-", stdin=listed)
    assert (result.exit_code, "nothing to change" in result.stdout) == (0, True) or listed == "[]\n"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["blue/web-1"], ["virtual_subnet:", "host", "h1"]),
        (["host", "h1"], ["uplinks:", "blue/web-1"]),
        (["subnet", "blue/prod/web"], ["vsid: 5001", "blue/web-1", "blue/web-2"]),
        (["tenant", "blue"], ["blue/prod", "blue/prod/web", "blue/web-1"]),
        (["rd", "blue/prod"], ["rdid:", "blue/prod/web", "none"]),
        (["network", "dc"], ["pools:", "h1", "h2"]),
    ],
)
def test_describe_shows_what_hangs_together(weft: Weft, words: list[str], shown: list[str]) -> None:
    result = weft("describe", *words)
    assert result.exit_code == 0, result.stderr
    assert all(each in result.stdout for each in shown), result.stdout


def test_status_counts_ports_by_state(weft: Weft) -> None:
    summary = printed(weft("status", "-o", "json"))
    assert isinstance(summary, dict)
    assert summary["ports"] == {"unknown": 2}
    assert [each["state"] for each in summary["hosts"]] == ["absent", "absent"]
    assert "0/1" in weft("status").stdout


def test_status_says_what_hosts_have_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    drops = {"spoofed_ca": 2, "no_record": 40}
    said = {
        "hosts/h1": {"state": "connected", "applied_revision": 3, "failures": [], "drops": drops},
        "hosts/h2": {"state": "absent", "applied_revision": None, "failures": []},
    }
    hosts = [Item(name=name, kind="host", revision=1, spec={}, status=each) for name, each in said.items()]
    summary = status.summarize({"revision": 3}, hosts, [], "unix:///c")
    assert [host["drops"] for host in summary["hosts"]] == [drops, {}]
    status.show_summary(summary)
    assert "h1 has dropped: no_record 40, spoofed_ca 2" in capsys.readouterr().out


# ---- trace


@pytest.mark.parametrize("more", [[], ["--protocol", "tcp", "--port", "443"], ["--protocol", "udp"]])
def test_a_trace_goes_from_host_to_host_to_its_end(weft: Weft, more: list[str]) -> None:
    result = weft("trace", "--from", "blue/web-1", "--to", "10.0.0.9", *more)
    assert result.exit_code == 0, result.stderr
    assert "delivered" in result.stdout
    assert "h2" in result.stdout


def test_a_packet_that_would_be_lost_ends_with_5_and_its_reason(weft: Weft) -> None:
    result = weft("trace", "--from", "blue/web-1", "--to", "10.0.0.77")
    assert (result.exit_code, "no_record" in result.stdout) == (ExitCode.NOT_DELIVERED, True)


def test_a_trace_of_a_frame(weft: Weft) -> None:
    result = weft("trace", "--from", "blue/web-1", "--frame", "ffffffffffff020000000001888800", "-o", "json")
    assert result.exit_code == ExitCode.NOT_DELIVERED
    assert json.loads(result.stdout)["outcome"]["reason"] == "ethertype"


# ---- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["get", "port", "blue/nobody"], ExitCode.NOT_FOUND, "there is no tenants/blue/ports/nobody"),
        (["get", "nonsense"], ExitCode.REFUSED, "is no name"),
        (["get", "ports", "nonsense=1"], ExitCode.REFUSED, "nonsense"),
        (["get", "ports", "blue/web-1", "host=h1"], ExitCode.USAGE, "nothing to narrow down"),
        (["get", "hosts", "tenant=blue"], ExitCode.USAGE, "cannot be narrowed down"),
        (["get"], ExitCode.USAGE, "Missing argument"),
        (["apply", "-f", "/nonexistent.yaml"], ExitCode.REFUSED, "no such file"),
        (["apply"], ExitCode.USAGE, "--file"),
        (["delete", "port"], ExitCode.USAGE, "which port"),
        (["describe", "a", "b", "c"], ExitCode.USAGE, "takes one object"),
        (["trace", "--from", "blue/web-1"], ExitCode.USAGE, "one of --to and --frame"),
        (["trace", "--from", "blue/web-1", "--frame", "zz"], ExitCode.REFUSED, "'zz' is not a frame in hex"),
        (["trace", "--from", "blue/web-1", "--to", "nowhere"], ExitCode.REFUSED, "'nowhere' is not an IP address"),
        (["status", "--controller", "http://127.0.0.1:1"], ExitCode.UNREACHABLE, "no controller answers"),
        (
            ["port", "move", "blue/web-1", "--finish", "--controller", "http://127.0.0.1:1"],
            ExitCode.UNREACHABLE,
            "weft port move blue/web-1 --finish says that it is not moving if the move has ended",
        ),
        (["status", "--controller", "nonsense"], ExitCode.REFUSED, "is not a controller's URL"),
        (["counters", "--agent", "/nonexistent.sock"], ExitCode.UNREACHABLE, "no agent answers"),
        (["hits", "--agent", "/nonexistent.sock"], ExitCode.UNREACHABLE, "no agent answers"),
        (["denials", "--agent", "/nonexistent.sock"], ExitCode.UNREACHABLE, "no agent answers"),
        (
            ["trace", "--from", "blue/web-1", "--to", "10.0.0.9", "--port", "99"],
            ExitCode.USAGE,
            "--protocol tcp and udp",
        ),
        (["trace", "--from", "blue/nobody", "--to", "10.0.0.9"], ExitCode.NOT_FOUND, "there is no tenants/blue/ports/"),
        (["host", "token", "h1"], ExitCode.REFUSED, "start it with --issuer-certificate and --issuer-key"),
        (["quota", "set", "blue", "cows=1"], ExitCode.REFUSED, "'cows=1' is not a limit such as ports=100; there are "),
        (["port", "move", "blue/web-1", "h2", "--timeout", "-1"], ExitCode.USAGE, "-1.0 is not in the range x>=0"),
        (["token", "create", "--user", "a b", "--role", "admin"], ExitCode.REFUSED, "'a b' is not a user's name"),
        (["frobnicate"], ExitCode.USAGE, "No such command"),
    ],
)
def test_an_error_is_a_sentence_on_stderr_and_an_exit_code(
    weft: Weft, arguments: list[str], code: ExitCode, said: str
) -> None:
    result = weft(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


# ---- the command line itself


def test_help_lists_every_exit_code() -> None:
    shown = CliRunner().invoke(main, ["--help"]).stdout
    assert all(str(int(code)) in shown for code in EXIT_CODES)


def _leaves(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        if (found := command.get_command(context, name)) is not None and not found.hidden:
            yield from _leaves(found, (*words, name))


#: Whose usage line is the example: there is nothing to give them.
PLAIN = {"whoami", "counters", "hits", "denials", "heard", "token list", "token revoke", "quota get", "audit follow"}
PLAIN |= {"audit list", "ca list", "lab down", "lab status"}


def test_every_command_has_an_example_in_its_help_that_its_own_options_take(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("objects.yaml", "all.ndjson"):
        (tmp_path / file).touch()
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "demo.yaml").touch()
    for words, command in _leaves(main, ("weft",)):
        said = " ".join(words)
        with click.Context(command) as context:
            lines = [line.strip(" `") for line in command.get_help(context).splitlines()]
        examples = [re.split(r"\s{2,}| > |`", line)[0] for line in lines if line.startswith(f"{said} ")]
        assert bool(examples) != (said.removeprefix("weft ") in PLAIN), said
        for example in examples:
            arguments = shlex.split(example)[len(words) :]
            assert command.make_context(said, arguments), example


@pytest.mark.parametrize("group", ["port", "conntrack", "store", "ca", "lab"])
def test_a_group_lists_its_commands_with_all_of_what_they_do(group: str) -> None:
    shown = CliRunner().invoke(main, [group, "--help"]).stdout.partition("Commands:")[2]
    commands = main.get_command(click.Context(main), group)
    assert isinstance(commands, click.Group)
    for name, command in commands.commands.items():
        said = " ".join(shown.split())
        assert f"{name} {command.get_short_help_str(1000)}" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_in_help_is_the_commands_own(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    own = (command.help or "").strip().splitlines()[0]
    assert own == COMMANDS[name].summary


def leaves(name: str) -> Iterator[click.Command]:
    """The command, or those of its group."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    yield from command.commands.values() if isinstance(command, click.Group) else [command]


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in {"controller", "agent", "completion", "lab", "port", "store"}]
)
def test_every_command_prints_json(name: str) -> None:
    for command in leaves(name):
        output = next(each for each in command.params if each.name == "output")
        assert isinstance(output.type, click.Choice)
        assert {"table", "json"} <= set(output.type.choices), command.name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0, result.output
    assert "_WEFT_COMPLETE" in result.stdout


def completed(url: str, line: str) -> list[str]:
    """What bash is offered for the last word of the line."""
    environment = {"_WEFT_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    result = CliRunner().invoke(main, prog_name="weft", env={**environment, "WEFT_CONTROLLER": url})
    return [word.removeprefix("plain,") for word in result.stdout.splitlines() if word]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("weft des", ["describe"]),
        ("weft get vir", ["virtual-subnets"]),
        ("weft describe blue/w", ["blue/web-1", "blue/web-2"]),
        ("weft describe blue/prod/w", ["blue/prod/web"]),
        ("weft delete host h", ["h1", "h2"]),
        ("weft trace --from blue/web-2", ["blue/web-2"]),
        ("weft get port red/", []),
    ],
)
@pytest.mark.usefixtures("weft")
def test_a_shell_completes_commands_kinds_and_names(url: str, line: str, offered: list[str]) -> None:
    assert completed(url, line) == offered


def test_completion_says_nothing_where_no_controller_answers() -> None:
    assert completed("http://127.0.0.1:1", "weft describe blue/w") == []


def test_help_imports_no_http_client_no_yaml_and_no_rich() -> None:
    """What makes it answer at once, held by what it imports and not by a clock."""
    program = (
        "import sys, weft.apps.cli; weft.apps.cli.main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not any(f"'{module}'" in done.stdout for module in ("httpx2", "yaml", "rich", "msgspec", "pyroute2"))


def test_the_version_is_the_packages_and_the_newest_of_the_changelog() -> None:
    root = Path(__file__).parents[2]
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert CliRunner().invoke(main, ["--version"]).stdout == f"weft, version {version}\n"
    newest = re.search(r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


# ---- port move


def test_a_move_is_begun_shown_and_taken_back(weft: Weft) -> None:
    begun = weft("port", "move", "blue/web-1", "h2", "--begin", "--no-wait")
    assert begun.stdout == "blue/web-1 is on h1, moving to h2\n"
    assert "h1 -> h2: hosts/h1: is not connected; " in weft("get", "ports").stdout.replace("\n", " ")
    assert weft("port", "move", "blue/web-1", "h2", "--begin", "--no-wait").exit_code == 0, "again is as good"
    assert weft("port", "move", "blue/web-1", "--cancel").stdout == "blue/web-1 is on h1\n"
    assert weft("port", "move", "blue/web-1", "--cancel").exit_code == 0, "again is as good"


def test_a_move_that_the_guest_has_made_is_finished(weft: Weft) -> None:
    weft("port", "move", "blue/web-1", "h2", "--begin", "--no-wait")
    ended = printed(weft("port", "move", "blue/web-1", "--finish", "--no-wait", "-o", "json"))
    assert ended["spec"]["host"] == "hosts/h2"
    assert weft("port", "move", "blue/web-1", "h1", "--no-wait").stdout == "blue/web-1 is on h1\n"


def test_a_move_that_is_not_ready_in_time_is_taken_back_and_says_who_was_waited_for(weft: Weft) -> None:
    result = weft("port", "move", "blue/web-1", "h2", "--timeout", "0.1")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "hosts/h2: is not connected" in result.stderr
    assert "The port is on h1" in result.stderr
    assert "destination" not in weft("get", "blue/web-1", "-o", "yaml").stdout


def test_a_move_that_another_command_has_begun_is_not_taken_back_by_who_waits_for_it_in_vain(weft: Weft) -> None:
    weft("port", "move", "blue/web-1", "h2", "--begin", "--no-wait")
    result = weft("port", "move", "blue/web-1", "h2", "--begin", "--timeout", "0.1")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "The port is on h1, and on its way to h2 as before" in result.stderr
    assert "weft port move blue/web-1 --cancel" in result.stderr
    assert weft("port", "move", "blue/web-1", "--cancel").stdout == "blue/web-1 is on h1\n"


class Contended(Client):
    """Somebody else changes what was read, before it is written."""

    def get(self, name: str) -> Item:
        item = super().get(name)
        if self.left:
            self.left -= 1
            super().patch(name, {"qos": {"from_guest": {"rate_packets_per_s": 1000 + self.left}}})
        return item

    left = 0


def test_a_step_of_a_move_is_taken_also_where_the_port_is_changed_meanwhile(weft: Weft, url: str) -> None:
    name = "tenants/blue/ports/web-1"
    with Contended(url) as client:
        client.left = 2
        assert moves.begun(client, name, "hosts/h2")[1]
        assert not moves.begun(client, name, "hosts/h2")[1]
        client.left = 2
        assert moves.finish(client, name).spec["host"] == "hosts/h2"
        client.left = 1
        moves.begin(client, name, "hosts/h1")
        client.left = 1
        assert "destination" not in moves.cancel(client, name).spec
        client.patch(name, {"qos": None})
    assert weft("port", "move", "blue/web-1", "h1", "--no-wait").stdout == "blue/web-1 is on h1\n"


def test_a_step_of_a_move_is_not_anothers_that_goes_elsewhere(weft: Weft, url: str) -> None:
    name = "tenants/blue/ports/web-1"
    with Client(url) as client:
        moves.begin(client, name, "hosts/h2")
        for step in (moves.await_ready, moves.finish):
            with pytest.raises(Conflict, match="is moving to hosts/h2 now, and not to hosts/h3"):
                step(client, name, to="hosts/h3")
        assert moves.cancel(client, name, to="hosts/h3").spec["destination"] == "hosts/h2"
        assert "destination" not in moves.cancel(client, name, to="hosts/h2").spec


class Unanswered(Client):
    """What is written is done, and the answer is that nobody knows."""

    def patch(self, name: str, spec: Mapping[str, Any], *, if_match: int | None = None) -> Item:
        super().patch(name, spec, if_match=if_match)
        raise ApiError(504, "Gateway Timeout", "not known whether it was written")


def test_a_step_of_a_move_that_is_not_answered_says_what_may_be_and_what_to_do(weft: Weft, url: str) -> None:
    name = "tenants/blue/ports/web-1"
    with Unanswered(url) as client:
        with pytest.raises(Failed, match="may be on its way to h2, or not") as begun:
            port._begun(client, name, "hosts/h2")
        assert "weft port move blue/web-1 --cancel takes it back" in str(begun.value)
        with pytest.raises(Failed, match="Both hosts hold the port until then") as ended:
            port._finish(client, name, "hosts/h2")
    assert begun.value.exit_code == ended.value.exit_code == ExitCode.UNREACHABLE
    assert weft("port", "move", "blue/web-1", "h1", "--no-wait").stdout == "blue/web-1 is on h1\n"


def test_a_move_whose_port_is_taken_off_its_host_meanwhile_says_why_it_ended(weft: Weft, url: str) -> None:
    name = "tenants/blue/ports/web-1"

    def take_off() -> None:
        with Client(url) as client:
            eventually(lambda: client.get(name).spec.get("destination") == "hosts/h2", "the move has begun")
            client.patch(name, {"host": None, "destination": None})

    with ThreadPoolExecutor(1) as others:
        taken_off = others.submit(take_off)
        result = weft("port", "move", "blue/web-1", "h2", "--timeout", "20")
        taken_off.result()
    assert (result.exit_code, result.exception.__class__) == (ExitCode.REFUSED, SystemExit)
    assert "is not moving any more: somebody else has ended its move" in result.stderr
    assert "The port is on no host" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "saying"),
    [
        (("blue/web-1",), ExitCode.USAGE, "to which host"),
        (("blue/web-1", "h2", "--finish"), ExitCode.USAGE, "needs no host"),
        (("blue/web-1", "h1"), ExitCode.REFUSED, "is on hosts/h1 already"),
        (("blue/web-1", "h9"), ExitCode.NOT_FOUND, "there is no hosts/h9"),
        (("blue/web-9", "h2"), ExitCode.NOT_FOUND, "there is no tenants/blue/ports/web-9"),
        (("blue/web-1", "--finish"), ExitCode.REFUSED, "is not moving: it is on hosts/h1"),
    ],
)
def test_a_move_that_cannot_be_says_why(weft: Weft, words: tuple[str, ...], code: ExitCode, saying: str) -> None:
    result = weft("port", "move", *words)
    assert (result.exit_code, saying in result.stderr) == (code, True), result.stderr


def test_a_port_that_is_nowhere_or_moving_elsewhere_is_not_moved(weft: Weft) -> None:
    weft("apply", "-f", "-", stdin="{name: tenants/blue/ports/idle, spec: {virtual_subnet: prod/web}}")
    assert "is on no host" in weft("port", "move", "blue/idle", "h2").stderr
    weft("apply", "--delete", "-f", "-", stdin="{name: tenants/blue/ports/idle}")
    weft("port", "move", "blue/web-1", "h2", "--begin", "--no-wait")
    weft("apply", "-f", "-", stdin="{name: hosts/h3, spec: {uplinks: [{interface: eth0, provider_network: dc}]}}")
    assert "is moving to hosts/h2: finish or cancel that first" in weft("port", "move", "blue/web-1", "h3").stderr
    weft("port", "move", "blue/web-1", "--cancel")
    weft("apply", "--delete", "-f", "-", stdin="{name: hosts/h3}")

"""A lab goes up whole or not at all, beside others, and goes down without a trace, whatever was done to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.scenes import address
from polling import PATIENCE_S, eventually
from weft.lab import plan, processes, shell
from weft.lab.lab import Lab, Paths

TINY = Path(__file__).parent / "tiny.yaml"


def weft(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=90)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "weft.apps.cli", *arguments]


def traces(name: str) -> list[str]:
    paths = Paths.of(name)
    return [
        *shell.namespaces(plan.prefix(name)),
        *(str(path) for path in (paths.directory, paths.pins) if path.exists()),
        *(str(each) for each in processes.find(paths.directory)),
    ]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a lab that is the test's own, and is gone after it."""
    chosen = f"tiny-{os.getpid()}-{abs(hash(request.node.name)) % 10_000}"
    yield chosen
    Lab.down(chosen)


def test_two_labs_are_up_side_by_side_and_one_goes_down_without_the_other(lab: Lab, name: str) -> None:
    with_another = Lab.up(TINY, name=name)
    assert (
        "1 received"
        in with_another.exec("t/a", "ping", "-c", "1", "-W", "2", address(with_another.guest("t/b"))).stdout
    )
    assert Lab.down(name)
    assert traces(name) == []
    done = lab.exec("blue/web-1", "ping", "-c", "1", "-W", "2", address(lab.guest("blue/web-2")))
    assert "1 received" in done.stdout


def test_up_status_exec_and_down_by_the_command_line(name: str) -> None:
    up = weft("lab", "up", str(TINY), "--name", name, "-o", "json")
    assert up.returncode == 0, up.stderr
    facts = json.loads(up.stdout)
    assert [each["host"] for each in facts["hosts"]] == ["h1", "h2"]
    assert set(facts["processes"]) == {"controller", "agent:h1", "agent:h2"}
    listed = json.loads(weft("lab", "status", name, "-o", "json").stdout)
    assert listed["labs"] == [facts]
    assert name in weft("lab", "status", name).stdout
    to = facts["guests"][1]["addresses"][0].split("/")[0]
    assert weft("lab", "exec", name, "t/a", "--", "ping", "-c", "1", "-W", "2", to).returncode == 0
    assert weft("lab", "exec", name, "t/a", "--", "sh", "-c", "exit 7").returncode == 7
    assert "eth0" in weft("lab", "exec", name, "h1", "ip", "-br", "link").stdout
    missing = weft("lab", "exec", name, "t/nobody", "--", "true")
    assert (missing.returncode, "it has t/a, t/b" in missing.stderr) == (4, True)
    again = weft("lab", "up", str(TINY), "--name", name)
    assert (again.returncode, "is there already" in again.stderr) == (1, True)
    assert json.loads(weft("lab", "down", name, "-o", "json").stdout) == {"down": [name]}
    assert traces(name) == []
    twice = weft("lab", "down", name)
    assert (twice.returncode, twice.stdout) == (0, "nothing was there\n")


def test_what_a_user_started_in_the_lab_goes_with_it(name: str) -> None:
    Lab.up(TINY, name=name)
    with subprocess.Popen(command("lab", "exec", name, "t/a", "--", "sleep", "1000")) as sleeper:
        eventually(lambda: any(each.name == "" for each in processes.find(Paths.of(name).directory)))
        Lab.down(name)
        sleeper.wait(PATIENCE_S)
    assert traces(name) == []


MOMENTS: dict[str, Callable[[str], bool]] = {
    "when its directory is there": lambda name: Paths.of(name).directory.exists(),
    "when a process is there": lambda name: bool(processes.find(Paths.of(name).directory)),
    "when a namespace is there": lambda name: bool(shell.namespaces(plan.prefix(name))),
    "when an agent is there": lambda name: any(
        "agent" in each.name for each in processes.find(Paths.of(name).directory)
    ),
    "when a guest is there": lambda name: any("guest" in each for each in shell.namespaces(plan.prefix(name))),
    "when a pin is there": lambda name: Paths.of(name).pins.exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_down_takes_away_what_a_killed_up_left(name: str, moment: str) -> None:
    with subprocess.Popen(
        command("lab", "up", str(TINY), "--name", name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as up:
        eventually(lambda: MOMENTS[moment](name) or up.poll() is not None, every_s=0.002)
        up.kill()
    done = weft("lab", "down", name)
    assert done.returncode == 0, done.stderr
    assert traces(name) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lab: x", "hosts: a lab has at least one host"),
        ("lab: x\nhosts: {h1: {subnet: nonsense}}", "hosts.h1.subnet"),
        ("lab: x\nhosts: [h1]\nobjects: [{name: tenants/T}]", "tenants/T"),
        ("lab: x\nhosts: [h1]\nobjects: [{name: tenants/t, spec: {nope: 1}}]", "spec.nope"),
        ("lab: x\nhosts: [h1]\nguests: {t/a: {}}", "guests.tenants/t/ports/a"),
        ("lab: x\nhosts: [h1\n", "not YAML"),
        ("lab: x\nhosts: [h1]\ninclude: [nosuch.yaml]", "nosuch.yaml"),
    ],
)
def test_a_lab_that_cannot_be_built_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    done = weft("lab", "up", str(file), "--name", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert traces(name) == []


def test_a_lab_that_is_not_up_is_told_of_by_exit_code_4() -> None:
    done = weft("lab", "status", "no-such-lab")
    assert (done.returncode, "no lab no-such-lab" in done.stderr) == (4, True)

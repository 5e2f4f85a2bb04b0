"""A lab's processes are found and ended by their mark, and nobody else's are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polling import eventually
from weft.lab import processes
from weft.lab.processes import Found

PATIENT = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(15, signal.SIG_IGN); {PATIENT}"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end(tmp_path, (each.pid for each in processes.find(tmp_path)), grace_s=0)


def start(lab: Path, name: str, program: str = PATIENT) -> int:
    log = lab / f"{name}.log"
    pid = processes.start([sys.executable, "-c", program], name, lab, log)
    eventually(lambda: log.exists() and "up" in log.read_text(), "the process is up")
    return pid


def test_a_process_is_found_by_its_mark_and_name(lab: Path) -> None:
    pid = start(lab, "controller")
    assert processes.find(lab) == [Found(pid, "controller")]


def test_the_processes_of_another_lab_are_not_found(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    start(lab, "agent:h1")
    assert processes.find(tmp_path_factory.mktemp("other")) == []


def test_it_lives_in_a_session_of_its_own(lab: Path) -> None:
    pid = start(lab, "agent:h1")
    assert os.getsid(pid) == pid


def test_end_ends_all_also_those_that_ignore_sigterm(lab: Path) -> None:
    pids = [start(lab, "one"), start(lab, "two", STUBBORN)]
    processes.end(lab, pids, grace_s=0.05)
    assert processes.find(lab) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(lab: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PATIENT], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout
        stranger.stdout.readline()
        processes.end(lab, [stranger.pid], grace_s=0.05)
        assert stranger.poll() is None
        with pytest.raises(ProcessLookupError):
            processes.signal_one(lab, stranger.pid, signal.SIGKILL)
        stranger.kill()


def test_ending_what_is_gone_is_no_fault(lab: Path) -> None:
    pid = start(lab, "one")
    processes.signal_one(lab, pid, signal.SIGKILL)
    processes.end(lab, [pid])
    assert processes.find(lab) == []


def test_whoever_asks_is_not_found_though_marked(lab: Path) -> None:
    """`weft lab exec` marks a shell; `weft lab down` typed in it must not end itself."""
    asking = (
        "from weft.lab import processes; from pathlib import Path; import sys; print(processes.find(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asking, str(lab)],
        capture_output=True,
        text=True,
        check=True,
        env={**processes.environment(lab, "shell"), "PYTHONPATH": "src"},
    )
    assert done.stdout == "[]\n"


def test_a_process_is_found_at_every_moment_of_its_start(lab: Path) -> None:
    """It is marked before, while and after it becomes another program by execve, twice."""
    for number in range(20):
        command = ["nice", "sh", "-c", "exec sleep 30"]
        pid = processes.start(command, f"p{number}", lab, lab / "log")
        for _ in range(5):
            assert Found(pid, f"p{number}") in processes.find(lab)
        processes.end(lab, [pid])

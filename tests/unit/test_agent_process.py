"""The agent as a process: it starts with no controller, ends when it is told to, and survives being killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polling import PATIENCE_S
from unit.certificates import authority, files_of
from weft.tls import files
from weft.tls.identity import Identity, Role


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("agent", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


class Process:
    """One agent with the reference data plane, over directories that outlive it."""

    def __init__(self, directory: Path, host: str = "hosts/h1", plane: str = "", **environment: str) -> None:
        """plane: what makes the data plane, in Python, in place of the reference."""
        self.directory = directory
        script = textwrap.dedent(f"""
            import sys
            sys.path[:0] = {sys.path!r}
            from pathlib import Path
            from weft.apps.agent import serve
            from weft.kit.errors import Rejected
            from weft.reference.plane import ReferenceDataPlane
            here = Path({str(directory)!r})
            try:
                serve({host!r}, f"unix://{{here}}/controller.sock", here / "state", here / "run",
                      lambda: {plane or f"ReferenceDataPlane({host!r})"})
            except Rejected as refusal:
                sys.exit(f"refused: {{refusal}}")
        """)
        self._popen = subprocess.Popen(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )  # fmt: skip

    def wait(self) -> tuple[int, str]:
        _, said = self._popen.communicate(timeout=PATIENCE_S)
        return self._popen.returncode, said.decode()

    def end(self, number: signal.Signals) -> int:
        self._popen.send_signal(number)
        code, said = self.wait()
        assert "Traceback" not in said, said
        return code

    def kill(self) -> None:
        if self._popen.returncode is None:
            self.end(signal.SIGKILL)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        """Tries until the agent listens."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.closing(_Connection(self.directory / "run" / "agent.sock")) as connection:
                try:
                    connection.request(method, path, None if body is None else json.dumps(body))
                except OSError:
                    assert time.monotonic() < deadline, "the agent does not listen"
                    assert self._popen.poll() is None, self.wait()
                    time.sleep(0.01)  # between two looks, not for anything to happen
                    continue
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("p")


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()


def test_an_agent_ends_when_told_and_starts_again_after_a_kill(directory: Path, processes: list[Process]) -> None:
    processes.append(first := Process(directory))
    status, said = first.ask("GET", "/status")
    assert status == 200
    assert said["revision"] is None
    processes.append(second := Process(directory))
    code, refusal = second.wait()
    assert code == 1
    assert "is in use by the agent of hosts/h1, process" in refusal
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert (directory / "run" / "agent.sock").exists()
    processes.append(third := Process(directory))
    assert third.ask("GET", "/healthz")[0] == 200
    assert third.end(signal.SIGTERM) == 0
    assert not (directory / "run" / "agent.sock").exists()


def test_a_state_directory_is_one_hosts_for_good(directory: Path, processes: list[Process]) -> None:
    """What another host's agent was told, and its certificate, are nobody else's to use."""
    processes.append(first := Process(directory))
    assert first.ask("GET", "/healthz")[0] == 200
    assert first.end(signal.SIGTERM) == 0
    processes.append(second := Process(directory, "hosts/h2"))
    code, refusal = second.wait()
    assert code == 1
    mine = f"{directory}/state"
    assert f"{mine} is that of hosts/h1, not of hosts/h2, as {mine}/owner says: give hosts/h2 a --state directory" in (
        refusal
    )
    processes.append(third := Process(directory))
    assert third.ask("GET", "/healthz")[0] == 200


def test_a_start_that_comes_to_nothing_makes_no_directory_a_hosts(directory: Path, processes: list[Process]) -> None:
    """Such as that of a host's name mistyped: the right one starts after it."""
    processes.append(mistyped := Process(directory, "hosts/h2", plane='sys.exit("no data plane")'))
    assert mistyped.wait() == (1, "no data plane\n")
    processes.append(right := Process(directory))
    assert right.ask("GET", "/healthz")[0] == 200


def test_what_a_lock_said_before_tells_nothing_of_whose_a_directory_is(
    directory: Path, processes: list[Process]
) -> None:
    """Releases before wrote there whoever was started last, whatever became of it."""
    (directory / "state").mkdir()
    (directory / "state" / "lock").write_text("the agent of hosts/h2, process 4711\n")
    processes.append(right := Process(directory))
    assert right.ask("GET", "/healthz")[0] == 200


def test_a_certificate_tells_whose_a_directory_is(tmp_path: Path, directory: Path, processes: list[Process]) -> None:
    issued = files_of(authority(tmp_path), Identity(Role.HOST, "h1")).certificate
    assert issued is not None
    files.write(directory / "state" / "tls" / "host.pem", issued.read_bytes(), secret=True)
    processes.append(second := Process(directory, "hosts/h2"))
    code, refusal = second.wait()
    assert code == 1
    assert f"that of hosts/h1, not of hosts/h2, as {directory}/state/tls/host.pem says" in refusal
    processes.append(first := Process(directory))
    assert first.ask("GET", "/healthz")[0] == 200
    assert (directory / "state" / "owner").read_text() == "hosts/h1\n"


def test_an_agent_logs_lines_of_json_where_no_terminal_is(directory: Path, processes: list[Process]) -> None:
    processes.append(process := Process(directory))
    assert process.ask("GET", "/healthz")[0] == 200
    process._popen.send_signal(signal.SIGTERM)
    code, said = process.wait()
    assert code == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert {line["logger"] for line in lines} == {"weft.agent"}
    assert lines[-1]["event"] == "stopped; what is programmed stays"


def test_a_level_of_logs_that_is_none_is_refused(directory: Path, processes: list[Process]) -> None:
    processes.append(process := Process(directory, WEFT_LOG="loud"))
    assert process.wait() == (
        1, "refused: 'loud' is no level of logs; NOTSET, DEBUG, INFO, WARN, WARNING, ERROR, CRITICAL, FATAL are\n"
    )  # fmt: skip


@pytest.mark.parametrize("level", [*logging.getLevelNamesMapping(), "warn", "Info"])
def test_every_level_that_python_has_is_one_of_logs(level: str) -> None:
    script = "import logging; from weft.apps import logs; logs.configure(); print(logging.getLogger().level)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "WEFT_LOG": level},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{logging.getLevelNamesMapping()[level.upper()]}\n", "")

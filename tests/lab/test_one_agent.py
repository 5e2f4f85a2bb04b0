"""A network namespace has one agent, whatever hosts they are the agents of."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SECOND = """
import os
from weft.agent.process import alone
from weft.kit.errors import Conflict

with alone():
    for _ in range(200):
        try:
            with alone():
                print("both")
        except Conflict as refusal:
            print(str(refusal).replace(f"process {os.getpid()} ", "this process "))
with alone():
    print("again")
"""

TRY = """
from weft.agent.process import alone
from weft.kit.errors import Conflict

try:
    with alone():
        print("both")
except Conflict as refusal:
    print(refusal)
"""

OF_ANOTHER_PID_NAMESPACE = f"""
import subprocess, sys
from weft.agent.process import alone

with alone():
    subprocess.run(["unshare", "--pid", "--fork", sys.executable, "-c", {TRY!r}], check=True)
"""

# The name is taken a moment before anybody answers by it.
AT_THE_SAME_MOMENT = """
import socket, threading
from weft.agent.process import alone
from weft.kit.errors import Conflict

class Slow(socket.socket):
    def listen(self, *backlog):
        bound.set()
        threading.Event().wait(0.2)
        super().listen(*backlog)

bound, done, plain = threading.Event(), threading.Event(), socket.socket

def first():
    with alone():
        done.wait()

socket.socket = Slow
other = threading.Thread(target=first)
other.start()
bound.wait()
socket.socket = plain
try:
    with alone():
        print("both")
except Conflict:
    print("refused")
done.set()
other.join()
"""

ANOTHER_USERS = """
import os, socket
from weft.agent.process import alone

taken, ready = socket.socket(socket.AF_UNIX), os.pipe()
if os.fork() == 0:
    os.setuid(65534)
    taken.bind("\\0weft-agent")
    taken.listen(BACKLOG)
    os.write(ready[1], b".")
    os.read(0, 1)
    os._exit(0)
os.read(ready[0], 1)
for _ in range(3):
    with alone():
        print("not kept from it")
"""


def _said(script: str) -> list[str]:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", script], capture_output=True, text=True, check=True, input="",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_a_second_agent_of_a_network_namespace_is_refused_while_the_first_is_there() -> None:
    """However often it tries: systemd starts it again every second."""
    *refusals, after = _said(SECOND)
    assert len(refusals) == 200
    (refusal,) = set(refusals)
    assert refusal.startswith("this process is an agent in this network namespace already; a host has one agent")
    assert after == "again"


def test_an_agent_of_another_pid_namespace_is_said_to_be_of_another() -> None:
    (refusal,) = _said(OF_ANOTHER_PID_NAMESPACE)
    assert refusal.startswith("a process of another PID namespace, such as a container's, is an agent in this network")


def test_of_two_agents_that_start_at_the_same_moment_one_is_refused() -> None:
    assert _said(AT_THE_SAME_MOMENT) == ["refused"]


@pytest.mark.parametrize("backlog", ["1", "128"])
def test_another_user_does_not_keep_an_agent_from_its_namespace(backlog: str) -> None:
    """Nor one who never answers those who ask."""
    assert _said(ANOTHER_USERS.replace("BACKLOG", backlog)) == ["not kept from it"] * 3

"""A network namespace has one agent, whatever hosts they are the agents of."""

from __future__ import annotations

import os
import subprocess
import sys

SECOND = """
import os
from weft.agent.process import alone
from weft.kit.errors import Conflict

with alone():
    try:
        with alone():
            print("both")
    except Conflict as refusal:
        print(str(refusal).replace(f"process {os.getpid()} ", "this process "))
with alone():
    print("again")
"""

ANOTHER_USERS = """
import os, socket
from weft.agent.process import alone

taken, ready = socket.socket(socket.AF_UNIX), os.pipe()
if os.fork() == 0:
    os.setuid(65534)
    taken.bind("\\0weft-agent")
    taken.listen(1)
    os.write(ready[1], b".")
    os.read(0, 1)
    os._exit(0)
os.read(ready[0], 1)
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
    refusal, after = _said(SECOND)
    assert refusal.startswith("this process is an agent in this network namespace already; a host has one agent")
    assert after == "again"


def test_another_user_does_not_keep_an_agent_from_its_namespace() -> None:
    assert _said(ANOTHER_USERS) == ["not kept from it"]

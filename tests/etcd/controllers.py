"""Controllers as processes over one etcd: started, killed, paused and stopped by pid."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.free_ports import free_ports

from etcd_nodes import Cluster
from polling import eventually
from weft.tls.contexts import Files

OPEN = (
    "import sys; from weft.apps.controller import Security, run;"
    " run(sys.argv[1], sys.argv[2:], Security(insecure=True))"
)
RUN = "import sys; from weft.apps.controller import run; run(sys.argv[1], sys.argv[2:])"


@dataclass
class Controller:
    store: str
    listen: tuple[str, ...]
    log: Path
    wrapper: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    secured: Files | None = None
    #: Of another release, to run instead of this one's.
    sources: Path | None = None
    #: It lets in whoever reaches it, in a network of the test's own.
    insecure: bool = False

    @property
    def words(self) -> Sequence[str]:
        if self.secured is None:
            return ("-c", OPEN if self.insecure else RUN, self.store, *self.listen)
        files = self.secured
        return (
            "-m", "weft.apps.cli", "controller", "--store", self.store, "--listen", self.listen[0],
            "--certificate", str(files.certificate), "--key", str(files.key), "--ca", str(files.ca),
        )  # fmt: skip

    @property
    def url(self) -> str:
        return self.listen[0]

    def start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, sys.executable, *self.words],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(self.sources or os.pathsep.join(sys.path))},
            )

    def answers(self) -> bool:
        """By its log: it listens before it says so. AssertionError: it has ended, and what it said."""
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        return self.log.read_text().count('"event": "started"') == self.starts

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def etcd_url(nodes: Cluster, prefix: str | None = None) -> str:
    return (
        "etcd://"
        + ",".join(each.removeprefix("http://") for each in nodes.endpoints)
        + (prefix or nodes.fresh_prefix())
    )


@contextlib.contextmanager
def controllers(
    store: str, directory: Path, count: int = 2, secured: Files | None = None
) -> Iterator[list[Controller]]:
    """secured: they serve https, by these files."""
    ports = free_ports(count)
    made = [
        Controller(
            store,
            (f"{'https' if secured else 'http'}://127.0.0.1:{number}",),
            directory / f"{n}.log",
            secured=secured,
        )
        for n, number in enumerate(ports)
    ]
    try:
        for each in made:
            each.start()
        for each in made:
            eventually(each.answers, f"{each.url} answers")
        yield made
    finally:
        for each in made:
            each.stop()

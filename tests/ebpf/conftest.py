"""Fixtures of the eBPF tests: the programs compiled once a run, namespaces, a place to pin things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpf.harness import Harness, Netns, emptied, harness, netns, pin_directory
from weft.dataplane.ebpf import build, layout, libbpf


@pytest.fixture(scope="session")
def weft_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.compile_programs(tmp_path_factory.mktemp("object") / "weft.bpf.o")


@pytest.fixture(name="netns")
def _netns() -> Iterator[Callable[[], Netns]]:
    """Makes network namespaces; they go with the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(netns())


@pytest.fixture(scope="session")
def _pins() -> Iterator[Path]:
    with pin_directory() as directory:
        yield directory


@pytest.fixture
def pins(_pins: Path, weft_object: Path) -> Iterator[Path]:
    """A place to pin one data plane of size SMALL; it may hold its programs already, and nothing in its maps."""
    with emptied(_pins, weft_object) as directory:
        yield directory


@pytest.fixture(scope="module")
def programs(weft_object: Path) -> Iterator[Harness]:
    """One data plane for a module's test runs. A test tells it all that it relies on, and prunes."""
    with harness(weft_object) as made:
        yield made


@pytest.fixture
def under_way(tmp_path: Path) -> Iterator[Callable[[], Callable[[], bool]]]:
    """Begins a run of a program, of some tenths of a second, on a thread of its own; what it returns says whether that
    has ended.
    """
    with libbpf.Object(build.compile_programs(tmp_path / "o", Path(__file__).with_name("waiting.bpf.c"))) as opened:
        of, programs = opened.load()
    said, key = of["said"], layout.NUMBER.pack(0)
    before, ended = layout.NUMBER.pack(0), layout.NUMBER.pack(2)
    with ThreadPoolExecutor(1) as thread:

        def begin() -> Callable[[], bool]:
            thread.submit(bool).result()  # the one before it has let go
            said.update(key, before)
            running = thread.submit(libbpf.TestRun(programs["run"]), bytes(64), 1)
            while said.lookup(key) == before:
                assert not running.done(), running.result()
            return lambda: said.lookup(key) == ended

        yield begin
    libbpf.close_all(of, programs)

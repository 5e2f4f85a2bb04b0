"""The eBPF data plane keeps the DataPlane contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.dataplane_suite import DataPlaneSuite
from ebpf.harness import SMALL, Netns, emptied, netns, pin_directory
from weft.contracts.dataplane import DataPlane
from weft.dataplane.ebpf import build
from weft.dataplane.ebpf.attach import Attacher, Tcx
from weft.dataplane.ebpf.clsact import Clsact
from weft.dataplane.ebpf.plane import EbpfDataPlane

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.compile_programs(tmp_path_factory.mktemp("object") / "weft.bpf.o")


@pytest.fixture(scope="module")
def site(source: Path) -> Iterator[tuple[Netns, Path]]:
    """A host's namespace with the suite's interfaces, and where its data plane is pinned."""
    with netns("h1-") as there, pin_directory() as pins:
        for name in (DataPlaneSuite.port_interface, DataPlaneSuite.other_interface, DataPlaneSuite.uplink):
            there.veth(name, f"{name}p")
        yield there, pins


class _OnLinux(DataPlaneSuite):
    def attacher(self) -> Attacher:
        raise NotImplementedError

    @pytest.fixture
    def plane(self, site: tuple[Netns, Path], source: Path) -> Iterator[DataPlane]:
        there, pins = site
        with there.enter(), emptied(pins, source, self.attacher()):
            made = EbpfDataPlane(pins, SMALL, source=source, attacher=self.attacher())
            try:
                yield made
            finally:
                made.close()


class TestTcx(_OnLinux):
    def attacher(self) -> Attacher:
        return Tcx()


class TestClsact(_OnLinux):
    def attacher(self) -> Attacher:
        return Clsact("h1")

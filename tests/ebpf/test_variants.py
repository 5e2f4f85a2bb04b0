"""Every variant of the programs is one that the verifier takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from weft.dataplane.ebpf import libbpf, maps
from weft.dataplane.ebpf.btf import Btf

pytestmark = pytest.mark.root


@pytest.mark.parametrize("decap_l3", [0, 1])  # of kernels before 6.3, and since
def test_the_programs_load_for_kernels_with_and_without_decap_l3(weft_object: Path, decap_l3: int) -> None:
    with libbpf.Object(weft_object) as opened:
        place = Btf(opened.btf()).constant("weft_decap_l3")
        assert place is not None
        opened.write_constants(place[0], decap_l3.to_bytes(place[1], sys.byteorder))
        loaded, programs = opened.load()
    try:
        assert set(programs) == set(maps.PROGRAMS)
    finally:
        libbpf.close_all(loaded, programs)

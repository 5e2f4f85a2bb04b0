"""The programs' token buckets against the reference's, at the same times."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.dataplane.ebpf import build, layout, libbpf
from weft.policy.rows import Limit, Qos
from weft.reference.qos import Bucket

ASKED = struct.Struct("=14xQII")
SOURCE = Path(__file__).with_name("bucket.bpf.c")

#: As the model lets through: model/qos.py.
limits = st.builds(
    Limit,
    st.none() | st.integers(8_000, 10**12),
    st.integers(1514, 1 << 28),
    st.none() | st.integers(1, 10**9),
    st.integers(1, 1 << 20),
)
times_ns = st.integers(0, 2_000) | st.integers(0, 10**8) | st.integers(0, 2**62)
sizes = st.integers(14, 1514) | st.integers(14, 1 << 32).map(lambda size: min(size, 2**32 - 1))


class Asking:
    """The compiled bucket, with one limit and one state."""

    def __init__(self, source: Path) -> None:
        with libbpf.Object(source) as opened:
            self.maps, programs = opened.load()
        self._run = libbpf.TestRun(programs["ask"])

    def begin(self, limit: Limit) -> None:
        self.maps["qos"].update(layout.Seat(0).key, layout.qos(Qos(from_guest=limit)))
        self.maps["buckets"].update(layout.BUCKET_KEY.pack(0, 0), bytes(layout.BUCKET.size))

    def take(self, now_ns: int, frame_bytes: int) -> bool:
        answer = self._run(ASKED.pack(now_ns, frame_bytes, 1), 1).retval
        assert answer in (0, 1)
        return answer == 1


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    made = Asking(build.compile_programs(tmp_path_factory.mktemp("bucket") / "bucket.bpf.o", SOURCE))
    yield made
    libbpf.close_all(made.maps, {})


@pytest.mark.root
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(limit=limits, changed=limits, asked=st.lists(st.tuples(times_ns, sizes), max_size=40), late=st.integers(0, 40))
def test_a_bucket_lets_the_same_packets_pass_as_the_references(
    asking: Asking, limit: Limit, changed: Limit, asked: list[tuple[int, int]], late: int
) -> None:
    """Also when the limit changes under way, and when clocks go back, as those of two CPUs seem to."""
    asking.begin(limit)
    bucket = Bucket()
    for rank, (now_ns, frame_bytes) in enumerate(asked):
        if rank == late:
            limit = changed
            asking.maps["qos"].update(layout.Seat(0).key, layout.qos(Qos(from_guest=limit)))
        assert asking.take(now_ns, frame_bytes) == bucket.take(limit, now_ns, frame_bytes), (rank, now_ns)


@pytest.mark.root
@pytest.mark.parametrize("bits", [64_000, 10**6, 10**9 + 7, 400 * 10**9])
def test_over_time_exactly_the_rate_passes(asking: Asking, bits: int) -> None:
    """Offered twice the rate: what has passed is the rate, the burst, and at most a packet that left a debt."""
    limit = Limit(bits, 2000)
    asking.begin(limit)
    frame_bytes, offered = 1000, 4000
    interval_ns = frame_bytes * 8 * 10**9 // (2 * bits)
    passed = sum(asking.take(1 + number * interval_ns, frame_bytes) for number in range(offered)) * frame_bytes
    rate = (offered - 1) * interval_ns * bits / 8 / 10**9
    assert rate <= passed <= rate + limit.burst_bytes + frame_bytes

"""The kernel's BPF as the typed module gives it: batches, and errors that say what to do."""

from __future__ import annotations

import errno
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf.harness import SMALL
from weft.dataplane.ebpf import bpffs, libbpf, maps
from weft.kit.errors import Rejected

pytestmark = pytest.mark.root

STUB = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8);
    __type(key, __u32);
    __type(value, __u64);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} numbers SEC(".maps");
SEC("tc") int stub(struct __sk_buff *skb) { BODY }
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


def compiled(directory: Path, body: str) -> Path:
    source, target = directory / "stub.bpf.c", directory / "stub.bpf.o"
    source.write_text(STUB.replace("BODY", body))
    headers = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or 'x86_64-linux-gnu'}"
    words = ["clang", "-target", "bpf", "-O2", "-g", headers, "-c", str(source), "-o", str(target)]
    subprocess.run(words, check=True)
    return target


@pytest.fixture(scope="module")
def loaded(weft_object: Path) -> Iterator[maps.Loaded]:
    made = maps.load(weft_object, SMALL, None)
    yield made
    made.close()


@pytest.fixture
def records(loaded: maps.Loaded) -> Iterator[libbpf.Map]:
    of = loaded.maps["records"]
    yield of
    for key, _ in list(of.items()):
        of.delete(key)


def numbered(of: libbpf.Map, numbers: range) -> tuple[bytes, bytes]:
    keys = b"".join(n.to_bytes(of.key_bytes, "big") for n in numbers)
    return keys, b"".join(n.to_bytes(of.value_bytes, "big") for n in numbers)


def test_an_object_can_be_loaded_without_pinning_anything(loaded: maps.Loaded) -> None:
    assert set(maps.PROGRAMS) <= loaded.programs.keys()
    assert loaded.maps["records"].max_entries == SMALL.by_map["records"]


def test_a_batch_stops_where_the_map_is_full_and_says_how_far_it_came(records: libbpf.Map) -> None:
    room = records.max_entries
    assert records.update_batch(*numbered(records, range(room + 9)), room + 9) == libbpf.BatchResult(room, errno.E2BIG)
    assert len(dict(records.items())) == room


def test_a_batch_of_deletes_stops_at_the_first_that_is_absent(records: libbpf.Map) -> None:
    assert records.update_batch(*numbered(records, range(10)), 10) == libbpf.BatchResult(10, 0)
    keys, _ = numbered(records, range(5, 15))
    assert records.delete_batch(keys, 10) == libbpf.BatchResult(5, errno.ENOENT)
    assert len(dict(records.items())) == 5


@pytest.mark.parametrize("count", [1, 7, 1000])
@pytest.mark.parametrize("name", ["records", "routes", "counter_slots"])
def test_a_dump_in_chunks_is_the_dump_one_by_one(loaded: maps.Loaded, name: str, count: int) -> None:
    of = loaded.maps[name]
    for number in range(1, 61):
        # In a trie the key begins with a length in bits.
        head = (8 * (of.key_bytes - 4)).to_bytes(4, "little") if of.type == libbpf.MapType.LPM_TRIE else b""
        of.update(head + number.to_bytes(of.key_bytes - len(head), "big"), bytes(of.value_bytes))
    single = [(key, value) for key, value, _ in of._one_by_one()]
    chunked = []
    for keys, values, some in of.chunks(count):
        assert (len(keys), len(values)) == (some * of.key_bytes, some * of.value_bytes)
        chunked += [keys[at * of.key_bytes :][: of.key_bytes] for at in range(some)]
    assert len(single) == 60
    assert sorted(chunked) == sorted(key for key, _ in single)
    for key, _ in single:
        assert of.delete(key)


def test_bytes_of_the_wrong_length_never_reach_the_kernel(records: libbpf.Map) -> None:
    with pytest.raises(ValueError, match="3 bytes where the map has 20"):
        records.lookup(b"abc")
    with pytest.raises(ValueError, match="where the map has"):
        records.update_batch(b"abc", b"def", 2)


def test_nothing_is_pinned_that_was_not_told_to_be(tmp_path: Path) -> None:
    with libbpf.Object(compiled(tmp_path, "return 0;")) as opened:
        made, programs = opened.load()
    assert set(made) == {"numbers"}
    assert not (bpffs.MOUNT_POINT / "numbers").exists()
    libbpf.close_all(made, programs)


def test_what_the_verifier_says_is_in_the_error(tmp_path: Path) -> None:
    broken = compiled(tmp_path, "return *(volatile int *)(long)skb->data;")
    said = r"(?s)could not be loaded.*verifier:.*invalid access to packet"
    with libbpf.Object(broken) as opened, pytest.raises(Rejected, match=said):
        opened.load()


def test_an_object_of_another_layout_is_refused(tmp_path: Path, pins: Path) -> None:
    other = compiled(tmp_path, "return 0;")
    with pytest.raises(Rejected, match="has no map host: it was compiled for another version of Weft"):
        maps.load(other, SMALL, pins)


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "weft.bpf.o"
    garbage.write_bytes(b"garbage")
    with pytest.raises(Rejected, match="is not an eBPF object file"):
        maps.load(garbage, SMALL, None)


def test_an_object_that_was_not_built_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"build\.py compiles it"):
        maps.load(tmp_path / "none.bpf.o", SMALL, None)


@pytest.mark.parametrize(("entries", "words"), [(0, "0 entries are outside"), (1 << 30, "entries are outside")])
def test_a_size_that_cannot_be_is_refused_with_its_name(entries: int, words: str) -> None:
    with pytest.raises(Rejected, match=words) as caught:
        maps.Sizes(routes=entries)
    assert caught.value.field == "routes"


def test_pins_belong_on_a_bpf_file_system(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="is not on a BPF file system: mount -t bpf"):
        bpffs.make(tmp_path / "pins")
    with pytest.raises(Rejected, match="have no dots"):
        bpffs.make(bpffs.MOUNT_POINT / "weft.test")


def test_without_root_the_error_says_what_is_needed(weft_object: Path) -> None:
    words = f"""
import os
from pathlib import Path
from weft.dataplane.ebpf.plane import EbpfDataPlane, Rejected, Sizes
os.setuid(65534)
try:
    EbpfDataPlane(Path("/sys/fs/bpf/weft-test-nobody"), Sizes(), source=Path({str(weft_object)!r}))
except Rejected as error:
    print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", words],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("the eBPF data plane needs root, or CAP_BPF")


def test_runs_that_are_under_way_are_outlasted(under_way: Callable[[], Callable[[], bool]]) -> None:
    for _ in range(3):
        ended = under_way()
        libbpf.outlast_runs()
        assert ended()


@pytest.mark.parametrize(
    ("number", "release", "verifier", "says"),
    [
        (errno.EPERM, "6.1.0-56-amd64", "", "root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed"),
        (errno.EACCES, "6.8.0", "pointer arithmetic with it prohibited for !root", "CAP_PERFMON is needed, too"),
        (errno.EINVAL, "5.15.0-91-generic", "", "this kernel is 5.15.0-91-generic, and Weft needs Linux 6.1 or newer"),
        (errno.EINVAL, "6.10.3", "", None),
        (errno.EACCES, "6.1.0", "invalid access to packet", None),
    ],
)
def test_what_a_kernel_or_a_process_lacks_is_named(number: int, release: str, verifier: str, says: str | None) -> None:
    said = libbpf.what_lacks(number, release, verifier)
    assert (said is None) == (says is None)
    assert said is None or (says is not None and says in said)

"""Typed access to the kernel's BPF: objects through libbpf, everything else through bpf(2). Knows no map of ours.

libbpf (1.1 is what Debian 12 has) reads the object file, makes its maps and takes its programs through the verifier.
What it does not know yet (TCX links) and what must be quick (batches, test runs) goes straight to the system call.
File descriptors belong to the ``Map``, ``Program`` and ``Link`` that hold them and are closed by ``close()``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import structlog

from weft.kit.errors import Rejected, Retry

log = structlog.get_logger(__name__)

#: https://man7.org/linux/man-pages/man2/bpf.2.html; the numbers differ by architecture
_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}

_LOG_BYTES = 1 << 24  # the verifier's own limit; pages that it does not touch cost nothing

ANY = 0
NOEXIST = 1  # BPF_NOEXIST: only when absent
EXIST_LOCKED = 2 | 4  # BPF_EXIST | BPF_F_LOCK: only when there, in place, behind the value's lock


class Command(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    OBJ_GET_INFO_BY_FD = 15
    BTF_GET_FD_BY_ID = 19
    PROG_QUERY = 16
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class MapType(IntEnum):
    """enum bpf_map_type, as far as Weft uses it."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    RINGBUF = 27


class Direction(IntEnum):
    """enum bpf_attach_type of TCX: seen from the interface."""

    INGRESS = 46
    EGRESS = 47


_u8, _u32, _u64, _pointer = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p


class _MapCreate(ctypes.Structure):
    _fields_ = [
        ("map_type", _u32),
        ("key_size", _u32),
        ("value_size", _u32),
        ("max_entries", _u32),
        ("map_flags", _u32),
        ("inner_map_fd", _u32),
    ]


class _Elem(ctypes.Structure):
    _fields_ = [("map_fd", _u32), ("pad", _u32), ("key", _pointer), ("value", _pointer), ("flags", _u64)]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("in_batch", _pointer),
        ("out_batch", _pointer),
        ("keys", _pointer),
        ("values", _pointer),
        ("count", _u32),
        ("map_fd", _u32),
        ("elem_flags", _u64),
        ("flags", _u64),
    ]


class _Object(ctypes.Structure):
    _fields_ = [("pathname", _pointer), ("bpf_fd", _u32), ("file_flags", _u32)]


class _Info(ctypes.Structure):
    _fields_ = [("bpf_fd", _u32), ("info_len", _u32), ("info", _pointer)]


class _TestRun(ctypes.Structure):
    _fields_ = [
        ("prog_fd", _u32),
        ("retval", _u32),
        ("data_size_in", _u32),
        ("data_size_out", _u32),
        ("data_in", _pointer),
        ("data_out", _pointer),
        ("repeat", _u32),
        ("duration", _u32),
        ("ctx_size_in", _u32),
        ("ctx_size_out", _u32),
        ("ctx_in", _pointer),
        ("ctx_out", _pointer),
        ("flags", _u32),
        ("cpu", _u32),
        ("batch_size", _u32),
    ]


_BEFORE = 1 << 3  # BPF_F_BEFORE; with nothing named, before all


class _LinkCreate(ctypes.Structure):
    _fields_ = [
        ("prog_fd", _u32),
        ("target_ifindex", _u32),
        ("attach_type", _u32),
        ("flags", _u32),
        ("relative_fd", _u32),
        ("pad", _u32),
        ("expected_revision", _u64),
    ]


class _LinkUpdate(ctypes.Structure):
    _fields_ = [("link_fd", _u32), ("new_prog_fd", _u32), ("flags", _u32), ("old_prog_fd", _u32)]


class _Query(ctypes.Structure):
    _fields_ = [
        ("target_ifindex", _u32),
        ("attach_type", _u32),
        ("query_flags", _u32),
        ("attach_flags", _u32),
        ("prog_ids", _pointer),
        ("count", _u32),
        ("pad", _u32),
        ("prog_attach_flags", _pointer),
        ("link_ids", _pointer),
        ("link_attach_flags", _pointer),
        ("revision", _u64),
    ]


class _ProgramLoad(ctypes.Structure):
    _fields_ = [
        ("prog_type", _u32),
        ("insn_cnt", _u32),
        ("insns", _pointer),
        ("license", _pointer),
        ("log_level", _u32),
        ("log_size", _u32),
        ("log_buf", _pointer),
        ("kern_version", _u32),
        ("prog_flags", _u32),
    ]


class _MapInfo(ctypes.Structure):
    _fields_ = [
        ("type", _u32),
        ("id", _u32),
        ("key_size", _u32),
        ("value_size", _u32),
        ("max_entries", _u32),
        ("map_flags", _u32),
        ("name", ctypes.c_char * 16),
        ("ifindex", _u32),
        ("btf_vmlinux_value_type_id", _u32),
        ("netns_dev", _u64),
        ("netns_ino", _u64),
        ("btf_id", _u32),
        ("btf_key_type_id", _u32),
        ("btf_value_type_id", _u32),
    ]


class _ById(ctypes.Structure):
    _fields_ = [("id", _u32), ("next_id", _u32), ("open_flags", _u32)]


class _BtfInfo(ctypes.Structure):
    _fields_ = [("btf", _u64), ("btf_size", _u32), ("id", _u32)]


class _ProgramInfo(ctypes.Structure):
    _fields_ = [("type", _u32), ("id", _u32), ("tag", _u8 * 8)]


class _LinkInfo(ctypes.Structure):
    _fields_ = [
        ("type", _u32),
        ("id", _u32),
        ("prog_id", _u32),
        ("pad", _u32),
        ("ifindex", _u32),  # of a TCX link; 0 when its interface is gone or it was detached
        ("attach_type", _u32),
    ]


class SkBuff(ctypes.Structure):
    """struct __sk_buff: what a test run gives to a program, and what the program left in it."""

    _fields_ = [
        ("len", _u32),
        ("pkt_type", _u32),
        ("mark", _u32),
        ("queue_mapping", _u32),
        ("protocol", _u32),
        ("vlan_present", _u32),
        ("vlan_tci", _u32),
        ("vlan_proto", _u32),
        ("priority", _u32),
        ("ingress_ifindex", _u32),
        ("ifindex", _u32),
        ("tc_index", _u32),
        ("cb", _u32 * 5),
        ("hash", _u32),
        ("tc_classid", _u32),
        ("data", _u32),
        ("data_end", _u32),
        ("napi_id", _u32),
        ("family", _u32),
        ("remote_ip4", _u32),
        ("local_ip4", _u32),
        ("remote_ip6", _u32 * 4),
        ("local_ip6", _u32 * 4),
        ("remote_port", _u32),
        ("local_port", _u32),
        ("data_meta", _u32),
        ("flow_keys", _u64),
        ("tstamp", _u64),
        ("wire_len", _u32),
        ("gso_segs", _u32),
        ("sk", _u64),
        ("gso_size", _u32),
        ("tstamp_type", _u8),
        ("pad", _u8 * 3),
        ("hwtstamp", _u64),
    ]


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts of libbpf 1.1; a newer libbpf reads only ``size`` bytes of it."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("removed", _u32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
        ("kernel_log_buf", _pointer),
        ("kernel_log_size", ctypes.c_size_t),
        ("kernel_log_level", _u32),
    ]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, _pointer, ctypes.c_uint]
_libc.vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, _pointer]
_SYSCALL = _SYSCALL_NUMBERS.get(platform.machine(), -1)


_RIGHTS = "root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
_OLDEST = (6, 1)


def what_lacks(number: int, release: str, verifier: str) -> str | None:
    """What the kernel or the process lacks whose programs were refused, and what to do; None: it is not that.

    release: of uname(2); verifier: its log.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < _OLDEST:
        return f"this kernel is {release}, and Weft needs Linux {'.'.join(map(str, _OLDEST))} or newer: upgrade it"
    if number == errno.EPERM:
        return f"{_RIGHTS} are needed"
    if number == errno.EACCES and "for !root" in verifier:
        return f"CAP_PERFMON is needed, too: the verifier takes these programs only from who has {_RIGHTS}"
    return None


def _bpf(command: Command, attributes: ctypes.Structure) -> int:
    """The system call. Returns what it returns; a failure raises OSError."""
    answer: int = _libc.syscall(_SYSCALL, command, ctypes.addressof(attributes), ctypes.sizeof(attributes))
    if answer < 0:
        raise _error(ctypes.get_errno(), command.name)
    return answer


def _error(number: int, what: str) -> OSError:
    if number == errno.ENOSYS:
        return OSError(number, f"bpf({what}): this kernel has no bpf(2), or Weft does not know its number here")
    if number == errno.EPERM:
        return OSError(number, f"bpf({what}): not permitted; {_RIGHTS} are needed")
    return OSError(number, f"bpf({what}): {os.strerror(number)}")


def _address(data: bytes) -> int:
    """Where the bytes lie. The caller keeps them alive for as long as the kernel reads them."""
    return ctypes.cast(ctypes.c_char_p(data), _pointer).value or 0


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def outlast_runs() -> None:
    """Returns when no run of a program is under way any more that had begun before (some 10 to 30 ms, asleep).

    The kernel promises just that to whoever has written to a map of maps (maybe_wait_bpf_programs, since 4.20), for
    this very purpose. membarrier(2) would wait as well, but a kernel with nohz_full refuses it, and some sandboxes do.
    """
    inner = _bpf(Command.MAP_CREATE, _MapCreate(MapType.ARRAY, 4, 4, 1))
    try:
        outer = _bpf(Command.MAP_CREATE, _MapCreate(MapType.ARRAY_OF_MAPS, 4, 4, 1, inner_map_fd=inner))
        try:
            key, value = bytes(4), inner.to_bytes(4, sys.byteorder)
            _bpf(Command.MAP_UPDATE_ELEM, _Elem(outer, 0, _address(key), _address(value), ANY))
        finally:
            os.close(outer)
    finally:
        os.close(inner)


@functools.cache
def possible_cpus() -> int:
    """How many values a per-CPU entry has."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split("-")[-1].split(",")[-1]
    return int(last) + 1


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How far a batch came: ``done`` entries, then the error that stopped it (0: none)."""

    done: int
    errno: int


@dataclass(frozen=True, slots=True)
class MapTypes:
    """A map's types: their BTF, raw, and which of it key and value are."""

    btf: bytes
    key: int
    value: int


@dataclass(frozen=True, slots=True)
class Map:
    """A map, by its file descriptor. Keys and values are bytes in the kernel's layout."""

    name: str
    fd: int
    type: int
    id: int
    key_bytes: int
    value_bytes: int  # of one entry as user space sees it: of a per-CPU map, one value per possible CPU
    max_entries: int

    @classmethod
    def of(cls, name: str, fd: int) -> Map:
        info = _MapInfo()
        _bpf(Command.OBJ_GET_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), ctypes.addressof(info)))
        value_bytes = info.value_size
        if info.type in (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY):
            value_bytes = (value_bytes + 7) // 8 * 8 * possible_cpus()
        return cls(name, fd, info.type, info.id, info.key_size, value_bytes, info.max_entries)

    def close(self) -> None:
        os.close(self.fd)

    def types(self) -> MapTypes | None:
        """What it was made with; None: without types."""
        info = _MapInfo()
        _bpf(Command.OBJ_GET_INFO_BY_FD, _Info(self.fd, ctypes.sizeof(info), ctypes.addressof(info)))
        if not info.btf_id:
            return None
        fd = _bpf(Command.BTF_GET_FD_BY_ID, _ById(info.btf_id))
        try:
            found = _BtfInfo()
            _bpf(Command.OBJ_GET_INFO_BY_FD, _Info(fd, ctypes.sizeof(found), ctypes.addressof(found)))
            raw = ctypes.create_string_buffer(found.btf_size)
            found = _BtfInfo(btf=ctypes.addressof(raw), btf_size=len(raw))
            _bpf(Command.OBJ_GET_INFO_BY_FD, _Info(fd, ctypes.sizeof(found), ctypes.addressof(found)))
        finally:
            os.close(fd)
        return MapTypes(raw.raw, info.btf_key_type_id, info.btf_value_type_id)

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None when there is no such key."""
        self._check(key, self.key_bytes)
        value = ctypes.create_string_buffer(self.value_bytes)
        try:
            _bpf(Command.MAP_LOOKUP_ELEM, _Elem(self.fd, 0, _address(key), ctypes.addressof(value), 0))
        except FileNotFoundError:
            return None
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        self._check(key, self.key_bytes)
        self._check(value, self.value_bytes)
        _bpf(Command.MAP_UPDATE_ELEM, _Elem(self.fd, 0, _address(key), _address(value), flags))

    def delete(self, key: bytes) -> bool:
        """Whether it was there."""
        self._check(key, self.key_bytes)
        try:
            _bpf(Command.MAP_DELETE_ELEM, _Elem(self.fd, 0, _address(key), 0, 0))
        except FileNotFoundError:
            return False
        return True

    def update_batch(self, keys: bytes | bytearray, values: bytes | bytearray, count: int) -> BatchResult:
        """Puts entries in order, and stops at the first that the kernel refuses."""
        self._check(keys, count * self.key_bytes)
        self._check(values, count * self.value_bytes)
        return self._batch(Command.MAP_UPDATE_BATCH, bytes(keys), bytes(values), count)

    def delete_batch(self, keys: bytes | bytearray, count: int) -> BatchResult:
        """Deletes entries in order, and stops at the first that is not there (ENOENT)."""
        self._check(keys, count * self.key_bytes)
        return self._batch(Command.MAP_DELETE_BATCH, bytes(keys), b"", count)

    def chunks(self, count: int = 16384) -> Iterator[tuple[bytes, bytes, int]]:
        """All entries, some at a time: keys in a row, values in a row, how many. Falls back to one by one."""
        count = min(count, self.max_entries)
        keys = ctypes.create_string_buffer(count * self.key_bytes)
        values = ctypes.create_string_buffer(count * self.value_bytes)
        cursor = ctypes.create_string_buffer(max(8, self.key_bytes))
        batch = _Batch(map_fd=self.fd, out_batch=ctypes.addressof(cursor))
        batch.keys, batch.values = ctypes.addressof(keys), ctypes.addressof(values)
        while True:
            batch.count = count
            try:
                _bpf(Command.MAP_LOOKUP_BATCH, batch)
                last = False
            except FileNotFoundError:  # the end; what came before it is in the buffers
                last = True
            except OSError as error:
                if error.errno == errno.ENOSPC:  # one bucket of the hash is larger than the buffers
                    count *= 2
                    keys = ctypes.create_string_buffer(count * self.key_bytes)
                    values = ctypes.create_string_buffer(count * self.value_bytes)
                    batch.keys, batch.values = ctypes.addressof(keys), ctypes.addressof(values)
                    continue
                if not batch.in_batch and error.errno in (errno.EOPNOTSUPP, errno.EINVAL, 524):  # 524: ENOTSUPP
                    yield from self._one_by_one()
                    return
                raise
            got = batch.count
            if got:
                yield (
                    ctypes.string_at(keys, got * self.key_bytes),
                    ctypes.string_at(values, got * self.value_bytes),
                    got,
                )
            if last:
                return
            batch.in_batch = ctypes.addressof(cursor)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries, one at a time."""
        for keys, values, count in self.chunks():
            for at in range(count):
                yield (
                    keys[at * self.key_bytes : (at + 1) * self.key_bytes],
                    values[at * self.value_bytes : (at + 1) * self.value_bytes],
                )

    def _one_by_one(self) -> Iterator[tuple[bytes, bytes, int]]:
        following = ctypes.create_string_buffer(self.key_bytes)
        current = 0
        while True:
            try:
                _bpf(Command.MAP_GET_NEXT_KEY, _Elem(self.fd, 0, current, ctypes.addressof(following), 0))
            except FileNotFoundError:
                return
            value = self.lookup(following.raw)
            if value is not None:
                yield following.raw, value, 1
            current = ctypes.addressof(following)

    def _batch(self, command: Command, keys: bytes, values: bytes, count: int) -> BatchResult:
        batch = _Batch(keys=_address(keys), values=_address(values), count=count, map_fd=self.fd)
        number = 0
        if _libc.syscall(_SYSCALL, command, ctypes.addressof(batch), ctypes.sizeof(batch)) < 0:
            number = ctypes.get_errno()
            if number == errno.EFAULT or batch.count > count:
                raise _error(number, command.name)
            if batch.count == count:  # refused before the first: the kernel had not set the count
                raise _error(number, command.name)
        return BatchResult(batch.count, number)

    @staticmethod
    def _check(data: bytes | bytearray, size: int) -> None:
        # The kernel would read beyond the end.
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes where the map has {size}")


class Ring:
    """The reading end of a ring buffer. Never waits: ``fd`` is readable when there is something."""

    def __init__(self, ring: Map) -> None:
        self._read: list[bytes] = []
        self._sample = _SAMPLE(self._take)  # the library keeps no reference of its own
        self._ring = _library().ring_buffer__new(ring.fd, self._sample, None, None)
        if not self._ring:
            raise _error(ctypes.get_errno(), f"ring buffer {ring.name}")
        self.fd: int = _library().ring_buffer__epoll_fd(self._ring)

    def _take(self, _context: int, data: int, size: int) -> int:
        self._read.append(ctypes.string_at(data, size))
        return 0

    def read(self) -> list[bytes]:
        """What has been written since the last time, in order."""
        got = _library().ring_buffer__consume(self._ring)
        if got < 0:
            raise _error(-got, "ring buffer")
        read, self._read = self._read, []
        return read

    def close(self) -> None:
        if self._ring:
            _library().ring_buffer__free(self._ring)
            self._ring = None


@dataclass(frozen=True, slots=True)
class Program:
    """A program that the verifier has taken."""

    name: str
    fd: int
    id: int

    @classmethod
    def of(cls, name: str, fd: int) -> Program:
        info = _ProgramInfo()
        _bpf(Command.OBJ_GET_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), ctypes.addressof(info)))
        return cls(name, fd, info.id)

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Ran:
    """What one test run came to."""

    retval: int
    data: bytes
    context: SkBuff
    duration_ns: int


class TestRun:
    """Runs a program on frames without a wire (BPF_PROG_TEST_RUN). Keeps its buffers: thousands of runs a second."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    def __init__(self, program: Program, room_bytes: int = 1 << 16) -> None:
        self._out = ctypes.create_string_buffer(room_bytes)
        self._context = SkBuff()
        self._left = SkBuff()
        self._attributes = _TestRun(
            prog_fd=program.fd,
            data_out=ctypes.addressof(self._out),
            ctx_in=ctypes.addressof(self._context),
            ctx_out=ctypes.addressof(self._left),
            ctx_size_in=ctypes.sizeof(SkBuff),
        )

    def __call__(
        self, frame: bytes, ifindex: int, *, mark: int = 0, gso_size: int = 0, gso_segs: int = 0, repeat: int = 1
    ) -> Ran:
        """ifindex: an interface in this thread's network namespace. The frame must have 14 bytes at least."""
        context, attributes = self._context, self._attributes
        context.ifindex = ifindex
        context.mark = mark
        context.gso_size = gso_size
        context.gso_segs = gso_segs
        attributes.data_in = _address(frame)
        attributes.data_size_in = len(frame)
        attributes.data_size_out = len(self._out)
        attributes.ctx_size_out = ctypes.sizeof(SkBuff)
        attributes.repeat = repeat
        _bpf(Command.PROG_TEST_RUN, attributes)
        return Ran(
            ctypes.c_int32(attributes.retval).value,
            ctypes.string_at(self._out, attributes.data_size_out),
            SkBuff.from_buffer_copy(self._left),
            attributes.duration,
        )


@dataclass(frozen=True, slots=True)
class Link:
    """A program's attachment to an interface (TCX). It is there for as long as somebody holds or pins it."""

    fd: int
    id: int
    program_id: int
    ifindex: int  # 0: the interface is gone, or the link was detached by force

    @classmethod
    def of(cls, fd: int) -> Link:
        info = _LinkInfo()
        _bpf(Command.OBJ_GET_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), ctypes.addressof(info)))
        return cls(fd, info.id, info.prog_id, info.ifindex)

    @classmethod
    def create(cls, program: Program, ifindex: int, direction: Direction) -> Link:
        """Before all that run there: behind somebody else's program it would not see what that one has let pass."""
        return cls.of(_bpf(Command.LINK_CREATE, _LinkCreate(program.fd, ifindex, direction, _BEFORE)))

    def update(self, program: Program) -> None:
        """Another program from the next packet on; no packet goes between the two."""
        _bpf(Command.LINK_UPDATE, _LinkUpdate(self.fd, program.fd))

    def detach(self) -> None:
        _bpf(Command.LINK_DETACH, _LinkUpdate(self.fd))

    def close(self) -> None:
        os.close(self.fd)


def pin(fd: int, path: Path) -> None:
    """Keep what the descriptor stands for under a name on a BPF file system, beyond this process's life."""
    name = os.fsencode(path)
    _bpf(Command.OBJ_PIN, _Object(_address(name), fd))


def pinned(path: Path) -> int:
    """A new descriptor for what is pinned there."""
    name = os.fsencode(path)
    try:
        return _bpf(Command.OBJ_GET, _Object(_address(name)))
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None


@functools.cache
def has_tcx() -> bool:
    """Whether the kernel has TCX (6.6 and later do): asked, not guessed from its version."""
    try:
        # The loopback interface of any namespace is number 1.
        _bpf(Command.PROG_QUERY, _Query(target_ifindex=1, attach_type=Direction.INGRESS))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise
        return False
    return True


@functools.cache
def has_decap_l3() -> bool:
    """Whether bpf_skb_adjust_room() takes BPF_F_ADJ_ROOM_DECAP_L3_IPV4: asked with a program of six instructions."""
    instructions = b"".join(
        (
            b"\xb7\x02\x00\x00" + (-20 & 0xFFFFFFFF).to_bytes(4, "little"),  # r2 = -20: bytes to take away
            b"\xb7\x03\x00\x00\x01\x00\x00\x00",  # r3 = BPF_ADJ_ROOM_MAC
            b"\xb7\x04\x00\x00\x80\x00\x00\x00",  # r4 = BPF_F_ADJ_ROOM_DECAP_L3_IPV4
            b"\x85\x00\x00\x00\x32\x00\x00\x00",  # r0 = bpf_skb_adjust_room(r1, r2, r3, r4)
            b"\x95\x00\x00\x00\x00\x00\x00\x00",  # exit
        )
    )
    license_text = b"Dual BSD/GPL\0"
    load = _ProgramLoad(3, len(instructions) // 8, _address(instructions), _address(license_text))  # 3: SCHED_CLS
    program = Program.of("decap_l3", _bpf(Command.PROG_LOAD, load))
    try:
        ipv6 = b"\x60" + bytes(3) + b"\x00\x40\x29\x40" + bytes(32)
        return TestRun(program)(bytes(12) + b"\x86\xdd" + ipv6 + bytes(64), 1).retval == 0
    finally:
        program.close()


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        raise Rejected("libbpf.so.1 is not installed here: apt install libbpf1") from None
    pointer, text, integer = _pointer, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "libbpf_set_print": (_pointer, [_PRINT]),
        "bpf_object__open_file": (pointer, [text, pointer]),
        "bpf_object__load": (integer, [pointer]),
        "bpf_object__close": (None, [pointer]),
        "bpf_object__next_map": (pointer, [pointer, pointer]),
        "bpf_object__next_program": (pointer, [pointer, pointer]),
        "bpf_object__btf": (pointer, [pointer]),
        "btf__raw_data": (pointer, [pointer, ctypes.POINTER(_u32)]),
        "bpf_map__name": (text, [pointer]),
        "bpf_map__fd": (integer, [pointer]),
        "bpf_map__type": (integer, [pointer]),
        "bpf_map__key_size": (_u32, [pointer]),
        "bpf_map__value_size": (_u32, [pointer]),
        "bpf_map__max_entries": (_u32, [pointer]),
        "bpf_map__map_flags": (_u32, [pointer]),
        "bpf_map__set_max_entries": (integer, [pointer, _u32]),
        "bpf_map__pin_path": (text, [pointer]),
        "bpf_map__set_pin_path": (integer, [pointer, text]),
        "bpf_map__initial_value": (pointer, [pointer, ctypes.POINTER(ctypes.c_size_t)]),
        "bpf_map__btf_key_type_id": (_u32, [pointer]),
        "bpf_map__btf_value_type_id": (_u32, [pointer]),
        "bpf_program__name": (text, [pointer]),
        "bpf_program__fd": (integer, [pointer]),
        "ring_buffer__new": (pointer, [integer, _SAMPLE, pointer, pointer]),
        "ring_buffer__epoll_fd": (integer, [pointer]),
        "ring_buffer__consume": (integer, [pointer]),
        "ring_buffer__free": (None, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(_listener)
    return lib


_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_size_t)
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, _pointer)
_said: list[str] = []  # what libbpf said since the last operation began; shown when that one fails


def _listen(level: int, template: bytes, arguments: int) -> int:
    if level > 1:  # LIBBPF_DEBUG: a line for every relocation
        return 0
    line = ctypes.create_string_buffer(1024)
    _libc.vsnprintf(line, len(line), template, arguments)
    words = line.value.decode(errors="replace").strip()
    _said.append(words)
    log.debug("libbpf", words=words)
    return 0


_listener = _PRINT(_listen)  # the library keeps no reference of its own


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map as the object file declares it, before it is made."""

    name: str
    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int
    key_type: int  # BTF ids
    value_type: int


class Object:
    """An object file between opening and loading. After ``load`` its maps and programs stand on their own."""

    def __init__(self, path: Path) -> None:
        self._lib = _library()
        self._log = ctypes.create_string_buffer(_LOG_BYTES)
        self.path = path
        _said.clear()
        options = _OpenOptions(
            size=ctypes.sizeof(_OpenOptions),
            object_name=b"weft",
            kernel_log_buf=ctypes.addressof(self._log),
            kernel_log_size=_LOG_BYTES,
        )
        self._object = self._lib.bpf_object__open_file(os.fsencode(path), ctypes.byref(options))
        if not self._object:
            number = ctypes.get_errno()
            raise Rejected(f"{path} is not an eBPF object file that libbpf can open: {self._words(number)}")
        self._maps = dict(self._walk(self._lib.bpf_object__next_map, self._lib.bpf_map__name))
        self._programs = dict(self._walk(self._lib.bpf_object__next_program, self._lib.bpf_program__name))
        self._pinned = {name for name, pointer in self._maps.items() if self._lib.bpf_map__pin_path(pointer)}
        self.pin_maps(None)  # libbpf's own default would be the root of /sys/fs/bpf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what libbpf holds. Maps and programs that ``load`` returned stay open."""
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None

    @property
    def program_names(self) -> tuple[str, ...]:
        return tuple(self._programs)

    def btf(self) -> bytes:
        """The object's type information, raw."""
        size = _u32()
        data = self._lib.btf__raw_data(self._lib.bpf_object__btf(self._object), ctypes.byref(size))
        if not data:
            raise Rejected(f"{self.path} has no BTF: compile it with clang -g")
        return ctypes.string_at(data, size.value)

    def definitions(self) -> dict[str, MapDefinition]:
        """The maps that the file declares as pinned; not a program's scratch space, nor its data sections."""
        lib = self._lib
        return {
            name: MapDefinition(
                name,
                lib.bpf_map__type(pointer),
                lib.bpf_map__key_size(pointer),
                lib.bpf_map__value_size(pointer),
                lib.bpf_map__max_entries(pointer),
                lib.bpf_map__map_flags(pointer),
                lib.bpf_map__btf_key_type_id(pointer),
                lib.bpf_map__btf_value_type_id(pointer),
            )
            for name, pointer in self._shared()
        }

    def resize(self, sizes: Mapping[str, int]) -> None:
        """Entries by map name."""
        for name, entries in sizes.items():
            if name in self._maps and self._lib.bpf_map__set_max_entries(self._maps[name], entries):
                raise Rejected(f"map {name} cannot have {entries} entries")

    def pin_maps(self, directory: Path | None) -> None:
        """Reuse the maps pinned in a directory, and pin there those that are not; None: pin nothing."""
        for name, pointer in self._shared():
            path = None if directory is None else os.fsencode(directory / name)
            self._lib.bpf_map__set_pin_path(pointer, path)

    def write_constants(self, offset: int, value: bytes) -> None:
        """Set bytes of the section ``.rodata``, which the kernel freezes at load."""
        for name, pointer in self._maps.items():
            if name.endswith(".rodata"):
                size = ctypes.c_size_t()
                start = self._lib.bpf_map__initial_value(pointer, ctypes.byref(size))
                if start and offset + len(value) <= size.value:
                    ctypes.memmove(start + offset, value, len(value))
                    return
        raise Rejected(f"{self.path} has no constant of {len(value)} bytes at {offset} of .rodata")

    def load(self) -> tuple[dict[str, Map], dict[str, Program]]:
        """Make or reuse the maps, and take the programs through the verifier."""
        lib = self._lib
        _said.clear()
        answer = lib.bpf_object__load(self._object)
        if answer < 0:
            words = self._words(-answer)
            if -answer in (errno.EAGAIN, errno.EINTR, errno.ENOMEM):
                raise Retry(f"{self.path} could not be loaded now: {words}")
            raise Rejected(f"{self.path} could not be loaded: {words}")
        maps: dict[str, Map] = {}
        programs: dict[str, Program] = {}
        for name, pointer in self._shared():
            maps[name] = Map.of(name, _duplicate(lib.bpf_map__fd(pointer)))
        for name, pointer in self._programs.items():
            programs[name] = Program.of(name, _duplicate(lib.bpf_program__fd(pointer)))
        return maps, programs

    def _shared(self) -> Iterator[tuple[str, int]]:
        return ((name, self._maps[name]) for name in sorted(self._pinned))

    def _walk(self, following: Any, name_of: Any) -> Iterator[tuple[str, int]]:
        pointer = following(self._object, None)
        while pointer:
            yield name_of(pointer).decode(), pointer
            pointer = following(self._object, pointer)

    def _words(self, number: int) -> str:
        said = "; ".join(_said)
        verifier = self._log.value.decode(errors="replace").strip()
        if (lacks := what_lacks(number, os.uname().release, verifier)) is not None:
            said = f"{lacks}; {said}"
        # The end of the log is where the verifier says what it disliked.
        tail = "\n".join(verifier.splitlines()[-60:])
        return f"{os.strerror(number)}: {said}" + (f"\nverifier:\n{tail}" if tail else "")


def close_all(*groups: Mapping[str, Map] | Mapping[str, Program]) -> None:
    """Close every descriptor, whatever state it is in."""
    for group in groups:
        for item in group.values():
            with suppress(OSError):
                item.close()

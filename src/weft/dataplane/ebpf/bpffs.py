"""The BPF file system, where programs, maps and links outlive whoever made them. Holds nothing that is not pinned."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from weft.kit.errors import Conflict, Rejected, Retry

MOUNT_POINT = Path("/sys/fs/bpf")
_MAGIC = 0xCAFE4A11  # BPF_FS_MAGIC
_libc = ctypes.CDLL(None, use_errno=True)


class _Statfs(ctypes.Structure):
    _fields_ = [("type", ctypes.c_long), ("rest", ctypes.c_byte * 248)]


def is_bpffs(path: Path) -> bool:
    """Of the file system that the path is on."""
    answer = _Statfs()
    if _libc.statfs(os.fsencode(path), ctypes.byref(answer)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return bool(answer.type == _MAGIC)


def make(directory: Path) -> None:
    """The directory, on a BPF file system; one is mounted at /sys/fs/bpf when there is none and it is needed."""
    if any("." in part for part in directory.parts):
        raise Rejected(f"{directory}: names on a BPF file system have no dots")
    if directory.is_relative_to(MOUNT_POINT):
        _mount()
    nearest = next(parent for parent in (directory, *directory.parents) if parent.exists())
    if not is_bpffs(nearest):
        raise Rejected(
            f"{directory} is not on a BPF file system: mount -t bpf bpf {MOUNT_POINT}, and use a path below it"
        )
    directory.mkdir(parents=True, exist_ok=True)


def hold(directory: Path) -> int:
    """A lock on the directory, held until the descriptor is closed, or its process ends. Raises Conflict when another
    process holds it: two that fill the same maps would each let go of what the other has bound.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(f"{directory} is in use by another process; a host has one agent") from error
    return descriptor


def remove(path: Path) -> None:
    """A pin, or a directory with all that is in it. Absent is success."""
    with suppress(FileNotFoundError):
        if path.is_dir():
            for inside in entries(path):
                remove(inside)
            path.rmdir()
        else:
            path.unlink()


def entries(directory: Path) -> Iterator[Path]:
    """What is in it; nothing when it does not exist."""
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(directory.iterdir())


def _mount() -> None:
    if not MOUNT_POINT.is_dir():
        raise Rejected(f"{MOUNT_POINT} does not exist: this kernel has no BPF file system (CONFIG_BPF_SYSCALL)")
    if is_bpffs(MOUNT_POINT):
        return
    # Two agents that start at once: a second mount over the first would hide the first one's pins.
    lock = os.open(MOUNT_POINT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_bpffs(MOUNT_POINT):
            return
        if _libc.mount(b"bpf", os.fsencode(MOUNT_POINT), b"bpf", 0, b"mode=0700"):
            number = ctypes.get_errno()
            if number == errno.EPERM:
                raise Rejected(f"{MOUNT_POINT} is no BPF file system, and only root can mount one there")
            raise Retry(f"a BPF file system cannot be mounted at {MOUNT_POINT}: {os.strerror(number)}")
    finally:
        os.close(lock)

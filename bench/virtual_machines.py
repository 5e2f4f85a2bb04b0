"""Real virtual machines: a stock kernel and a busybox, in QEMU, on a tap of a lab's host. Knows nothing of Weft.

Software emulation: KVM needs a machine that has it, and what is measured is the network's part of a migration.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.lab import shell

_MODULES = (
    "virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci", "failover", "net/net_failover", "net/virtio_net",
)  # fmt: skip
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_INIT = """#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
for word in $(/bin/busybox cat /proc/cmdline); do
  case $word in weft.eth*=*,*)
    told=${{word#weft.}}; name=${{told%%=*}}; told=${{told#*=}}
    /bin/busybox ip link set $name mtu ${{told#*,}} up
    /bin/busybox ip addr add ${{told%%,*}} dev $name;;
  esac
done
/bin/busybox ip link set lo up
/bin/busybox nc -ll -p 7 -e /bin/busybox cat &
while true; do /bin/busybox sleep 1000; done
"""
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Image:
    """What a machine boots."""

    kernel: Path
    initrd: Path


def image(directory: Path) -> Image:
    """Debian's cloud kernel and busybox, as apt has them; made once, whoever asks first. Half of one is never there."""
    directory.mkdir(parents=True, exist_ok=True)
    of = directory / hashlib.sha256(repr((_MODULES, _INIT)).encode()).hexdigest()[:12]
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not of.exists():
            with tempfile.TemporaryDirectory(dir=directory) as name:
                _make(Path(name)).rename(of)
    return Image(of / "vmlinux", of / "initrd.gz")


def _make(directory: Path) -> Path:
    """A directory with both in it."""
    depends = _run("apt-cache", "depends", "linux-image-cloud-amd64")
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    assert package, f"linux-image-cloud-amd64 depends on no kernel: {depends}"
    try:
        _run("apt-get", "download", package[1], cwd=directory)
    except subprocess.CalledProcessError:  # the archive has a newer one than apt knows of
        _run("apt-get", "update")
        _run("apt-get", "download", package[1], cwd=directory)
    [archive] = directory.glob(f"{package[1]}_*.deb")
    root = directory / "root"
    _run("dpkg-deb", "-x", str(archive), str(root))
    [modules] = root.glob("lib/modules/*/kernel")
    tree = directory / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    for module in _MODULES:
        place = modules / ("net/core" if module == "failover" else "drivers") / f"{module}.ko"
        shutil.copy(place, tree / "modules" / place.name)
    init = tree / "init"
    init.write_text(_INIT.format(modules=" ".join(module.rpartition("/")[2] for module in _MODULES)))
    init.chmod(0o755)
    [vmlinuz] = root.glob("boot/vmlinuz-*")
    raw = vmlinuz.read_bytes()
    # PVH boots the kernel proper, without the decompressor, which takes an emulated CPU seconds.
    unpacked = subprocess.run(
        ["lz4", "-dc"], input=raw[raw.index(_LZ4_LEGACY) :], capture_output=True, check=False
    ).stdout
    assert unpacked[:4] == b"\x7fELF", "the kernel is not packed with lz4 any more"
    made = directory / "made"
    made.mkdir()
    (made / "initrd.gz").write_bytes(initrd(tree))
    (made / "vmlinux").write_bytes(unpacked)
    return made


def initrd(tree: Path) -> bytes:
    """What a kernel unpacks and runs /init of."""
    listed = "\n".join(str(each.relative_to(tree)) for each in sorted(tree.rglob("*")))
    archived = subprocess.run(
        ["cpio", "-o", "-H", "newc"], input=listed.encode(), cwd=tree, capture_output=True, check=True
    )
    return gzip.compress(archived.stdout, 1)


def _run(*words: str, cwd: Path | None = None) -> str:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True, slots=True)
class Nic:
    """One of the machine's, and what it is told of its network. interface: the tap."""

    interface: str
    mac: str
    address: str  # with its prefix length
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class Migrated:
    """When (of the wall clock) the one machine stopped and the other ran on, by their own words. said: QEMU's, at the
    end; milliseconds.
    """

    stopped_s: float
    resumed_s: float
    said: dict[str, Any]


class Machine:
    """One QEMU in a network namespace, driven by QMP. incoming: it waits for another's memory."""

    def __init__(
        self, namespace: str, of: Image, nics: Sequence[Nic], directory: Path, *, incoming: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        control = directory / "qmp.sock"
        control.unlink(missing_ok=True)
        words = " ".join(f"weft.eth{rank}={nic.address},{nic.mtu_bytes}" for rank, nic in enumerate(nics))
        command = [
            # Whoever started it is killed: it goes, too.
            "setpriv", "--pdeathsig", "KILL",
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "pc-i440fx-7.2", "-cpu", "qemu64", "-m", "128",
            "-nodefaults", "-display", "none", "-serial", f"file:{directory / 'console'}",
            "-qmp", f"unix:{control},server=on,wait=off", "-kernel", str(of.kernel), "-initrd", str(of.initrd),
            "-append", f"console=ttyS0 panic=-1 quiet {words}",
            *(["-incoming", "defer"] if incoming else []),
        ]  # fmt: skip
        for rank, nic in enumerate(nics):
            command += ["-netdev", f"tap,id=n{rank},ifname={nic.interface},script=no,downscript=no"]
            command += ["-device", f"virtio-net-pci,netdev=n{rank},mac={nic.mac}"]
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(shell.inside(namespace, command), stdout=log, stderr=log)
        try:
            self._monitor = _Monitor(control, self._process)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def migrate(self, to: Machine, at: Path) -> Migrated:
        """To a machine that waits; returns once that one runs. Neither is asked anything while it goes on."""
        at.unlink(missing_ok=True)
        events = [{"capability": "events", "state": True}]
        self._monitor.ask("migrate-set-capabilities", capabilities=events)
        to._monitor.ask("migrate-incoming", uri=f"unix:{at}")
        self._monitor.ask("migrate", uri=f"unix:{at}")
        resumed_s = to._monitor.heard("RESUME")
        stopped_s = self._monitor.heard("STOP")
        self._monitor.heard("MIGRATION", status="completed")
        return Migrated(stopped_s, resumed_s, self._monitor.ask("query-migrate"))

    def end(self) -> None:
        self._monitor.close()
        self._process.kill()
        self._process.wait()


@dataclass(slots=True)
class _Monitor:
    """QMP: a line of JSON each way, and events in between, which are kept."""

    path: Path
    process: subprocess.Popen[bytes]
    _socket: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))
    _events: list[dict[str, Any]] = field(default_factory=list)
    _read: bytes = b""

    def __post_init__(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while self._socket.connect_ex(str(self.path)):
            assert self.process.poll() is None, f"QEMU has ended: {self._log()}"
            assert time.monotonic() < deadline_s, "QEMU does not listen"
            time.sleep(0.01)
        self._socket.settimeout(PATIENCE_S)
        self._line()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            said = self._line()
            if "error" in said:
                raise RuntimeError(f"{command}: {said['error']['desc']}")
            if "return" in said:
                answer: dict[str, Any] = said["return"]
                return answer
            self._events.append(said)

    def heard(self, event: str, **data: Any) -> float:
        """When it came about, of the wall clock; waits for it."""
        while True:
            while self._events:
                each = self._events.pop(0)
                if each.get("event") == event and data.items() <= each.get("data", {}).items():
                    at = each["timestamp"]
                    return float(at["seconds"] + at["microseconds"] / 1e6)
            self._events.append(self._line())

    def close(self) -> None:
        self._socket.close()

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._read:
            try:
                came = self._socket.recv(65_536)
            except TimeoutError as fault:
                raise RuntimeError(f"QEMU has said nothing for {PATIENCE_S:g} s: {self._log()}") from fault
            if not came:
                raise RuntimeError(f"QEMU has ended: {self._log()}")
            self._read += came
        line, _, self._read = self._read.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def _log(self) -> str:
        return (self.path.parent / "log").read_text(errors="replace").strip()[-1000:]

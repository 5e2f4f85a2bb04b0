"""Real virtual machines: a stock kernel and a busybox, in QEMU, on a tap of a lab's host. Knows nothing of Weft.

Software emulation: KVM needs a machine that has it, and what is measured is the network's part of a migration.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
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
  case $word in weft.*) eval "${{word#weft.}}";; esac
done
/bin/busybox ip link set lo up
/bin/busybox ip link set eth0 mtu $mtu up
/bin/busybox ip addr add $address dev eth0
/bin/busybox ip route add default via $gateway
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
    """Debian's cloud kernel and busybox, as apt has them; made once, whoever asks first."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Image(directory / "vmlinux", directory / "initrd.gz")
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made.kernel.exists() and made.initrd.exists()):
            _make(made, directory)
    return made


def _make(made: Image, directory: Path) -> None:
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
    archive.unlink()
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
    packed = initrd(tree)
    [vmlinuz] = root.glob("boot/vmlinuz-*")
    raw = vmlinuz.read_bytes()
    # PVH boots the kernel proper, without the decompressor, which takes an emulated CPU seconds.
    unpacked = subprocess.run(
        ["lz4", "-dc"], input=raw[raw.index(_LZ4_LEGACY) :], capture_output=True, check=False
    ).stdout
    assert unpacked[:4] == b"\x7fELF", "the kernel is not packed with lz4 any more"
    made.initrd.write_bytes(packed)
    made.kernel.write_bytes(unpacked)
    shutil.rmtree(root)
    shutil.rmtree(tree)


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
    """The machine's, and what it is told of its network. interface: the tap."""

    interface: str
    mac: str
    address: str  # with its prefix length
    gateway: str
    mtu_bytes: int


class Machine:
    """One QEMU in a network namespace, driven by QMP. incoming: it waits for another's memory."""

    def __init__(self, namespace: str, of: Image, nic: Nic, directory: Path, *, incoming: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._control = directory / "qmp.sock"
        self._control.unlink(missing_ok=True)
        told = {"address": nic.address, "gateway": nic.gateway, "mtu": str(nic.mtu_bytes)}
        words = " ".join(f"weft.{name}={value}" for name, value in told.items())
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "pc-i440fx-7.2", "-cpu", "qemu64", "-m", "128",
            "-nodefaults", "-display", "none", "-serial", f"file:{directory / 'console'}",
            "-qmp", f"unix:{self._control},server=on,wait=off", "-kernel", str(of.kernel), "-initrd", str(of.initrd),
            "-append", f"console=ttyS0 panic=-1 quiet {words}",
            "-netdev", f"tap,id=n0,ifname={nic.interface},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=n0,mac={nic.mac}",
            *(["-incoming", "defer"] if incoming else []),
        ]  # fmt: skip
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(shell.inside(namespace, command), stdout=log, stderr=log)
        self._monitor = _Monitor(self._control, self._process)

    def migrate(self, to: Machine, at: Path) -> dict[str, Any]:
        """To a machine that waits; returns what QEMU says of it (milliseconds) once that one runs."""
        at.unlink(missing_ok=True)
        to._monitor.ask("migrate-incoming", uri=f"unix:{at}")
        self._monitor.ask("migrate", uri=f"unix:{at}")
        deadline_s = time.monotonic() + PATIENCE_S
        while (said := self._monitor.ask("query-migrate")).get("status") != "completed":
            assert said.get("status") not in ("failed", "cancelled"), said
            assert time.monotonic() < deadline_s, said
            time.sleep(0.02)
        while to._monitor.ask("query-status")["status"] != "running":
            assert time.monotonic() < deadline_s, "the machine does not run on"
            time.sleep(0.005)
        return said

    def end(self) -> None:
        self._monitor.close()
        self._process.kill()
        self._process.wait()


class _Monitor:
    """QMP: a line of JSON each way; events in between are passed over."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        self._socket = socket.socket(socket.AF_UNIX)
        while self._socket.connect_ex(str(path)):
            assert process.poll() is None, f"QEMU has ended: see {path.parent / 'log'}"
            assert time.monotonic() < deadline_s, "QEMU does not listen"
            time.sleep(0.02)
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            said = json.loads(self._lines.readline())
            if "error" in said:
                raise RuntimeError(f"{command}: {said['error']['desc']}")
            if "return" in said:
                answer: dict[str, Any] = said["return"]
                return answer

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

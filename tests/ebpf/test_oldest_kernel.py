"""The oldest kernel that Weft runs on, Debian 12's Linux 6.1, takes every program: its verifier knows less."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bench import virtual_machines
from bench.processes import ROOT

from weft.dataplane.ebpf import libbpf, maps
from weft.dataplane.ebpf.btf import Btf

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("virtual machine")]

BPFTOOL = Path("/usr/sbin/bpftool")
PATIENCE_S = 300.0  # an emulated CPU, beside whatever else runs
INIT = """#!/bin/sh
/bin/busybox mkdir -p /proc /sys
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t bpf bpf /sys/fs/bpf
for variant in /variants/*; do
  /usr/sbin/bpftool prog loadall $variant /sys/fs/bpf/${variant##*/} 2>/said || /bin/busybox tail -n 40 /said
  echo "loaded $variant: $(/bin/busybox ls /sys/fs/bpf/${variant##*/} | /bin/busybox sort | /bin/busybox tr '\\n' ' ')"
done
echo "on Linux $(/bin/busybox uname -r)"
/bin/busybox poweroff -f
"""


def without_decap_l3(source: Path, to: Path) -> None:
    """The object as Weft loads it where the kernel has no BPF_F_ADJ_ROOM_DECAP_L3_*, as Linux 6.1 has none."""
    with libbpf.Object(source) as opened:
        place = Btf(opened.btf()).constant("weft_decap_l3")
    assert place is not None
    section = to.with_suffix(".rodata")
    subprocess.run(["llvm-objcopy", f"--dump-section=.rodata={section}", source], check=True)
    constants = bytearray(section.read_bytes())
    constants[place[0] : place[0] + place[1]] = (0).to_bytes(place[1], sys.byteorder)
    section.write_bytes(constants)
    subprocess.run(["llvm-objcopy", f"--update-section=.rodata={section}", source, to], check=True)
    section.unlink()


def machine(directory: Path, tree: Path) -> str:
    """What it says on its console until it is off."""
    of = virtual_machines.image(ROOT / "build" / "vm")
    (directory / "initrd").write_bytes(virtual_machines.initrd(tree))
    command = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "pc-i440fx-7.2", "-cpu", "qemu64", "-m", "512",
        "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(of.kernel),
        "-initrd", str(directory / "initrd"), "-append", "console=ttyS0 panic=-1 quiet",
    ]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=True)
    return done.stdout.decode(errors="replace").replace("\r", "")


def test_debian_12s_own_kernel_takes_every_program(tmp_path: Path, weft_object: Path) -> None:
    tree = tmp_path / "tree"
    for each in ("bin", "usr/sbin", "variants"):
        (tree / each).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    shutil.copy(BPFTOOL, tree / "usr/sbin/bpftool")
    needs = subprocess.run(["ldd", BPFTOOL], capture_output=True, text=True, check=True).stdout
    for library in map(Path, re.findall(r"(/\S+) \(0x", needs)):
        target = tree / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    without_decap_l3(weft_object, tree / "variants" / "before")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)

    said = machine(tmp_path, tree)

    assert re.search(r"^on Linux 6\.1\.", said, re.MULTILINE), said
    assert f"loaded /variants/before: {' '.join(sorted(maps.PROGRAMS))} \n" in said, said

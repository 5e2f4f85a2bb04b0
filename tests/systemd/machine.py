"""A machine with systemd as its first process: this one's own file system, on which whatever it writes is forgotten.

Namespaces of its own (processes, mounts, network, host name, control groups); the kernel is this one's. What the
distribution starts is taken out, so that nothing but what a test starts runs, or touches what is the kernel's.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from polling import eventually

ROOT = Path(__file__).parents[2]

BOOT = """
set -eu
root=$1 source=$2 packages=$3 python=$4
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir "$root/upper" "$root/work" "$root/merged"
mount -t overlay -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" overlay "$root/merged"
cd "$root/merged"

# Nothing that the distribution starts, but for the journal.
rm -rf etc/systemd/system/* etc/systemd/network etc/systemd/journald.conf.d
rm -f lib/systemd/system/*.wants/* lib/systemd/system-generators/*
mkdir -p etc/systemd/system var/log
rm -rf var/log/journal etc/machine-id && systemd-id128 new >etc/machine-id
: >etc/fstab
cat >etc/systemd/system/weft-test.target <<END
[Unit]
Requires=basic.target systemd-journald.service
After=basic.target systemd-journald.service
AllowIsolate=yes
END

# Weft, where its units look for it: a virtual environment, readable without anybody's home directory.
rm -rf opt/weft opt/python etc/weft var/lib/weft var/lib/weft-controller
mkdir -p opt/python opt/weft/bin "opt/weft/lib/python$5/site-packages" etc/weft/tls
mount --rbind "$python" opt/python
ln -s "/opt/python/bin/python$5" opt/weft/bin/python
printf 'home = /opt/python/bin\\ninclude-system-site-packages = false\\n' >opt/weft/pyvenv.cfg
printf '#!/opt/weft/bin/python\\nfrom weft.apps.cli import main\\nmain()\\n' >opt/weft/bin/weft
chmod 755 opt/weft/bin/weft
mount -t overlay -o "lowerdir=$source:$packages" overlay "opt/weft/lib/python$5/site-packages"
echo /opt/python/lib >etc/ld.so.conf.d/weft-test.conf
cp "$6"/systemd/* etc/systemd/system/
install -D -m 644 "$6"/sysusers/weft.conf etc/sysusers.d/weft.conf

mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for each in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${each%:*}" c 1 "${each#*:}"; done
mkdir dev/pts dev/shm && mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts && ln -s pts/ptmx dev/ptmx
mkdir old && pivot_root . old && cd / && umount -l old
echo weft-test >/proc/sys/kernel/hostname
ldconfig
systemd-sysusers
exec env -i container=weft-test PATH="$PATH" /lib/systemd/systemd --system --unit=weft-test.target --show-status=no
"""


@dataclass
class Machine:
    """pid: of its first process."""

    pid: int
    environment: Mapping[str, str]

    def inside(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--all", "--wdns=/", "--", *words]

    def tried(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(*words), input=text, capture_output=True, text=True, check=False, timeout=60,
            env=dict(self.environment),
        )  # fmt: skip

    def run(self, *words: str, text: str = "") -> str:
        done = self.tried(*words, text=text)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, script: str) -> str:
        return self.run("sh", "-euc", script)

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-euc", f"cat > {path}", text=text)

    def shows(self, unit: str) -> dict[str, str]:
        """The properties of a unit."""
        return dict(line.split("=", 1) for line in self.run("systemctl", "show", unit).splitlines() if "=" in line)

    def status(self, pid: str) -> dict[str, str]:
        """/proc/PID/status."""
        return dict(re.findall(r"^(\w+):\s*(.*)$", self.run("cat", f"/proc/{pid}/status"), re.MULTILINE))

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)


def _control_groups() -> Path:
    """Where control groups of version 2 are, of this machine."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(mount.split()[4])
    raise AssertionError("control groups of version 2 are not mounted here")


@contextlib.contextmanager
def machine(directory: Path) -> Iterator[Machine]:
    groups = _control_groups() / f"weft-test-{os.getpid()}"
    groups.mkdir()
    root = directory / "root"
    root.mkdir()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path(sys.prefix) / "lib" / f"python{version}" / "site-packages"
    boot = directory / "boot.sh"
    boot.write_text(BOOT)
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    log = directory / "boot.log"
    with log.open("wb") as out:
        outer = subprocess.Popen(
            [
                "sh", "-euc", f'echo $$ >{groups}/cgroup.procs; exec "$@"', "sh",
                "unshare", "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child=KILL",
                "bash", str(boot), str(root), str(ROOT / "src"), str(packages), sys.base_prefix, version,
                str(ROOT / "packaging"),
            ],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment,
        )  # fmt: skip
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        eventually(lambda: outer.poll() is not None or children.read_text().split(), "it has a first process")
        assert outer.poll() is None, log.read_text()
        made = Machine(int(children.read_text().split()[0]), environment)
        eventually(lambda: _is_up(made, outer, log), "systemd is up", every_s=0.1)
        yield made
    finally:
        outer.kill()  # and its first process with it, and so all of them
        outer.wait()
        eventually(lambda: _cleared(groups), "its control groups are empty")


def _is_up(made: Machine, outer: subprocess.Popen[bytes], log: Path) -> bool:
    if outer.poll() is not None:
        raise RuntimeError(log.read_text())
    if "systemd" not in Path(f"/proc/{made.pid}/comm").read_text():
        return False
    return made.tried("systemctl", "is-active", "weft-test.target").returncode == 0


def _cleared(group: Path) -> bool:
    """Whether it, and all below it, could be removed."""
    for path, _, _ in os.walk(group, topdown=False):
        try:
            Path(path).rmdir()
        except OSError:
            return False
    return True

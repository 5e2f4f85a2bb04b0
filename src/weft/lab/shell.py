"""Carries out a lab's steps with ip(8) and /proc/sys, and finds what a lab left behind. Never decides what to build."""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, assert_never

from weft.kit.errors import Rejected, Retry
from weft.lab.plan import (
    AddAddress,
    AddDefaultRoute,
    AddNamespace,
    AddRoute,
    AddSwitch,
    AddVeth,
    DeleteAddress,
    DeleteLink,
    End,
    Plug,
    Rename,
    RenameLive,
    SetSysctl,
    SetUp,
    Step,
    TurnDefaultRoute,
)

T = TypeVar("T")
NAMESPACES = Path("/run/netns")
BPF_FILESYSTEM = Path("/sys/fs/bpf")
_CLONE_NEWNET = 0x4000_0000
_TENTATIVE = 0x40  # IFA_F_TENTATIVE


def run(steps: Iterable[Step], progress: Callable[[int], None] = lambda _: None) -> None:
    """Consecutive steps of one namespace go in one run of ip. progress: told how many steps were done."""
    for (where, sysctls), group in itertools.groupby(
        steps, key=lambda step: (_where(step), isinstance(step, SetSysctl))
    ):
        batch = list(group)
        if sysctls:
            within(where, lambda batch=batch: _write_sysctls(batch))  # type: ignore[misc]  # binds the loop's value
        else:
            ip_batch((_line(step) for step in batch), where)
        progress(len(batch))


def ip_batch(lines: Iterable[str], namespace: str = "", *, force: bool = False) -> None:
    """force: go on after a line that fails, and say nothing of it."""
    text = "".join(f"{line}\n" for line in lines)
    command = ["ip", *(["-n", namespace] if namespace else []), *(["-force"] if force else []), "-batch", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode and not force:
        raise Rejected(f"ip {' '.join(command[1:])} failed: {done.stderr.strip()}\n{text.strip()}")


def await_addresses(namespace: str, interface: str, addresses: Iterable[str], *, patience_s: float = 5.0) -> None:
    """Until the IPv6 ones of them are the interface's own: until then nothing that is sent to them is taken."""
    wanted = {address for each in addresses if (address := ipaddress.ip_interface(each).ip).version == 6}
    deadline = time.monotonic() + patience_s
    while not wanted <= within(namespace, lambda: _settled_addresses(interface)):
        if time.monotonic() > deadline:
            raise Retry(f"{interface} of {namespace} has not got its IPv6 addresses within {patience_s:g} s")
        time.sleep(0.002)


def _settled_addresses(interface: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Of IPv6, those that duplicate address detection is done with."""
    lines = (line.split() for line in Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii").splitlines())
    return {
        ipaddress.IPv6Address(bytes.fromhex(address))
        for address, _, _, _, flags, name in lines
        if name == interface and not int(flags, 16) & _TENTATIVE
    }


def within(namespace: str, work: Callable[[], T]) -> T:
    """Run work in a network namespace, on a thread of its own: the caller's own stays where it is."""
    outcome: list[T] = []
    fault: list[BaseException] = []

    def body() -> None:
        try:
            enter(namespace)
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            fault.append(error)

    thread = threading.Thread(target=body, name=f"in {namespace}")
    thread.start()
    thread.join()
    if fault:
        raise fault[0]
    return outcome[0]


def enter(namespace: str) -> None:
    """The calling thread goes into the namespace, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")
    finally:
        os.close(descriptor)


def inside(namespace: str, command: Sequence[str]) -> list[str]:
    """The command, in a namespace. Not by `ip netns exec`, which hides /sys/fs/bpf."""
    return ["nsenter", f"--net={NAMESPACES / namespace}", "--", *command]


def namespaces(prefix: str) -> list[str]:
    if not NAMESPACES.is_dir():
        return []
    return sorted(each.name for each in NAMESPACES.iterdir() if each.name.startswith(prefix))


def delete_namespaces(names: Iterable[str]) -> None:
    """Absent is success."""
    if names := list(names):
        ip_batch((f"netns delete {name}" for name in names), force=True)
    for name in names:
        (NAMESPACES / name).unlink(missing_ok=True)  # a name whose namespace was never mounted on it


def renames_live() -> bool:
    """Whether an interface that is up may be given another name: since Linux 6.2."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (6, 2)


def mount_bpf_filesystem() -> None:
    if not os.path.ismount(BPF_FILESYSTEM):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPF_FILESYSTEM)], check=True, capture_output=True)


def remove_tree(path: Path) -> None:
    """Of files or of pins; absent is success."""
    if path.exists():
        shutil.rmtree(path)


def tentative(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(namespace, address) of every address whose duplicate detection is not over, or failed."""
    for name in names:
        shown = subprocess.run(
            ["ip", "-n", name, "-6", "-o", "address", "show"], capture_output=True, text=True, check=True
        ).stdout
        for line in shown.splitlines():
            words = line.split()
            if "tentative" in words or "dadfailed" in words:
                yield name, words[3]


def _where(step: Step) -> str:
    match step:
        case AddNamespace() | AddVeth():
            return ""  # made from outside, straight into their namespaces
        case _:
            return step.namespace


def _line(step: Step) -> str:
    match step:
        case AddNamespace(name):
            return f"netns add {name}"
        case AddVeth(left, right, mtu_bytes):
            return f"link add {_end(left)} mtu {mtu_bytes} type veth peer {_end(right)} mtu {mtu_bytes}"
        case AddSwitch(_, interface, mtu_bytes):
            # It snoops in earnest once it has asked and waited: for a second, in place of ten, if that is said before.
            # By IGMPv3 and MLDv2, where every host speaks for itself, also when it leaves.
            waits = "mcast_query_response_interval 100 mcast_igmp_version 3 mcast_mld_version 2"
            return (
                f"link add name {interface} mtu {mtu_bytes} type bridge {waits}\n"
                f"link set {interface} type bridge mcast_snooping 1 mcast_querier 1"
            )
        case Plug(_, interface, switch):
            return f"link set {interface} master {switch}"
        case DeleteLink(_, interface):
            return f"link delete {interface}"
        case Rename(_, interface, to):
            return f"link set {interface} down\nlink set {interface} name {to}"
        case RenameLive(_, interface, to):
            return f"link set {interface} name {to}"
        case DeleteAddress(_, interface, address):
            return f"address delete {address} dev {interface}"
        case TurnDefaultRoute(_, via, interface):
            return f"route replace {'::/0' if ':' in via else '0.0.0.0/0'} via {via} dev {interface}"
        case AddAddress(_, interface, address, checked):
            unchecked = " nodad" if ":" in address and not checked else ""
            return f"address add {address} dev {interface}{unchecked}"
        case SetUp(_, interface):
            return f"link set {interface} up"
        case AddDefaultRoute(_, via):
            return f"route add {'::/0' if ':' in via else '0.0.0.0/0'} via {via}"
        case AddRoute(_, to, via):
            return f"route add {to} via {via}"
        case SetSysctl():
            raise ValueError("a sysctl is no work for ip")
        case _:
            assert_never(step)


def _end(end: End) -> str:
    return f"name {end.interface} netns {end.namespace}" + (f" address {end.mac}" if end.mac else "")


def _write_sysctls(steps: Sequence[Any]) -> None:
    for step in steps:
        path = Path("/proc/sys/net") / step.key
        if path.exists():  # IPv6 may be off altogether
            path.write_text(str(step.value), encoding="ascii")

"""Puts programs on interfaces and takes them off. Never touches a link, filter or qdisc that is not Weft's.

With TCX (Linux 6.6) an attachment is a link, pinned in a directory of its own: what is pinned there is ours. Without,
it is a filter: see clsact.py.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from weft.dataplane.ebpf import bpffs, libbpf
from weft.dataplane.ebpf.libbpf import Direction
from weft.kit.errors import Retry

_LINGERING_S = 1.0


class Attacher(Protocol):
    """One way of attaching. ``at``: the directory of this interface's attachment, on the BPF file system."""

    def program_id(self, at: Path, ifindex: int, direction: Direction) -> int | None:
        """Of our program that runs there; None when there is none."""
        ...

    def attach(self, at: Path, ifindex: int, direction: Direction, program: libbpf.Program) -> None:
        """Make the program run there, in the place of a former one of ours without a packet between the two.

        Raises Retry when the interface does not let it.
        """
        ...

    def detach(self, at: Path, ifindex: int, direction: Direction) -> None:
        """Take our program off; absent is success."""
        ...


class Tcx:
    """Links, pinned."""

    def program_id(self, at: Path, ifindex: int, direction: Direction) -> int | None:
        link = self._link(at, ifindex, direction)
        if link is None:
            return None
        link.close()
        return link.program_id

    def attach(self, at: Path, ifindex: int, direction: Direction, program: libbpf.Program) -> None:
        link = self._link(at, ifindex, direction)
        if link is not None:
            try:
                if link.program_id != program.id:
                    link.update(program)
            finally:
                link.close()
            return
        pin = self._pin(at, direction)
        bpffs.remove(pin)  # of an interface that is gone
        link = self._create(program, ifindex, direction)
        try:
            libbpf.pin(link.fd, pin)
        finally:
            link.close()

    def detach(self, at: Path, ifindex: int, direction: Direction) -> None:
        link = self._link(at, ifindex, direction)
        if link is not None:
            # A link whose last pin goes is taken off some time later; till then the program cannot be attached anew.
            link.detach()
            link.close()
        bpffs.remove(self._pin(at, direction))

    def _link(self, at: Path, ifindex: int, direction: Direction) -> libbpf.Link | None:
        """None also when the link is none any more: its interface is gone, or somebody detached it by force."""
        try:
            link = libbpf.Link.of(libbpf.pinned(self._pin(at, direction)))
        except FileNotFoundError:
            return None
        if link.ifindex == ifindex:
            return link
        link.close()
        return None

    @staticmethod
    def _create(program: libbpf.Program, ifindex: int, direction: Direction) -> libbpf.Link:
        end = time.monotonic() + _LINGERING_S
        while True:
            try:
                return libbpf.Link.create(program, ifindex, direction)
            except OSError as error:
                # The program is there yet: the last pin of its link was removed by hand, and the kernel takes it off
                # in a moment. A later try would leave the interface open from then on.
                if error.errno != errno.EEXIST or time.monotonic() > end:
                    raise Retry(f"no program can be attached to interface {ifindex}: {error}") from error
                time.sleep(0.002)

    @staticmethod
    def _pin(at: Path, direction: Direction) -> Path:
        return at / direction.name.lower()


def let_look_up_routes() -> None:
    """The routes that the host's own packets take, for the programs to look up: bpf_fib_lookup says no for an interface
    that does not forward, so they ask as the loopback does.

    Never of a port's interface: when a program comes off it, the host's stack must not forward what the guest sends.
    Besides, the kernel drops every default route that it learned from router advertisements each time that an
    interface begins to forward IPv6.
    """
    for family in ("ipv4", "ipv6"):
        path = Path("/proc/sys/net", family, "conf/lo/forwarding")
        with suppress(FileNotFoundError):  # no such family
            if path.read_text(encoding="ascii").strip() != "1":
                path.write_text("1", encoding="ascii")


def best(host: str) -> Attacher:
    """TCX where the kernel has it."""
    if libbpf.has_tcx():
        return Tcx()
    from weft.dataplane.ebpf.clsact import Clsact  # with it comes pyroute2: 8 MB and 0.2 s

    return Clsact(host)

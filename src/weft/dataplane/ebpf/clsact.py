"""Attaches by filters on a clsact qdisc, for kernels without TCX. Removes no qdisc that it did not make.

A filter has no owner that the kernel keeps, so its name holds the host and the program's id.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from weft.dataplane.ebpf import libbpf
from weft.dataplane.ebpf.libbpf import Direction
from weft.kit.errors import Retry

_PRIORITY = 0x5746
_HANDLE = 1
_PROTOCOL_ALL = 3  # ETH_P_ALL
_PARENTS: Mapping[Direction, int] = {Direction.INGRESS: 0xFFFFFFF2, Direction.EGRESS: 0xFFFFFFF3}


class Clsact:
    """Filters in direct-action mode. host: tells our filters from those of another Weft."""

    def __init__(self, host: str) -> None:
        self._mark = f"weft:{host}:"

    def program_id(self, at: Path, ifindex: int, direction: Direction) -> int | None:  # noqa: ARG002  the name says it
        with IPRoute() as netlink:
            return self._ours(netlink, ifindex, direction)

    def attach(self, at: Path, ifindex: int, direction: Direction, program: libbpf.Program) -> None:
        with IPRoute() as netlink:
            try:
                # The mark first: after a crash between the two it is a mark too many, which removes nothing of others.
                if not self._has_clsact(netlink, ifindex):
                    self._made(at).mkdir(exist_ok=True)
                    netlink.tc("add", "clsact", ifindex)
                ours = self._ours(netlink, ifindex, direction)
                if ours == program.id:
                    return
                netlink.tc(
                    "add-filter" if ours is None else "replace-filter",
                    "bpf",
                    ifindex,
                    _HANDLE,
                    fd=program.fd,
                    name=f"{self._mark}{program.name}:{program.id}",
                    parent=_PARENTS[direction],
                    prio=_PRIORITY,
                    protocol=_PROTOCOL_ALL,
                    direct_action=True,
                )
            except NetlinkError as error:
                raise Retry(f"no program can be attached to interface {ifindex}: {error}") from error

    def detach(self, at: Path, ifindex: int, direction: Direction) -> None:
        with IPRoute() as netlink:
            try:
                if self._ours(netlink, ifindex, direction) is not None:
                    netlink.tc(
                        "del-filter",
                        "bpf",
                        ifindex,
                        _HANDLE,
                        parent=_PARENTS[direction],
                        prio=_PRIORITY,
                        protocol=_PROTOCOL_ALL,
                    )
                if self._made(at).exists() and not any(self._filters(netlink, ifindex, d) for d in Direction):
                    self._made(at).rmdir()
                    if self._has_clsact(netlink, ifindex):
                        netlink.tc("del", "clsact", ifindex)
            except NetlinkError as error:
                if error.code not in (errno.ENODEV, errno.ENOENT):
                    raise
                with suppress(FileNotFoundError):
                    self._made(at).rmdir()

    @staticmethod
    def _made(at: Path) -> Path:
        """There when the qdisc was made by Weft."""
        return at / "clsact"

    def _ours(self, netlink: IPRoute, ifindex: int, direction: Direction) -> int | None:
        for name in self._filters(netlink, ifindex, direction):
            if name.startswith(self._mark):
                return int(name.rsplit(":", 1)[1])
        return None

    def _filters(self, netlink: IPRoute, ifindex: int, direction: Direction) -> list[str]:
        """Names of the filters there; empty for one that has no name."""
        try:
            found = list(netlink.get_filters(ifindex, parent=_PARENTS[direction]))
        except NetlinkError as error:
            if error.code in (errno.ENODEV, errno.EINVAL, errno.ENOENT):  # no interface, no qdisc
                return []
            raise
        names = []
        for message in found:
            options = message.get_attr("TCA_OPTIONS")
            if options is not None:
                named = options.get_attr("TCA_BPF_NAME") if message.get_attr("TCA_KIND") == "bpf" else None
                names.append(named or "")
        return names

    @staticmethod
    def _has_clsact(netlink: IPRoute, ifindex: int) -> bool:
        return any(message.get_attr("TCA_KIND") == "clsact" for message in netlink.get_qdiscs(ifindex))

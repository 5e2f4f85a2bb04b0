"""Frames as they are on a wire, from an AF_PACKET socket in a namespace, and a pcap file of them for tshark.

Is listening when its constructor returns: no packet is missed for want of a process that starts.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from weft.kit.errors import Rejected
from weft.lab import shell

_ETH_P_ALL = 0x0003
_LINKTYPE_ETHERNET = 1


class Wire:
    """Everything that passes an interface, both ways; and frames of our own put on it."""

    def __init__(self, namespace: str, interface: str) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            made.bind((interface, _ETH_P_ALL))
            return made

        self._socket = shell.within(namespace, make)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def frames(self, enough: Callable[[list[bytes]], bool], within_s: float = 3.0) -> list[bytes]:
        """What has passed since the last call, until it is enough or the time is over."""
        found: list[bytes] = []
        deadline = time.monotonic() + within_s
        while not enough(found) and (left_s := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                found.append(self._socket.recv(65_535))
            except TimeoutError:
                break
        return found


def is_nvgre(frame: bytes) -> bool:
    """Over IPv4 without options or IPv6 without extension headers, as we send it."""
    return _gre(frame) != 0


def vsid(frame: bytes) -> int:
    """Of a frame that is NVGRE."""
    key = _gre(frame) + 4
    return int.from_bytes(frame[key : key + 3], "big")


def _gre(frame: bytes) -> int:
    """Where the GRE header of NVGRE begins; 0: there is none."""
    match frame[12:14]:
        case b"\x08\x00":
            protocol, begin = 23, 34
        case b"\x86\xdd":
            protocol, begin = 20, 54
        case _:
            return 0
    found = frame[protocol : protocol + 1] == b"\x2f" and frame[begin : begin + 4] == bytes.fromhex("20006558")
    return begin if found else 0


def write_pcap(path: Path, frames: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, _LINKTYPE_ETHERNET))
        for number, frame in enumerate(frames):
            file.write(struct.pack("=IIII", 0, number, len(frame), len(frame)) + frame)


def decode(path: Path, *options: str) -> str:
    """What tshark says of a capture file."""
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), *options], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise Rejected(f"tshark cannot read {path}: {done.stderr.strip()}")
    return done.stdout


def decode_json(path: Path) -> list[dict[str, Any]]:
    """Each frame's layers as tshark names them."""
    return [each["_source"]["layers"] for each in json.loads(decode(path, "-T", "json"))]

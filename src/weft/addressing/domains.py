"""Domain names as DHCP and router advertisements carry them. Never compresses: not every client unpacks it."""

from __future__ import annotations

from collections.abc import Iterable


def encode(name: str) -> bytes:
    """RFC 1035 section 3.1: labels, each behind its length, and a zero."""
    return b"".join(bytes((len(label),)) + label.encode("ascii") for label in name.split(".")) + b"\0"


def search_list(names: Iterable[str]) -> bytes:
    """RFC 3397, RFC 3646, RFC 8106: one after the other."""
    return b"".join(map(encode, names))

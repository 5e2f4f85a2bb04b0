"""Connections in words: who asks in ICMP, ports where there are some, and what FTP expects."""

from __future__ import annotations

import pytest

from weft.cli.ends import ends


@pytest.mark.parametrize(
    ("protocol", "state", "begun_by", "ports", "shown"),
    [
        ("tcp", "established", "guest", (40000, 80), ("10.0.0.3 40000", "->", "10.0.2.9 80")),
        ("udp", "udp_replied", "other", (53, 40000), ("10.0.0.3 53", "<-", "10.0.2.9 40000")),
        ("udp", "udp_unreplied", "guest", (0, 9), ("10.0.0.3 0", "->", "10.0.2.9 9")),
        ("icmp", "icmp_replied", "other", (24613, 8), ("10.0.0.3", "<-", "10.0.2.9 type 8 id 24613")),
        ("icmpv6", "icmp_unreplied", "guest", (7, 128), ("10.0.0.3 type 128 id 7", "->", "10.0.2.9")),
        ("47", "other_replied", "guest", (0, 0), ("10.0.0.3", "->", "10.0.2.9")),
        ("tcp", "expected", "other", (20001, 0), ("10.0.0.3 20001", "<-", "10.0.2.9 any")),
    ],
)
def test_each_end_is_shown_with_what_its_protocol_has(
    protocol: str, state: str, begun_by: str, ports: tuple[int, int], shown: tuple[str, str, str]
) -> None:
    local_port, remote_port = ports
    assert shown == ends(
        protocol=protocol, state=state, begun_by=begun_by,
        local="10.0.0.3", local_port=local_port, remote="10.0.2.9", remote_port=remote_port,
    )  # fmt: skip

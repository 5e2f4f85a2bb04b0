"""What FTP's control connections say, read by the reference."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.reference import ftp
from weft.reference.ftp import Said

OWN = bytes([10, 0, 1, 4])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"PORT 10,0,1,4,195,80\r\n", Said(OWN, 50_000)),
        (b"pOrT 10,0,1,4,0,21\n", Said(OWN, 21)),
        (b"EPRT |1|10.0.1.4|50000|\r\n", Said(OWN, 50_000)),
        (b"EPRT -1-10.0.1.4-5-\r\n", Said(OWN, 5)),
        (b"EPRT |2|::1|50000|\r\n", Said(bytes(15) + b"\1", 50_000)),
        (b"EPRT |2|1:2:3:4:5:6:7::|1|\r\n", Said(ipaddress.IPv6Address("1:2:3:4:5:6:7:0").packed, 1)),
        (b"PORT 10,0,1,4,195,80\r\nPORT 10,0,1,4,195,81\r\n", Said(OWN, 50_001)),
        (b"PORT 10,0,1,4,195,80\r\nPORT 10,0,1,4,195,81", Said(OWN, 50_000)),
        (b"PORT 10,0,1,4,195,256\r\n", None),
        (b"PORT 10,0,1,4,195,0080\r\n", None),
        (b"PORT 10,0,1,4,195\r\n", None),
        (b"EPRT |2|1:2:3:4:5:6:7:8::|1|\r\n", None),
        (b"EPRT |2|1::2::3|1|\r\n", None),
        (b"EPRT |2|::10.0.1.4|1|\r\n", None),
        (b"EPRT |2|fe80::1%eth0|1|\r\n", None),
        (b"EPRT 110.0.1.4|5|\r\n", None),
        (b"227 So (10,0,1,4,195,80)\r\n", None),
    ],
)
def test_a_client_says(text: bytes, said: Said | None) -> None:
    assert ftp.heard(text, of_client=True) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"227 Entering Passive Mode (10,0,1,4,195,80).\r\n", Said(OWN, 50_000)),
        (b"227 10,0,1,4,195,80\r\n", Said(OWN, 50_000)),
        (b"230 so\r\n229 Extended (|||50000|)\r\n", Said(None, 50_000)),
        (b"229 (|||65536|)\r\n", None),
        (b"229 (||50000|)\r\n", None),
        (b"227-(10,0,1,4,195,80)\r\n", None),
        (b"PORT 10,0,1,4,195,80\r\n", None),
    ],
)
def test_a_server_says(text: bytes, said: Said | None) -> None:
    assert ftp.heard(text, of_client=False) == said


@given(st.ip_addresses(v=6), st.integers(0, 65535))
def test_every_way_to_write_an_address_is_read(address: ipaddress.IPv6Address, port: int) -> None:
    for written in (str(address), address.exploded, address.exploded.upper()):
        assert ftp.heard(f"EPRT |2|{written}|{port}|\r\n".encode(), of_client=True) == Said(address.packed, port)

"""Whatever a control connection of FTP says, the reference reads it, or reads nothing of it.

That the programs read the same is tests/ebpf/test_conntrack.py.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.reference import ftp

WORDS = (
    b"PORT ",
    b"EPRT ",
    b"227 ",
    b"229 ",
    b"(",
    b")",
    b"|",
    b",",
    b".",
    b":",
    b"::",
    b"1",
    b"255",
    b"256",
    b"65536",
    b"\r\n",
)
SPOKEN = st.lists(st.sampled_from(WORDS) | st.binary(max_size=2), max_size=40).map(b"".join)


@settings(max_examples=500)
@given(st.binary(max_size=600) | SPOKEN, st.booleans())
def test_garbage_is_never_more_than_a_place_or_nothing(text: bytes, of_client: bool) -> None:
    said = ftp.heard(text, of_client=of_client)
    if said is not None:
        assert 0 <= said.port < 1 << 16
        assert said.address is None or len(said.address) in (4, 16)


@settings(max_examples=500)
@given(SPOKEN, st.booleans())
def test_what_is_cut_off_never_says_another_place(text: bytes, of_client: bool) -> None:
    """A text that ends early says what its whole lines say, or nothing: no number is read in part."""
    places = {ftp.heard(line + b"\n", of_client=of_client) for line in text.split(b"\n")}
    for end in range(len(text)):
        assert ftp.heard(text[:end], of_client=of_client) in {*places, None}

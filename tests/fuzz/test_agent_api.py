"""Whatever is asked of an agent's socket is answered, says whose turn it is, and cuts nothing when it says no."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx2
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from unit.test_agent import WEB, Scene, over, port, record, until
from weft.agent import conntrack
from weft.kit.errors import Rejected
from weft.policy.rows import Port
from weft.reference import packet

KEYS = st.sampled_from(["tenant", "port", "address", "protocol", "state", "x", "", "limit"])
SAID = st.text(max_size=8) | st.sampled_from([
    "blue", WEB, "10.0.0.2", "10.0.0.02", "::ffff:10.0.0.2", "fe80::1%eth0", "tcp", "TCP", "6", "256", "-1", "9" * 40,
    "established", "udp_unreplied", "expected", "\u0661", "\x00", "", "\ud7ff",
])  # fmt: skip
QUERIES = st.dictionaries(KEYS, SAID, max_size=3)
PATHS = st.sampled_from([
    "/connections", "/connections/flush", "/connections/", "/connections/x", "/rules", "/denials", "/counters",
    "/status", "/heard", "/attach", "/detach", "/metrics", "/healthz", "/", "", "/connections/events",
])  # fmt: skip
BODIES = (
    st.binary(max_size=40)
    | st.sampled_from([b"", b"[" * 5000, b"null", b"{}", b'{"port": 1}', b'{"port": "x", "interface": "eth7"}'])
    | st.dictionaries(
        st.sampled_from(["port", "interface", "x"]), st.none() | st.integers() | st.text(max_size=8), max_size=3
    ).map(msgspec.json.encode)
)
REQUESTS = st.tuples(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]), PATHS, QUERIES, BODIES)


@settings(max_examples=500)
@given(query=QUERIES)
def test_a_filter_is_one_or_is_refused_by_the_name_of_what_is_wrong(query: dict[str, str]) -> None:
    refusal: Rejected | None = None
    try:
        conntrack.parse(query)
    except Rejected as refused:
        refusal = refused
    if refusal is not None:
        assert refusal.field in query
        assert refusal.message


@settings(max_examples=12)
@given(requests=st.lists(REQUESTS, min_size=5, max_size=25))
def test_no_request_is_answered_with_500_and_a_refusal_cuts_no_connection(
    requests: list[tuple[str, str, dict[str, str], bytes]],
) -> None:
    async def send() -> None:
        with tempfile.TemporaryDirectory() as directory:
            here = Scene(Path(directory))
            guarded = port(WEB, 2)
            assert isinstance(guarded, Port)
            here.controller.put(record(2), replace(guarded, port_security=True))
            async with here.controller.serving(), here.agent():
                assert (await here.ask("POST", "/attach", {"port": WEB, "interface": "eth7"}))[0] == 200
                await until(here.programmed)
                async with httpx2.AsyncClient(
                    transport=over(here.socket), verify=False, base_url="http://agent", trust_env=False
                ) as http:
                    for method, path, query, body in requests:
                        await _judge(here, http, method, path, query, body)

    asyncio.run(send())


async def _judge(
    here: Scene, http: httpx2.AsyncClient, method: str, path: str, query: dict[str, str], body: bytes
) -> None:
    if path == "/connections/events":
        query = {**query, "x": ""}  # a stream that begins does not end
    udp = b"\x0f\xa0\x00\x35\x00\x0c\x00\x00said"
    whole = packet.ipv4(packet.address_bytes("10.0.0.2"), packet.address_bytes("10.0.0.9"), 17, udp)
    here.plane.from_port("eth7", packet.ethernet(b"\x02" * 6, packet.mac_bytes("02:00:00:00:00:02"), 0x0800, whole))
    before = len(list(here.plane.connections()))
    target = path + "?" + "&".join(f"{quote(key)}={quote(value)}" for key, value in query.items())
    answer = await http.request(method, target, content=body)
    assert answer.status_code < 500, (method, target, answer.text)
    if answer.status_code >= 400:
        if method != "HEAD":
            assert answer.json()["detail"], (method, target)
        assert len(list(here.plane.connections())) == before

"""The kernel's word of interfaces, in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap

import pytest

from polling import PATIENCE_S
from weft.agent.links import Link, NetlinkLinks


async def test_the_loopback_is_known_for_what_it_is() -> None:
    with contextlib.closing(NetlinkLinks()) as links:
        found = links.by_name()["lo"]
    assert (found.index, found.loopback) == (1, True)


async def watch() -> None:
    """Run in a new namespace: an interface comes, goes up, is renamed, joins and leaves a bridge, and goes."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    with contextlib.closing(NetlinkLinks()) as links:

        async def until(name: str, up: bool | None) -> Link | None:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    link = links.by_name().get(name)
                    if (link.up if link else None) is up:
                        return link
                    await links.changed()

        assert set(links.by_name()) == {"lo"}
        ip("link", "add", "tapweb-1", "type", "veth", "peer", "name", "guest")
        made = await until("tapweb-1", False)
        async with asyncio.timeout(PATIENCE_S):
            for words, addresses in (
                (("add", "192.0.2.1/24"), ["192.0.2.1"]),
                (("add", "2001:db8::1/64", "nodad"), ["192.0.2.1", "2001:db8::1"]),
                (("add", "fe80::7/64", "nodad"), ["192.0.2.1", "2001:db8::1"]),  # every interface has such
                (("delete", "192.0.2.1/24"), ["2001:db8::1"]),
                (("add", "169.254.0.1/16"), ["169.254.0.1", "2001:db8::1"]),  # a PA may be one
                (("delete", "169.254.0.1/16"), ["2001:db8::1"]),
            ):
                ip("address", *words, "dev", "tapweb-1")
                while links.addresses().get("tapweb-1") != addresses:
                    await links.changed()
            with contextlib.closing(NetlinkLinks()) as later:
                assert later.addresses() == {"tapweb-1": ["2001:db8::1"]}
        ip("link", "set", "guest", "up")
        ip("link", "set", "tapweb-1", "up")
        up = await until("tapweb-1", True)
        assert made is not None
        assert up is not None
        assert made.index == up.index
        ip("link", "set", "guest", "down")
        await until("tapweb-1", False)
        ip("link", "set", "tapweb-1", "name", "taplog-1")
        await until("tapweb-1", None)
        await until("taplog-1", False)
        for number in range(20):
            ip("link", "set", "taplog-1", "mtu", str(1400 + number % 2))
        ip("link", "delete", "taplog-1")
        await until("taplog-1", None)
        await until("guest", None)


@pytest.mark.root
def test_an_interface_is_seen_from_its_making_to_its_end() -> None:
    script = textwrap.dedent(f"""
        import asyncio, sys
        sys.path[:0] = {sys.path!r}
        from unit.test_agent_links import watch
        asyncio.run(watch())
    """)
    subprocess.run(["unshare", "--net", sys.executable, "-c", script], check=True, timeout=60)

"""Records what a release stores and feeds for a known intent: run with its sources, and kept for those after it.

PYTHONPATH=<the release's src> python tests/recorded/record.py <manifest.yaml> > tests/recorded/release-<version>.json
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import yaml

from weft.controller.service import Put, Service
from weft.model.names import Name
from weft.store.memory import MemoryStore

HOSTS = ("h1", "h2", "h3")
UPLINKS = [{"interface": "eth1", "provider_network": "underlay"}]
UNDERLAY: list[dict[str, Any]] = [
    {"name": "provider-networks/underlay", "spec": {"pools": [{"prefix": "100.64.0.0/16"}]}},
    *({"name": f"hosts/{host}", "spec": {"uplinks": UPLINKS}} for host in HOSTS),
]


async def frames(service: Service, host: str) -> list[str]:
    found: list[str] = []
    async with aclosing(service.follow(Name(f"hosts/{host}"), None)) as chunks:
        async for chunk in chunks:
            found += chunk.decode().splitlines()
            if '"synced":true' in found[-1]:
                break
    return found


async def main(objects: list[dict[str, Any]]) -> None:
    wanted = [*UNDERLAY, *objects]
    store = MemoryStore()
    service = await Service.start(store)
    puts = [Put(Name(each["name"]), json.dumps(each.get("spec", {})).encode()) for each in wanted]
    await service.apply(puts, [], dry_run=False)
    objects = {name: stored.value.decode() for name, stored in (await store.snapshot()).objects.items()}
    feeds = {host: await frames(service, host) for host in HOSTS}
    json.dump({"objects": objects, "feeds": feeds}, sys.stdout, indent=1, sort_keys=True)


asyncio.run(main(yaml.safe_load(Path(sys.argv[1]).read_text())["objects"]))

"""Records what a release keeps: a SQLite file, and a backup of it if it makes them. Run with that release's sources.

PYTHONPATH=<the release's src> python tests/recorded/record_store.py <directory> <name> <manifest.yaml>...
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import yaml

RUN = "import sys; from weft.apps.controller import run; run(sys.argv[1], [sys.argv[2]])"


def objects(manifests: list[str]) -> list[dict[str, object]]:
    """What manifests say, each name once."""
    found: dict[str, dict[str, object]] = {}
    for path in manifests:
        for document in yaml.safe_load_all(Path(path).read_text()):
            for each in document if isinstance(document, list) else document.get("objects", []):
                found.setdefault(each["name"], {"name": each["name"], "spec": each.get("spec", {})})
    return list(found.values())


def main(directory: Path, name: str, manifests: list[str]) -> None:
    file, socket = directory / f"{name}.db", directory / f"{name}.sock"
    file.unlink(missing_ok=True)
    controller = subprocess.Popen([sys.executable, "-c", RUN, str(file), f"unix://{socket}"])
    transport = httpx2.HTTPTransport(uds=str(socket), retries=0)
    with httpx2.Client(transport=transport, base_url="http://weft/v1", timeout=10) as client:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        applied = client.post("/apply", json={"puts": objects(manifests), "deletes": []})
        assert applied.status_code == 200, applied.text
        # Whatever of it there was then: tokens, a quota, and with them the audit log.
        client.post("/tokens", json={"user": "ann", "role": "tenant-admin", "tenant": "blue"})
        client.put("/quotas/blue", json={"limits": {"port": 100}})
    controller.terminate()
    assert controller.wait() == 0
    asyncio.run(export(file, directory / f"{name}.ndjson"))


async def export(file: Path, backup_file: Path) -> None:
    from weft.store.sqlite import SqliteStore

    try:
        from weft.store import backup
    except ImportError:  # it made none
        return
    store = SqliteStore(file)
    with backup_file.open("wb") as out:
        await backup.export(store, out.write)
    await store.close()


main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])

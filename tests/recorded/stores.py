"""What the release before stored: real files, made by its own code (record.py, record_store.py)."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

HERE = Path(__file__).parent

#: By the name of its SQLite file: what it was made of, as manifest, and so what must be there.
STORES = ("early-0.1", "release-0.1")


def unpack(name: str, directory: Path) -> Path:
    """A SQLite file as that release left it."""
    file = directory / f"{name}.db"
    file.write_bytes(gzip.decompress((HERE / f"{name}.db.gz").read_bytes()))
    return file


def values() -> dict[str, bytes]:
    """What release-0.1.ndjson has, as it stands there."""
    found = {}
    for line in (HERE / "release-0.1.ndjson").read_bytes().splitlines()[1:-1]:
        name = json.loads(line)["name"]
        found[name] = line[line.index(b'"value":') + len(b'"value":') : -1]
    return found


def sources(directory: Path) -> Path:
    """That release's controller, to be run: a directory for PYTHONPATH."""
    with tarfile.open(HERE / "release-0.1-src.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory

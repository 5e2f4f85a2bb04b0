"""Keys and certificates on disk. Never leaves a file half written, or a key that others may read."""

from __future__ import annotations

import os
from pathlib import Path

from weft.kit.errors import Rejected


def write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """All of it or none: the file is replaced by one that is on disk already."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise Rejected(f"{path} cannot be written: {error.strerror}") from error


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Rejected(f"{path} cannot be read: {error.strerror}") from error

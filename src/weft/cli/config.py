"""Where the controller is and what is shown to it, for people who do not want to say it each time.

The environment goes before the file. A file that others can read must not hold a token.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from weft.kit.errors import Rejected


@dataclass(frozen=True, slots=True)
class Config:
    """What is not said is None, or an empty token."""

    controller: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    token: str = ""


def path() -> Path:
    """$WEFT_CONFIG, or weft/config.yaml where a user's configuration is."""
    if said := os.environ.get("WEFT_CONFIG"):
        return Path(said)
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "weft" / "config.yaml"


def read() -> Config:
    found = _file(path())
    for field in fields(Config):
        if said := os.environ.get(f"WEFT_{field.name.upper()}"):
            found[field.name] = said
    files = {
        name: Path(found[name]).expanduser() for name in ("certificate", "key", "ca") if found.get(name) is not None
    }
    return Config(controller=found.get("controller"), token=found.get("token", ""), **files)


def _file(at: Path) -> dict[str, Any]:
    try:
        text = at.read_text(encoding="utf-8")
        mode = at.stat().st_mode
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"the configuration {at} cannot be read: {error}") from error
    import yaml

    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise Rejected(f"the configuration {at} is not YAML: {error}") from error
    known = {field.name for field in fields(Config)}
    if not isinstance(found, dict) or not found.keys() <= known:
        raise Rejected(f"the configuration {at} may say {', '.join(sorted(known))}, and nothing else")
    for name, value in found.items():
        if not isinstance(value, str):
            raise Rejected(f"{name} in the configuration {at} is not text")
    if "token" in found and mode & 0o077:
        raise Rejected(f"{at} holds a token, and others may read it: chmod 600 {at}")
    return found

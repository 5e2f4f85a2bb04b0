"""When certificates in files end: for those who watch over them."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path

from weft.kit.errors import Rejected
from weft.tls.certificates import Certificate
from weft.tls.files import read


def ends(certificate: Path | None, ca: Path | None = None) -> dict[str, datetime]:
    """Of what is shown, and of the first authority to end that is believed. What cannot be read is left out."""
    found: dict[str, datetime] = {}
    for name, path in (("server", certificate), ("ca", ca)):
        if path is not None:
            with contextlib.suppress(Rejected):
                held = Certificate.all_of_pem(read(path))
                found[name] = held[0].not_after if name == "server" else min(each.not_after for each in held)
    return found

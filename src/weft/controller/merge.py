"""RFC 7396, JSON merge patch, of ``{"spec": …}``. Judges nothing of what comes out of it."""

from __future__ import annotations

from typing import Any

import msgspec

from weft.kit.errors import Rejected
from weft.wire.objects import decode_body

_ANY = msgspec.json.Decoder(dict[str, Any])


def parse(raw: bytes) -> dict[str, Any]:
    """The patch of the spec."""
    body = decode_body(raw, _ANY)
    for field in body:
        if field != "spec":
            raise Rejected("a patch is of the spec, and has no other field", field)
    spec = body.get("spec", {})
    if not isinstance(spec, dict):
        raise Rejected("a spec is an object, and cannot be patched into anything else", "spec")
    return spec


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396 section 2."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for field, value in patch.items():
        if value is None:
            merged.pop(field, None)
        else:
            merged[field] = merge(merged.get(field), value)
    return merged

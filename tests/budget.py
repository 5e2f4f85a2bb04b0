"""How many examples a property is asked of."""

from __future__ import annotations

from hypothesis import settings

#: Hypothesis' own number of examples, which the profile of a whole run leaves as it is.
_WHOLE = 100


def examples(count: int, **more: int) -> settings:
    """So many in a whole run; in a quick one (``--hypothesis-profile quick``: ``make check``) a part of them."""
    return settings(max_examples=max(1, count * settings.default.max_examples // _WHOLE), **more)  # type: ignore[arg-type, union-attr]

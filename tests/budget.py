"""How many examples a property is asked of."""

from __future__ import annotations

from hypothesis import settings

#: Hypothesis' own number of examples, which the profile of a whole run leaves as it is.
_WHOLE = 100


def examples(count: int, steps: int | None = None) -> settings:
    """So many in a whole run; in a quick one (``--hypothesis-profile quick``: ``make check``) a part of them. steps: of
    each, where it is a state machine's.
    """
    profile = settings.default
    assert profile is not None
    return settings(
        max_examples=max(1, count * profile.max_examples // _WHOLE),
        stateful_step_count=profile.stateful_step_count if steps is None else steps,
    )

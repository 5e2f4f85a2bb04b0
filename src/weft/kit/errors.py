"""The two errors that say whose turn it is. Anything else that is raised is a bug."""

from __future__ import annotations

from typing import Self


class Rejected(Exception):
    """What the caller gave cannot be done, and never will be, until the caller changes it.

    field: where in what was given the fault is, as a dotted path such as ``spec.mac``; empty when it is
    the whole. The message says what was given and what would be right.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def at(self, field: str) -> Self:
        """The same fault, found one level further out."""
        inner = self.field
        joined = f"{field}.{inner}" if inner and not inner.startswith("[") else f"{field}{inner}"
        return type(self)(self.message, joined)


class Missing(Rejected):
    """What was named does not exist."""


class Conflict(Rejected):
    """What was given rests on a state that is no longer so (If-Match, a name, address or id already taken)."""


class Retry(Exception):
    """It did not work now and may work later; nothing was changed."""

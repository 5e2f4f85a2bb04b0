"""How often something may happen: so many at once, then so many a second. Reads no clock."""

from __future__ import annotations


class Bucket:
    """Begins full."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Whether it may happen once more, now; then it has."""
        if self._at_s is not None:
            self._left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def ready_s(self) -> float:
        """When it may happen again; in the past: it may."""
        return (self._at_s or 0.0) + max(0.0, 1 - self._left) / self._per_s

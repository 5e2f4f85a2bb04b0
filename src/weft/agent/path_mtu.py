"""How large a packet gets through between two provider addresses: RFC 8899's search. Sends nothing, reads no clock."""

from __future__ import annotations

#: After this long a packet that was asked for has not come through.
WAIT_S = 0.2
#: After this long what is said to be too large does not come through all the same: whoever said it has lied.
LIE_S = 0.05
#: So many lost packets of one size say that the size is too large: in the search, and for one that got through before.
TRIES, VERIFY_TRIES = 2, 3
#: What got through is tried again, so that a path that takes less than before is found (RFC 8899 section 4.3).
VERIFY_S = 1.0
#: A path that takes less than its ends is asked for more (RFC 8899 section 5.1.1: PMTU_RAISE_TIMER, there ten minutes;
#: four packets in ten seconds are little between hosts).
RAISE_S = 10.0

#: What every path takes: RFC 791, RFC 8200. And where a search that has no hint begins.
FLOOR_BYTES = {4: 576, 6: 1280}
BASE_BYTES = 1280


class Search:
    """One pair of addresses. Sizes are of whole IP packets, none larger than ``ceiling``, the uplink's own.

    told: what to hold packets to; 0: nothing is known yet. It changes when a search has ended,
    not while it goes on: senders keep what they are told for minutes.
    """

    def __init__(self, version: int, ceiling: int) -> None:
        self.told = 0
        self.due_s = 0.0
        self.verify_s = VERIFY_S
        self._floor = min(FLOOR_BYTES[version], ceiling)
        self._ceiling = ceiling
        self._good = 0  # got through
        self._bad = ceiling + 1  # did not
        self._hint = 0  # what a router said, or where a new search begins
        self._asked = 0
        self._tries = 0
        self._raise_s: float | None = None

    def ask(self, now_s: float) -> int:
        """The size to send next. What was asked for and has not been answered is lost."""
        if self._asked:
            self._lost()
        if self.settled:
            self._settle(now_s)
        if self._raise_s is not None and now_s >= self._raise_s:
            self._raise_s = None
            self._bad, self._hint = self._ceiling + 1, self._good
        self._asked = self._candidate()
        self.due_s = now_s + WAIT_S
        return self._asked

    def answered(self, size: int, now_s: float) -> None:
        """A packet of this size got through."""
        if size > self._good:
            self._good = size
            self._bad = self._bad if size < self._bad else self._ceiling + 1
        if size == self._asked:
            self._asked = self._tries = 0
            self.due_s = now_s
        if self.settled:
            self._settle(now_s)

    def refused(self, size: int, hint: int, now_s: float) -> None:
        """A router, or this host's own kernel, says that the size is too large, and perhaps what would not be. It is no
        more than a hint: the next packet shows whether it is so.
        """
        if size != self._asked:
            return
        self._asked = 0
        self._fails(size)
        self._hint = hint if self._floor <= hint < size else 0
        self.due_s = now_s + LIE_S

    def pause(self, until_s: float) -> None:
        """The path itself is in doubt: what is lost now says nothing of sizes."""
        self._asked = self._tries = 0
        self.due_s = until_s

    @property
    def waits(self) -> bool:
        """For an answer to what was asked."""
        return self._asked > 0

    @property
    def settled(self) -> bool:
        """What gets through is known, and tried again now and then."""
        return self._bad - self._good == 1

    def _settle(self, now_s: float) -> None:
        # All of the uplink's is told, too: what the kernel has learnt of the path anybody can have said to it.
        self.told = self._good
        if self._good < self._ceiling and self._raise_s is None:
            self._raise_s = now_s + RAISE_S
        if not self._asked:
            self.due_s = now_s + self.verify_s

    def _lost(self) -> None:
        self._tries += 1
        if self._tries >= (VERIFY_TRIES if self._asked <= self._good else TRIES):
            self._fails(self._asked)
        self._asked = 0

    def _fails(self, size: int) -> None:
        self._tries = 0
        self._bad = min(self._bad, size)
        if self._good >= size:
            self._good = 0
        if self._bad <= self._floor:
            # Nothing can be made of that: small packets pass, and what every path takes does not.
            self._good, self._bad = self._floor, self._floor + 1

    def _candidate(self) -> int:
        if self.settled:
            return self._good
        if self._good < self._hint < self._bad:
            return self._hint
        if self._bad > self._ceiling:
            return self._ceiling
        if self._good and self._good == self._hint:
            return self._good + 1
        if not self._good:
            return BASE_BYTES if self._floor < BASE_BYTES < self._bad else self._floor
        return (self._good + self._bad) // 2

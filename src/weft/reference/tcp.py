"""What TCP segments make of a connection that is tracked: states, and sequence numbers held against windows.

Judges one connection; looks none up, and never says whether a new one may be. Sequence numbers are modulo 2^32. Sides:
0 is the port's guest, 1 whom it talks to. RFC 9293 (states), RFC 5961 (RST, SYN), RFC 7323 (window scale).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from weft.policy.connections import State

FIN, SYN, RST, ACK = 1, 2, 4, 16
NO_SCALE = 255
MOST_SCALE = 14  # RFC 7323 section 2.3
#: An acknowledgement may be so much older than what was sent last, whatever the window.
LATE_BYTES = 66_000
_MOD = 1 << 32
BOTH = 3


def after(a: int, b: int) -> bool:
    """Whether a comes behind b in the space of sequence numbers."""
    return 0 < (a - b) % _MOD < _MOD >> 1


def before(a: int, b: int) -> bool:
    return after(b, a)


@dataclass(frozen=True, slots=True)
class Segment:
    """What of a segment counts here. data_bytes: behind the header; scale: of the option in a SYN, or NO_SCALE."""

    seq: int
    ack: int
    flags: int
    window: int
    data_bytes: int
    scale: int = NO_SCALE

    @property
    def end(self) -> int:
        """The number behind its last: SYN and FIN count one each."""
        return (self.seq + self.data_bytes + bool(self.flags & SYN) + bool(self.flags & FIN)) % _MOD

    @property
    def opens(self) -> bool:
        return self.flags & (SYN | ACK) == SYN


def sound(flags: int) -> bool:
    """Whether flags can be together: RST and SYN are alone but for ACK, and without either there is ACK."""
    if flags & SYN:
        return not flags & (RST | FIN)
    if flags & RST:
        return not flags & FIN
    return bool(flags & ACK)


class Step(Enum):
    """What becomes of a segment."""

    PASS = 0  # and the connection's time begins anew
    QUIET = 1  # passes, and is no sign of life
    INVALID = 2
    ASK = 3  # it would open a connection: rules say whether it may


@dataclass(slots=True)
class Pending:
    """A SYN that came within a connection: its other end may answer it, having forgotten the connection."""

    side: int
    end: int
    window: int
    scale: int


@dataclass(slots=True)
class Tcp:
    """One connection. Of each side: end: what it has sent; edge: up to where it may; window: its largest; acked: up to
    where it has acknowledged what the other sent.

    While only a SYN has come (SYN_SENT), edge of its side is its number, and edge of the other the number that a
    challenge has acknowledged.

    moved: it was another host's, or its guest is still there: what has been sent since is not known here, so windows
    say nothing until the guest has spoken here, and then the other end.
    """

    state: State = State.SYN_SENT
    opener: int = 0
    end: list[int] = field(default_factory=lambda: [0, 0])
    edge: list[int] = field(default_factory=lambda: [0, 0])
    window: list[int] = field(default_factory=lambda: [0, 0])
    acked: list[int] = field(default_factory=lambda: [0, 0])
    scale: list[int] = field(default_factory=lambda: [NO_SCALE, NO_SCALE])
    heard: int = 0  # bit 1 << side: the side's SYN has been acknowledged
    finished: int = 0  # bit 1 << side: the side's FIN has come
    challenged: bool = False
    pending: Pending | None = None
    #: Of each side: whether what it sends next is known to begin a line. Of FTP's control connections only.
    line: list[bool] = field(default_factory=lambda: [False, False])
    moved: bool = False
    spoken: bool = False  # of one that is moved: its guest has spoken here

    def begin(self, side: int, segment: Segment) -> None:
        """A SYN that opens."""
        self.state, self.opener = State.SYN_SENT, side
        self.end, self.edge = [0, 0], [0, 0]
        self.acked, self.scale = [0, 0], [NO_SCALE, NO_SCALE]
        self.window = [1, 1]
        self.heard = self.finished = 0
        self.challenged, self.pending, self.line = False, None, [False, False]
        self.end[side] = segment.end
        self.edge[side] = segment.seq
        self.window[side] = max(segment.window, 1)
        self.scale[side] = segment.scale

    def wait(self, side: int, segment: Segment) -> None:
        """A SYN that rules let pass, within a connection that is there."""
        self.pending = Pending(side, segment.end, segment.window, segment.scale)

    def stretch(self, side: int, end: int) -> None:
        """A later fragment of a segment that has passed: it has sent up to there."""
        if self.state not in (State.SYN_SENT, State.CLOSED):
            self.line[side] = False
            if after(end, self.end[side]):
                self.end[side] = end
            if after(end, self.edge[side]):
                self.edge[side] = end

    def step(self, side: int, segment: Segment) -> Step:
        """What becomes of a sound segment of a side, and of the connection with it."""
        if segment.opens:
            return self._opens(side, segment)
        if self.state is State.SYN_SENT and not (self.moved and not segment.flags & SYN):
            return self._answers(side, segment)
        pending = self._answered(side, segment)
        if pending is not None:
            if segment.flags & SYN:
                self.begin(pending.side, Segment((pending.end - 1) % _MOD, 0, SYN, pending.window, 0, pending.scale))
                self._answer(side, segment)
                return Step.PASS
            if segment.flags & RST:
                return Step.QUIET  # it refuses that SYN, and says nothing of what is there
        if self.moved:
            return self._carries_on(side, segment)
        if segment.flags & RST:
            return self._resets(side, segment)
        return self._goes_on(side, segment)

    def _opens(self, side: int, segment: Segment) -> Step:
        if self.state is State.SYN_SENT:
            if side == self.opener:
                self.begin(side, segment)
            else:
                self._answer(side, segment)  # RFC 9293 figure 7: both open at once
            return Step.PASS
        if self.state is State.SYN_RECEIVED and segment.end == self.end[side]:
            return Step.PASS
        return Step.ASK

    def _answers(self, side: int, segment: Segment) -> Step:
        """While only the opener's SYN is known."""
        opener = self.opener
        if side == opener:
            if not segment.flags & RST:
                return Step.INVALID
            if segment.seq == self.end[opener]:
                self.state = State.CLOSED
                return Step.PASS
            # RFC 9293 figure 9: who has forgotten a connection resets what the other still has of it.
            return Step.QUIET if self.challenged and segment.seq == self.edge[1 - opener] else Step.INVALID
        acceptable = after(segment.ack, self.edge[opener]) and not after(segment.ack, self.end[opener])
        if not segment.flags & ACK:
            return Step.INVALID
        if segment.flags & RST:
            if not acceptable:
                return Step.INVALID
            self.state = State.CLOSED
            return Step.PASS
        if segment.flags & SYN and acceptable:
            self._answer(side, segment)
            return Step.PASS
        if segment.flags & FIN or segment.data_bytes:
            return Step.INVALID
        self.challenged = True
        self.edge[side] = segment.ack
        return Step.QUIET

    def _answer(self, side: int, segment: Segment) -> None:
        """The second SYN, with or without an acknowledgement."""
        opener = 1 - side
        first = self.edge[opener]
        window = max(segment.window, 1)
        self.end[side] = segment.end
        self.window[side] = window
        self.edge[side] = (segment.seq + 1 + self.window[opener]) % _MOD
        acked = bool(segment.flags & ACK)
        self.edge[opener] = ((segment.ack if acked else self.end[opener]) + window) % _MOD
        self.acked[side] = segment.ack if acked else first
        self.heard = 1 << opener if acked else 0
        self.acked[opener] = segment.seq
        self.scale[side] = segment.scale
        if NO_SCALE in self.scale:
            self.scale = [0, 0]
        self.state = State.SYN_RECEIVED

    def _answered(self, side: int, segment: Segment) -> Pending | None:
        """The SYN that waits, when the segment acknowledges it."""
        pending = self.pending
        if pending is None or side == pending.side or not segment.flags & ACK or segment.ack != pending.end:
            return None
        return pending

    def _resets(self, side: int, segment: Segment) -> Step:
        """RFC 5961 section 3.2: only the very next number resets; the end itself questions another in its window."""
        expected = self.acked[1 - side]
        if segment.seq in (expected, self.end[side]):
            if self.state in (State.TIME_WAIT, State.CLOSED):  # RFC 1337
                return Step.QUIET
            self.state = State.CLOSED
            return Step.PASS
        if before(segment.seq, expected) or after(segment.seq, self.edge[side]):
            return Step.INVALID
        return Step.QUIET

    def _goes_on(self, side: int, segment: Segment) -> Step:
        other = 1 - side
        window = segment.window if segment.flags & SYN else segment.window << self.scale[side]
        unheard = not self.heard & 1 << other
        if (
            after(segment.seq, self.edge[side])
            or before(segment.end, (self.end[side] - self.window[other]) % _MOD)
            or after(segment.ack, self.end[other])
            or before(segment.ack, (self.end[other] - max(self.window[side], LATE_BYTES)) % _MOD)
            or (unheard and not after(segment.ack, self.acked[side]))
        ):
            return Step.INVALID
        if self.state is State.CLOSED:
            return Step.QUIET
        self._advance(side, segment, window)
        return Step.PASS

    def _carries_on(self, side: int, segment: Segment) -> Step:
        """Of one that is moved: whatever it is, it was sent within windows that are not known here."""
        other = 1 - side
        if segment.flags & RST:
            if side == 0:
                self.state = State.CLOSED
            return Step.PASS if side == 0 else Step.QUIET
        if self.state is State.CLOSED:
            return Step.QUIET
        if self.state is State.SYN_SENT:
            # What both SYNs said of windows is not known: they are taken for the largest.
            self.scale = [MOST_SCALE, MOST_SCALE]
            self.end[side] = self.edge[side] = self.acked[other] = segment.seq
            self.end[other] = self.edge[other] = self.acked[side] = segment.ack
        window = segment.window if segment.flags & SYN else segment.window << self.scale[side]
        self.heard = BOTH
        self._advance(side, segment, window)
        if after(segment.ack, self.end[other]):
            self.end[other] = segment.ack
        if side == 0:
            self.spoken = True
        elif self.spoken:
            self.moved = self.spoken = False
        return Step.PASS

    def _advance(self, side: int, segment: Segment, window: int) -> None:
        """What a segment that passes says of both sides."""
        other = 1 - side
        self.window[side] = max(self.window[side], window)
        if after(segment.end, self.edge[side]):
            self.edge[side] = segment.end
        if after(segment.end, self.end[side]):
            self.end[side] = segment.end
        if after(segment.ack, self.acked[side]):
            self.acked[side] = segment.ack
            self.heard |= 1 << other
        edge = (segment.ack + max(window, 1)) % _MOD
        if after(edge, self.edge[other]):
            self.edge[other] = edge
        if segment.flags & FIN:
            self.finished |= 1 << side
        self.state = self._state()

    def _state(self) -> State:
        if self.heard != BOTH:
            return State.SYN_RECEIVED
        if not self.finished:
            return State.ESTABLISHED
        if self.finished != BOTH:
            return State.HALF_CLOSED
        # Nothing comes behind a FIN, so who has acknowledged all has acknowledged it.
        done = not before(self.acked[0], self.end[1]) and not before(self.acked[1], self.end[0])
        return State.TIME_WAIT if done else State.CLOSING

"""Which ways lead to the other hosts, and how large a packet takes each: decided from probes that come back, and from
links. Sends nothing, reads no clock.

A way is a pair of provider addresses, one of this host's and one of a peer's. Where there are several, flows are spread
over those that work. A peer that falls silent on all at once is one whose agent is silent: it keeps what it had.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from weft.agent.path_mtu import VERIFY_S, Search
from weft.contracts.dataplane import WAYS, Way
from weft.policy.rows import Host, Peer

#: Between two probes of a pair; of one of which a probe is missing; of one that has no other beside it.
STEADY_S, DOUBT_S, ALONE_S = 0.2, 0.1, 1.0
#: So many probes without an answer: the pair does not work. So many answers in a row: it works again.
MISSES, ANSWERS = 3, 3
#: What is sent on the whole, for liveness and for sizes: with more pairs than this allows, each is probed less often.
MOST_PER_S, MOST_LARGE_PER_S = 2000, 500
#: Pairs that were last heard of within this long fell silent together.
TOGETHER_S = 1.0
#: Pairs to one peer that are looked at: between PAs of one provider network, and across two.
MOST_PAIRS, MOST_CROSSING = WAYS, 4

SMALLEST_BYTES = 64


@dataclass(frozen=True, slots=True)
class Probe:
    """To be sent. packet_bytes: of the whole IP packet."""

    source: str
    destination: str
    token: int
    packet_bytes: int


@dataclass(slots=True, eq=False)
class _Pair:
    """crossing: its two PAs are in different provider networks. alive None: nothing is known yet."""

    source: str
    destination: str
    interface: str
    peer: str
    crossing: bool
    search: Search
    ceiling: int
    alive: bool | None = None
    heard_s: float | None = None
    missed: int = 0  # sent since the last that was answered
    answered: int = 0  # in a row
    due_s: float = 0.0
    scheduled_s: float = 0.0  # of its one entry in the heap; others of it are void
    tokens: list[int] = field(default_factory=list)  # of the small probes, oldest first
    sized: tuple[int, int] = (0, 0)  # the token and size of the large one
    behind: list[int] = field(default_factory=list)  # tokens of small ones that were sent behind that
    vouched: bool = False  # one of these has come back: so would have the large one
    doubted: bool = False  # a large one was not answered, and none behind it was sent, or answered
    locked_bytes: int = 0  # what the operator says that the kernel's route takes; 0: nothing

    @property
    def told_bytes(self) -> int:
        """What packets are held to; 0: nothing is known yet."""
        return min(self.search.told or self.locked_bytes, self.locked_bytes or self.search.told)

    @property
    def version(self) -> int:
        return 6 if ":" in self.source else 4

    @property
    def next_s(self) -> float:
        return min(self.due_s, self.search.due_s) if self.alive else self.due_s


class Paths:
    """All the ways of one host. random: 0 up to 1; token: what nobody can guess, never the same twice."""

    def __init__(self, random: Callable[[], float], token: Callable[[], int]) -> None:
        self._random = random
        self._token = token
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._by_peer: dict[str, list[_Pair]] = {}
        self._asked: dict[int, _Pair] = {}
        self._heap: list[tuple[float, tuple[str, str]]] = []
        self._down: frozenset[str] = frozenset()
        self._told: dict[str, tuple[Way, ...]] = {}
        self._dirty: dict[str, None] = {}
        self._peers: frozenset[str] = frozenset()

    # What there is

    def follow(self, host: Host | None, peers: Iterable[Peer], now_s: float) -> None:
        """Whom this host has to do with. What is known of a pair that stays is kept."""
        own = set(host.pas) if host is not None else set()
        known = {peer.pa: peer for peer in peers if peer.pa not in own}
        self._peers = frozenset(pa for peer in known.values() for pa in peer.pas)
        former, self._pairs = self._pairs, {}
        before, self._by_peer = self._by_peer, {}
        for peer in known.values():
            some = _pairs(host, peer) if host is not None else []
            self._by_peer[peer.pa] = [self._keep(former, pair, now_s) for pair in some]
        for pair in former.values():
            if self._pairs.get((pair.source, pair.destination)) is not pair:
                for token in (*pair.tokens, pair.sized[0]):
                    self._asked.pop(token, None)
        for pair in self._pairs.values():
            pair.search.verify_s = max(VERIFY_S, len(self._pairs) / MOST_LARGE_PER_S)
        # A data plane forgets the ways of a peer that is now elsewhere.
        self._told = {pa: ways for pa, ways in self._told.items() if before.get(pa) == self._by_peer.get(pa)}
        self._dirty = dict.fromkeys(self._by_peer)

    def _keep(self, former: Mapping[tuple[str, str], _Pair], pair: _Pair, now_s: float) -> _Pair:
        key = (pair.source, pair.destination)
        old = former.get(key)
        if old is not None and (old.ceiling, old.interface, old.peer) == (pair.ceiling, pair.interface, pair.peer):
            old.crossing = pair.crossing
            self._pairs[key] = old
            return old
        self._pairs[key] = pair
        pair.due_s = pair.scheduled_s = now_s + self._random() * STEADY_S
        heapq.heappush(self._heap, (pair.due_s, key))
        return pair

    def links(self, down: Collection[str]) -> None:
        """The uplinks that have no carrier, or are not there."""
        down = frozenset(down)
        for pair in self._pairs.values():
            if (pair.interface in down) != (pair.interface in self._down):
                self._dirty[pair.peer] = None
        self._down = down

    def knows(self, pa: str) -> bool:
        """Whether it is a peer's: whoever else asks gets no answer."""
        return pa in self._peers

    # What is sent and comes back

    @property
    def next_s(self) -> float | None:
        """When there will be something to send; None: never, as things are."""
        return self._heap[0][0] if self._heap else None

    def due(self, now_s: float) -> Iterator[Probe]:
        """What to send now."""
        while self._heap and self._heap[0][0] <= now_s:
            at_s, key = heapq.heappop(self._heap)
            pair = self._pairs.get(key)
            if pair is None or pair.scheduled_s != at_s:
                continue
            if pair.due_s <= now_s:
                yield self._small(pair, now_s)
            if pair.alive and pair.search.due_s <= now_s:
                if pair.search.waits and not pair.vouched:
                    # Whoever is silent altogether, such as an agent that is started anew, says nothing of sizes.
                    pair.doubted = True
                    pair.search.pause(now_s + DOUBT_S)
                elif pair.missed > 1:
                    pair.search.pause(now_s + DOUBT_S)
                else:
                    yield self._large(pair, now_s)
                    if pair.doubted or not pair.search.settled:
                        yield self._small(pair, now_s)
            self._enter(pair)

    def heard(self, source: str, destination: str, token: int, now_s: float) -> None:
        """An answer to a probe from ``source`` to ``destination``. Any other is nobody's."""
        pair = self._asked.get(token)
        if pair is None or (pair.source, pair.destination) != (source, destination):
            return
        pair.heard_s = now_s
        if token == pair.sized[0]:
            size, pair.sized = pair.sized[1], (0, 0)
            del self._asked[token]
            pair.doubted = False
            before = pair.search.told
            pair.search.answered(size, now_s)
            if pair.search.told != before:
                self._dirty[pair.peer] = None
            self._schedule(pair)
            return
        pair.vouched = pair.vouched or token in pair.behind
        at = pair.tokens.index(token)
        for old in pair.tokens[: at + 1]:
            del self._asked[old]
        del pair.tokens[: at + 1]
        pair.missed = len(pair.tokens)
        pair.answered += 1
        if pair.alive is None or (not pair.alive and pair.answered >= ANSWERS):
            pair.alive = True
            pair.search.pause(now_s)
            self._dirty[pair.peer] = None
            self._schedule(pair)

    def refused(self, source: str, destination: str, hint: int, now_s: float) -> None:
        """Word that the last large probe did not fit; hint: what would, or 0."""
        pair = self._pairs.get((source, destination))
        if pair is not None and pair.sized[0]:
            pair.search.refused(pair.sized[1], hint, now_s)
            self._schedule(pair)

    def locked(self, source: str, destination: str, mtu_bytes: int) -> None:
        """What the operator says (``mtu lock``) that this host's route takes; 0: nothing. No probe knows better."""
        pair = self._pairs.get((source, destination))
        if pair is not None and pair.locked_bytes != mtu_bytes:
            pair.locked_bytes = mtu_bytes
            self._dirty[pair.peer] = None

    def _small(self, pair: _Pair, now_s: float) -> Probe:
        if pair.missed:
            pair.answered = 0
        if pair.missed >= MISSES and pair.alive is not False:
            pair.alive = False
            self._dirty[pair.peer] = None
        token = self._new(pair)
        pair.tokens.append(token)
        pair.behind = [*pair.behind[-MISSES:], token]
        if len(pair.tokens) > MISSES + 1:
            del self._asked[pair.tokens.pop(0)]
        pair.missed += 1
        pair.due_s = now_s + self._interval_s(pair) * (1 - self._random() / 4)
        return Probe(pair.source, pair.destination, token, SMALLEST_BYTES)

    def _large(self, pair: _Pair, now_s: float) -> Probe:
        self._asked.pop(pair.sized[0], None)
        before = pair.search.told
        size, token = pair.search.ask(now_s), self._new(pair)
        if pair.search.told != before:
            self._dirty[pair.peer] = None
        pair.sized, pair.behind, pair.vouched = (token, size), [], False
        return Probe(pair.source, pair.destination, token, size)

    def _interval_s(self, pair: _Pair) -> float:
        if len(self._by_peer[pair.peer]) < 2:
            return ALONE_S
        steady_s = max(STEADY_S, len(self._pairs) / MOST_PER_S)
        # One that is missing, and one that comes back after a long silence, are looked at more closely.
        doubtful = pair.missed > 1 if pair.alive else pair.answered > 0
        return DOUBT_S if doubtful else steady_s

    def _new(self, pair: _Pair) -> int:
        token = self._token()
        self._asked[token] = pair
        return token

    def _schedule(self, pair: _Pair) -> None:
        """It may be due earlier than it was."""
        if pair.next_s < pair.scheduled_s:
            self._enter(pair)

    def _enter(self, pair: _Pair) -> None:
        pair.scheduled_s = pair.next_s
        heapq.heappush(self._heap, (pair.scheduled_s, (pair.source, pair.destination)))

    # What comes of it

    def ways(self) -> dict[str, tuple[Way, ...]]:
        """By a peer's first PA: the ways that are others than when this was last asked; see DataPlane.paths."""
        changed: dict[str, tuple[Way, ...]] = {}
        for peer in self._dirty:
            ways = self._ways(self._by_peer.get(peer, []))
            if ways is not None and ways != self._told.get(peer):
                changed[peer] = self._told[peer] = ways
        self._dirty = {}
        return changed

    def repeat(self) -> None:
        """What was told may have been lost: the next ``ways`` gives all of it."""
        self._told = {}
        self._dirty = dict.fromkeys(self._by_peer)

    def state(self) -> list[tuple[str, str, bool | None, int]]:
        """Of every pair: source, destination, whether it works, what it takes (0: not known yet)."""
        return [(pair.source, pair.destination, pair.alive, pair.told_bytes) for pair in self._pairs.values()]

    def smallest_bytes(self) -> int:
        """What gets through to every peer that answers; 0: as the uplink. The one place to ask for guests' MTU."""
        return min((pair.told_bytes for pair in self._pairs.values() if pair.alive and pair.told_bytes), default=0)

    def _ways(self, pairs: list[_Pair]) -> tuple[Way, ...] | None:
        """None: nothing can be said, and what a former agent said stays."""
        if all(pair.heard_s is None for pair in pairs):
            return None
        straight = [pair for pair in pairs if not pair.crossing] or pairs
        if len(pairs) == 1:
            (pair,) = pairs
            return (_way(pair),) * WAYS if pair.told_bytes else ()
        usable = self._usable(pairs)
        ways = []
        for place in range(WAYS):
            # A flow stays where it is as long as that works; those of a pair that does not are spread over the others.
            home = straight[place % len(straight)]
            ways.append(_way(home if home in usable else usable[place // len(straight) % len(usable)]))
        return tuple(ways)

    def _usable(self, pairs: list[_Pair]) -> list[_Pair]:
        linked = [pair for pair in pairs if pair.interface not in self._down] or pairs
        alive = [pair for pair in linked if pair.alive]
        if alive:
            return [pair for pair in alive if not pair.crossing] or alive
        # All are silent: the peer's agent is, or everything is lost, and then it does not matter what is tried. What
        # had failed before is not tried again.
        last_s = max((pair.heard_s for pair in linked if pair.heard_s is not None), default=0.0)
        late = [pair for pair in linked if pair.heard_s is not None and pair.heard_s >= last_s - TOGETHER_S]
        return [pair for pair in late if not pair.crossing] or late or linked


def _way(pair: _Pair) -> Way:
    return Way(pair.source, pair.destination, pair.told_bytes)


def _pairs(host: Host, peer: Peer) -> list[_Pair]:
    """Those to one peer, straight ones first; each uplink and each PA has its turn before another has a second."""
    straight: list[_Pair] = []
    crossing: list[_Pair] = []
    own = [(pa, uplink) for uplink in host.uplinks for pa in uplink.pas]
    for step in range(max(len(own), len(peer.pas))):
        for at, (source, uplink) in enumerate(own):
            if step >= len(peer.pas):
                continue
            rank = (at + step) % len(peer.pas)
            destination, network = peer.pas[rank], peer.networks[rank]
            if (":" in source) != (":" in peer.pa) or (":" in destination) != (":" in peer.pa):
                continue
            search = Search(6 if ":" in source else 4, uplink.mtu_bytes)
            across = network != uplink.network
            pair = _Pair(source, destination, uplink.interface, peer.pa, across, search, uplink.mtu_bytes)
            (crossing if across else straight).append(pair)
    if not straight:
        return crossing[:MOST_PAIRS]
    return straight[:MOST_PAIRS] + crossing[:MOST_CROSSING]

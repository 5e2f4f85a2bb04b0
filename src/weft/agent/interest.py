"""Which multicast groups the guests of a subnet listen to at other hosts: asked of those hosts, told to them. Sends
nothing, reads no clock, carries no multicast.

Hosts ask each other, over the probes' port; no controller hears of it, so a guest that joins and leaves costs the hosts
of its subnet a little, and nobody else anything. Whoever does not answer, or not in time, is sent everything.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from weft.contracts.dataplane import Wanted
from weft.kit import rate
from weft.policy.rows import Host, Key, Member, Peer, Port, Row, Rule, Subnet
from weft.reference.packet import address_bytes, address_text, is_multicast

#: A peer that answers is asked again after this, less up to a quarter by chance; and what it says holds so long.
REFRESH_S, HOLD_S = 10.0, 35.0
#: One that does not is asked after this, then half as often each time.
AGAIN_S = 0.5
#: What has changed is told at once; to who has not acknowledged it again after this, then half as often each time.
REPEAT_S, REPEAT_MOST_S = 0.2, 3.0
#: A group that nobody listens to any more is given up for good only then: who zaps comes back.
LINGER_S = 10.0
#: Of one subnet so many changes are told at once, and then so many a second; what comes between is told together.
CHANGES, CHANGES_PER_S = 8, 1.0
#: And this many datagrams a second in all, whatever guests do.
MOST_PER_S, MOST_AT_ONCE = 1000.0, 500
#: Groups of one subnet on one host; with more than that the host is sent everything.
MOST_GROUPS = 1024
#: One peer's questions of so many agents are remembered: the one that runs, and those before it.
MOST_AGENTS = 4
#: IPv6 carries 1280 bytes everywhere.
MOST_BYTES = 1200

_MAGIC, _VERSION = b"Weft", 1
QUESTION, WORD = 3, 4
_HEAD = struct.Struct("!4sBBHQQ")  # magic, version, kind, zero, token, which agent it is that speaks
_ASKED = struct.Struct("!II")  # VSID, edition that is known; 0: none
_SAID = struct.Struct("!IIBBHH")  # VSID, edition, part, parts, groups of IPv4 and of IPv6, which follow
_PARTS_SAME, _PARTS_ALL = 0, 255
_MOST_PARTS = 64


@dataclass(frozen=True, slots=True)
class Datagram:
    """To be sent, from one of this host's addresses to one of a peer's."""

    source: str
    destination: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Said:
    """What a host says of one subnet. groups None: send everything; same: as you know it."""

    vsid: int
    edition: int
    groups: frozenset[str] | None = None
    same: bool = False
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Message:
    """A datagram, read. asked: VSID -> edition."""

    token: int
    agent: int
    asked: Mapping[int, int] = field(default_factory=dict)
    said: tuple[Said, ...] = ()


def read(data: bytes) -> Message | None:
    """None: nothing of ours, or damaged."""
    if len(data) < _HEAD.size:
        return None
    magic, version, kind, _, token, agent = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        return None
    body = data[_HEAD.size :]
    if kind == QUESTION:
        return Message(token, agent, dict(_ASKED.iter_unpack(body))) if len(body) % _ASKED.size == 0 else None
    if kind != WORD:
        return None
    said: list[Said] = []
    while body:
        if len(body) < _SAID.size:
            return None
        vsid, edition, part, parts, four, six = _SAID.unpack_from(body)
        end = _SAID.size + 4 * four + 16 * six
        if len(body) < end or (parts not in (_PARTS_SAME, _PARTS_ALL) and not part < parts <= _MOST_PARTS):
            return None
        after4 = _SAID.size + 4 * four
        packed = [body[begin : begin + 4] for begin in range(_SAID.size, after4, 4)]
        packed += (body[begin : begin + 16] for begin in range(after4, end, 16))
        if not all(map(is_multicast, packed)):
            return None
        groups = frozenset(map(address_text, packed))
        everything = parts == _PARTS_ALL
        said.append(Said(vsid, edition, None if everything else groups, parts == _PARTS_SAME, part, parts or 1))
        body = body[end:]
    return Message(token, agent, said=tuple(said))


def question(token: int, agent: int, asked: Mapping[int, int]) -> Iterator[bytes]:
    head = _HEAD.pack(_MAGIC, _VERSION, QUESTION, 0, token, agent)
    yield from _packed(head, (_ASKED.pack(vsid, edition) for vsid, edition in asked.items()))


def word(token: int, agent: int, said: Iterable[Said]) -> Iterator[bytes]:
    head = _HEAD.pack(_MAGIC, _VERSION, WORD, 0, token, agent)
    yield from _packed(head, (section for each in said for section in _sections(each)))


def _packed(head: bytes, sections: Iterable[bytes]) -> Iterator[bytes]:
    """As few datagrams as hold them."""
    data = head
    for section in sections:
        if len(data) + len(section) > MOST_BYTES:
            yield data
            data = head
        data += section
    if data != head:
        yield data


def _sections(said: Said) -> Iterator[bytes]:
    if said.same or said.groups is None:
        yield _SAID.pack(said.vsid, said.edition, 0, _PARTS_SAME if said.same else _PARTS_ALL, 0, 0)
        return
    room = MOST_BYTES - _HEAD.size - _SAID.size
    parts: list[list[bytes]] = [[]]
    left = room
    for group in sorted(map(address_bytes, said.groups), key=lambda group: (len(group), group)):
        if len(group) > left:
            parts.append([])
            left = room
        parts[-1].append(group)
        left -= len(group)
    for number, part in enumerate(parts):
        four = sum(len(group) == 4 for group in part)
        head = _SAID.pack(said.vsid, said.edition, number, len(parts), four, len(part) - four)
        yield head + b"".join(part)


@dataclass(slots=True)
class _Own:
    """What this host says of a subnet. fading: groups that nobody has any more, and until when they are told yet."""

    budget: rate.Bucket
    edition: int = 0  # 0: nothing was said yet
    told: frozenset[str] | None = frozenset()
    listening: frozenset[str] | None = frozenset()
    target: frozenset[str] | None = frozenset()  # to be told as soon as there may be one more change
    fading: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Known:
    """What a peer has said of a subnet, and until when that holds."""

    edition: int = 0
    groups: frozenset[str] | None = None
    until_s: float = 0.0
    parts: dict[int, frozenset[str]] = field(default_factory=dict)  # of the edition that is coming
    coming: int = 0


@dataclass(slots=True)
class _Asker:
    """Somebody at a peer who is to be told what changes. acknowledged: VSID -> edition."""

    source: str
    destination: str
    until_s: float
    agent: int
    acknowledged: dict[int, int] = field(default_factory=dict)
    confirm: set[int] = field(default_factory=set)  # VSIDs: what he knows is still so, and he has asked
    due_s: float = 0.0
    tries: int = 0


@dataclass(slots=True)
class _Peer:
    """A host with ports of subnets that this host has ports of."""

    token: int
    due_s: float
    unanswered: int = 0
    agent: int = 0
    known: dict[int, _Known] = field(default_factory=dict)
    askers: dict[int, _Asker] = field(default_factory=dict)  # by their tokens


class Interest:
    """One host's. ``learn``, ``listening`` and ``receive`` say what is so; ``due`` is what is to be sent, and ``heed``
    what the data plane is to be told.
    """

    def __init__(self, random: Callable[[], float], token: Callable[[], int]) -> None:
        """token: numbers that nobody can guess."""
        self._random = random
        self._token = token
        self._agent = token()
        self._bucket = rate.Bucket(MOST_PER_S, MOST_AT_ONCE)
        self._host: Host | None = None
        self._subnets: dict[int, Subnet] = {}
        self._ports: dict[str, int] = {}
        self._here: Counter[int] = Counter()  # VSID -> ports
        self._members: dict[int, dict[str, Member]] = {}
        self._pas: dict[str, Peer] = {}
        self._identity: dict[str, str] = {}  # any PA of a peer -> its first
        self._peers: dict[str, _Peer] = {}
        self._own: dict[int, _Own] = {}
        self._listening: Mapping[int, frozenset[str] | None] | None = None
        self._heed: dict[tuple[int, str], Wanted | None] = {}
        self._learnt = False

    # What is so

    def forget(self) -> None:
        """Everything that was learnt is about to be said again."""
        self._subnets, self._ports, self._members = {}, {}, {}
        self._here.clear()
        self._pas, self._identity = {}, {}

    def learn(self, puts: Iterable[Row], deletes: Collection[Key]) -> None:
        for row in puts:
            match row:
                case Host():
                    self._host = row
                case Subnet():
                    self._subnets[row.vsid] = row
                case Port():
                    self._drop_port(row.port)
                    self._ports[row.port] = row.vsid
                    self._here[row.vsid] += 1
                case Member():
                    self._members.setdefault(row.vsid, {})[row.pa] = row
                case Peer():
                    self._pas[row.pa] = row
                    self._identity |= dict.fromkeys(row.pas, row.pa)
                case _:
                    pass
        for key in deletes:
            if key[0] == "subnets":
                self._subnets.pop(int(key[1]), None)
            elif key[0] == "ports":
                self._drop_port(str(key[1]))
            elif key[0] == "members":
                self._members.get(int(key[1]), {}).pop(str(key[-1]), None)
        self._learnt = True

    def _drop_port(self, port: str) -> None:
        vsid = self._ports.pop(port, None)
        if vsid is not None:
            self._here[vsid] -= 1

    def _follow(self, now_s: float) -> None:
        """Who is to be asked of what."""
        if not self._learnt:
            return
        self._learnt = False
        own = self._host.pas if self._host is not None else ()
        shared: dict[str, set[int]] = {}
        for vsid, ports in self._here.items():
            subnet = self._subnets.get(vsid)
            if ports and subnet is not None and subnet.snooping and subnet.broadcast:
                for pa, member in self._members.get(vsid, {}).items():
                    if pa not in own and member.rule is not Rule.VLAN:
                        shared.setdefault(pa, set()).add(vsid)
        for pa, peer in list(self._peers.items()):
            for vsid in peer.known.keys() - shared.get(pa, set()):
                del peer.known[vsid]
                self._heed[vsid, pa] = None
            if pa not in shared:
                del self._peers[pa]
        for pa, vsids in shared.items():
            peer = self._peers.setdefault(pa, _Peer(self._token(), now_s))
            for vsid in vsids - peer.known.keys():
                peer.known[vsid] = _Known()
                peer.due_s, peer.unanswered = now_s, 0
        every = {vsid for vsids in shared.values() for vsid in vsids}
        self._own = {vsid: self._own.get(vsid) or _Own(rate.Bucket(CHANGES_PER_S, CHANGES)) for vsid in every}
        self._renew(now_s)

    def listening(self, groups: Mapping[int, frozenset[str] | None], now_s: float) -> None:
        """What guests of each subnet listen to here; None: all of it. A subnet that is not named: to nothing."""
        self._listening = groups
        self._renew(now_s)

    def _renew(self, now_s: float) -> None:
        """What this host says, as it should be now. Nothing before it is known who listens."""
        if self._listening is None:
            return
        for vsid, own in self._own.items():
            groups = self._listening.get(vsid, frozenset())
            if groups is not None and len(groups) > MOST_GROUPS:
                groups = None
            if groups is not None and own.told is not None:
                for gone in own.told - groups - own.fading.keys():
                    own.fading[gone] = now_s + LINGER_S
                for back in groups & own.fading.keys():
                    del own.fading[back]
            own.listening = groups
            self._publish(own, now_s)

    def _publish(self, own: _Own, now_s: float) -> None:
        own.fading = {group: until_s for group, until_s in own.fading.items() if until_s > now_s}
        own.target = own.listening
        if own.target is not None and len(own.target) + len(own.fading) <= MOST_GROUPS:
            own.target |= own.fading.keys()
        if (not own.edition or own.target != own.told) and own.budget.take(now_s):
            own.told = own.target
            # Of no two agents the same, so that nobody takes the one's word for the other's.
            own.edition = own.edition + 1 if own.edition else 1 + self._token() % (1 << 31)
            for peer in self._peers.values():
                for asker in peer.askers.values():
                    asker.due_s, asker.tries = now_s, 0

    # What peers say

    def receive(self, pa: str, sender: str, data: bytes, now_s: float) -> None:
        """A datagram to one of this host's addresses. What is of nobody that is known here is passed over."""
        self._follow(now_s)
        identity = self._identity.get(sender, sender)
        peer = self._peers.get(identity)
        message = read(data)
        if peer is None or message is None:
            return
        if message.asked:
            self._asked(peer, message, pa, sender, now_s)
        elif message.token == peer.token:
            self._said(peer, identity, message, now_s)

    def _asked(self, peer: _Peer, message: Message, pa: str, sender: str, now_s: float) -> None:
        asker = peer.askers.pop(message.token, None) or _Asker(pa, sender, 0.0, message.agent)
        if message.agent != asker.agent or not asker.until_s:
            # An agent that has just begun knows of nobody who asked the one before.
            peer.due_s = min(peer.due_s, now_s)
        asker.agent, asker.until_s = message.agent, now_s + HOLD_S
        asker.source, asker.destination = pa, sender
        peer.askers[message.token] = asker
        for old in list(peer.askers)[:-MOST_AGENTS]:
            del peer.askers[old]
        fresh = False
        for vsid, edition in message.asked.items():
            if vsid in peer.known:  # both have ports of it
                fresh |= edition != asker.acknowledged.get(vsid)
                asker.acknowledged[vsid] = edition
                asker.confirm.add(vsid)
        if fresh:
            asker.tries = 0
        asker.due_s = now_s

    def _said(self, peer: _Peer, pa: str, message: Message, now_s: float) -> None:
        if message.agent != peer.agent:
            peer.agent = message.agent
            for known in peer.known.values():
                known.edition = known.coming = 0
        peer.unanswered = 0
        peer.due_s = now_s + REFRESH_S * (1 - self._random() / 4)
        for said in message.said:
            of = peer.known.get(said.vsid)
            if of is None or said.edition < of.edition:
                continue
            if said.same:
                if said.edition == of.edition:
                    self._believe(of, said.vsid, pa, now_s)
                continue
            if said.edition > of.edition:
                peer.due_s = now_s  # to acknowledge it
            if said.groups is not None:
                if of.coming != said.edition:
                    of.coming, of.parts = said.edition, {}
                of.parts[said.part] = said.groups
                if len(of.parts) < said.parts:
                    continue
                groups = frozenset[str]().union(*of.parts.values())
                of.groups = groups if len(groups) <= MOST_GROUPS else None
            else:
                of.groups = None
            of.edition, of.parts = said.edition, {}
            self._believe(of, said.vsid, pa, now_s)

    def _believe(self, known: _Known, vsid: int, pa: str, now_s: float) -> None:
        known.until_s = now_s + HOLD_S
        self._heed[vsid, pa] = None if known.groups is None else Wanted(known.groups, HOLD_S)

    # What follows

    def heed(self) -> dict[tuple[int, str], Wanted | None]:
        """What the data plane is to be told, once."""
        found, self._heed = self._heed, {}
        return found

    def due(self, now_s: float) -> Iterator[Datagram]:
        """What is to be sent now."""
        self._follow(now_s)
        for own in self._own.values():
            if self._listening is not None:
                self._publish(own, now_s)
        for pa, peer in self._peers.items():
            peer.askers = {token: asker for token, asker in peer.askers.items() if asker.until_s > now_s}
            for token, asker in peer.askers.items():
                if asker.due_s <= now_s:
                    yield from self._tell(token, asker, peer, now_s)
            if peer.due_s <= now_s:
                yield from self._ask(pa, peer, now_s)

    def _tell(self, token: int, asker: _Asker, peer: _Peer, now_s: float) -> Iterator[Datagram]:
        """What somebody does not know yet, and that what he knows is still so."""
        said: list[Said] = []
        for vsid, edition in asker.acknowledged.items():
            own = self._own.get(vsid)
            if own is None or not own.edition or vsid not in peer.known:
                continue
            if edition != own.edition:
                said.append(Said(vsid, own.edition, own.told))
            elif vsid in asker.confirm:
                said.append(Said(vsid, own.edition, same=True))
        asker.confirm.clear()
        unknown = any(not each.same for each in said)
        for data in word(token, self._agent, said):
            if not self._bucket.take(now_s):
                asker.due_s = now_s + 1 / CHANGES_PER_S
                return
            yield Datagram(asker.source, asker.destination, data)
        asker.due_s = now_s + min(REPEAT_MOST_S, REPEAT_S * 2**asker.tries) if unknown else asker.until_s
        asker.tries = min(asker.tries + 1, 10)

    def _ask(self, pa: str, peer: _Peer, now_s: float) -> Iterator[Datagram]:
        if not self._bucket.take(now_s):
            peer.due_s = now_s + AGAIN_S
            return
        peer.due_s = now_s + min(REFRESH_S, AGAIN_S * 2**peer.unanswered) * (1 - self._random() / 4)
        ends = self._ends(pa, peer.unanswered)
        peer.unanswered = min(peer.unanswered + 1, 10)
        if ends is not None:
            for data in question(peer.token, self._agent, {vsid: known.edition for vsid, known in peer.known.items()}):
                yield Datagram(*ends, data)

    def _ends(self, pa: str, attempt: int) -> tuple[str, str] | None:
        """Between which addresses; who does not answer at one of his is asked at another."""
        host, row = self._host, self._pas.get(pa)
        if host is None:
            return None
        networks = dict(zip(row.pas, row.networks, strict=False)) if row is not None else {pa: ""}
        theirs = [each for each in networks if (":" in each) == (":" in pa)]
        destination = theirs[attempt % len(theirs)]
        own = [each for each in host.pas if (":" in each) == (":" in pa)]
        near = {each for uplink in host.uplinks if uplink.network == networks[destination] for each in uplink.pas}
        source = next((each for each in own if each in near), own[0] if own else None)
        return None if source is None else (source, destination)

    @property
    def next_s(self) -> float | None:
        """When something is due again; None: not before something happens."""
        if self._learnt:
            return 0.0
        times = [peer.due_s for peer in self._peers.values()]
        times += (asker.due_s for peer in self._peers.values() for asker in peer.askers.values())
        for own in self._own.values():
            times += own.fading.values()
            if self._listening is not None and (not own.edition or own.told != own.target):
                times.append(own.budget.ready_s)
        return min(times, default=None)

"""Conversations of FTP: control connections, and the data connections that come of what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from packets.conversations import (
    ADMITTED,
    GUEST,
    INVALID,
    LOCAL,
    OTHER,
    REFUSED,
    REMOTE,
    Conversation,
    Talk,
    Turn,
)
from weft.policy.connections import EXPECTED_OF_PORT
from weft.policy.drop import DropReason
from weft.reference import flows, packet

DATA = 50_000  # the port that is spoken of
FAR = 40_321
#: The guest's server may be reached, and the guest may open nothing.
SERVER = frozenset({(6, 21)})


def six(address: str, port: int) -> str:
    return f"{address.replace('.', ',')},{port >> 8},{port & 255}"


class Ftp:
    """A control connection to the server's port 21, turn by turn. server: whose that is."""

    def __init__(self, server: int = OTHER, version: int = 4, client_port: int = 40000, server_port: int = 21) -> None:
        self.server, self.client, self.version = server, 1 - server, version
        ports = (server_port, client_port) if server == GUEST else (client_port, server_port)
        self.talk = Talk(version, ports)
        self.sent = [1, 1]

    def address(self, side: int) -> str:
        return (LOCAL if side == GUEST else REMOTE)[self.version]

    def opened(self, first: dict[str, object] | None = None) -> list[Turn]:
        """A handshake, and the lines that any session begins with."""
        syn = self.talk(self.client, "S", 0, **(first or {}))
        shaken = [syn, *self.talk.opened(self.client)[1:]]
        return [*shaken, self.says(self.server, "220 ready\r\n"), self.says(self.client, "USER anonymous\r\n")]

    def says(self, side: int, text: str, dropped: DropReason | None = None, *, ahead: int = 0, **more: object) -> Turn:
        """ahead: so many bytes too far, or back; then it is not what comes next."""
        seq, ack = self.sent[side], self.sent[1 - side]
        if not ahead:
            self.sent[side] += len(text)
        return self.talk(side, "PA", seq + ahead, ack, dropped, text=text.encode("latin-1"), **more)

    def port(self, address: str | None = None, port: int = DATA, **more: object) -> Turn:
        """What the client says to have the server open a connection."""
        address = address or self.address(self.client)
        text = f"PORT {six(address, port)}" if self.version == 4 else f"EPRT |2|{address}|{port}|"
        return self.says(self.client, f"{text}\r\n", **more)

    def passive(self, address: str | None = None, port: int = DATA, **more: object) -> Turn:
        """What the server answers to have the client open one."""
        where = six(address or self.address(self.server), port)
        text = f"227 Entering Passive Mode ({where})." if self.version == 4 else f"229 Extended ({'|' * 3}{port}|)"
        return self.says(self.server, f"{text}\r\n", **more)

    def split(self, side: int, text: str, *at: int) -> list[Turn]:
        """A text in several segments; without at: byte by byte."""
        ends = (0, *(at or range(1, len(text))), len(text))
        return [self.says(side, text[begin:end]) for begin, end in pairwise(ends)]

    def data(
        self,
        by: int,
        dropped: DropReason | None = None,
        *,
        port: int = DATA,
        far: int = FAR,
        port_of: str = "a",
        **more: object,
    ) -> Turn:
        """A SYN to the port that was spoken of, which is the other side's."""
        talk = Talk(self.version, (far, port) if by == GUEST else (port, far))
        return talk(by, "S", 0, dropped=dropped, port=port_of, **more)

    def carried(self, by: int) -> list[Turn]:
        """A data connection as a whole."""
        talk = Talk(self.version, (FAR, DATA) if by == GUEST else (DATA, FAR))
        return [*talk.opened(by), talk(1 - by, "PA", 1, 1, size=100), talk(by, "A", 1, 101)]


CLOSED = {"admitted": SERVER, "open": False}


def conversations() -> Iterator[Conversation]:
    for rows in (both_ways, wordings, refusals, once, lines, pieces, rules):
        for name, turns in rows():
            yield Conversation(f"ftp: {name}", tuple(turns))
    ftp, second, third = Ftp(), Ftp(client_port=40001), Ftp(client_port=40002)
    yield Conversation(
        "ftp: a port expects so many and no more, till they are late",
        (
            *ftp.opened(), *second.opened(), *third.opened(), ftp.port(), second.port(port=50_001),
            third.port(port=50_002), ftp.data(OTHER, REFUSED, port=50_002), ftp.data(OTHER), third.port(port=50_002),
            ftp.data(OTHER, port=50_002), third.port(port=50_003), third.port(port=50_004, after_s=60),
            third.data(OTHER, REFUSED, port=50_003), third.data(OTHER, port=50_004),
        ),
        limits={"most_expected": 2},
    )  # fmt: skip
    ftp, second, third = Ftp(), Ftp(client_port=40001), Ftp()
    yield Conversation(
        "ftp: what one port expects is no other's room",
        (
            *ftp.opened(),
            *second.opened(),
            ftp.port(),
            second.port(port=50_001),
            *(replace(turn, port="b") for turn in (*third.opened(), third.port(), third.data(OTHER))),
            second.data(OTHER, REFUSED, port=50_001),
        ),
        limits={"most_expected": 1},
    )
    one_port = [Ftp(client_port=40000 + n) for n in range(EXPECTED_OF_PORT + 1)]
    ftp, late = Ftp(), EXPECTED_OF_PORT
    yield Conversation(
        "ftp: a port that expects all that it may takes no other's room",
        (
            *(turn for n, of in enumerate(one_port) for turn in (*of.opened(), of.port(port=50_000 + n))),
            *(replace(turn, port="b") for turn in (*ftp.opened(), ftp.port(), ftp.data(OTHER))),
            one_port[late].data(OTHER, REFUSED, port=50_000 + late),
            one_port[late - 1].data(OTHER, port=50_000 + late - 1),
            one_port[late].port(port=50_000 + late),
            one_port[late].data(OTHER, port=50_000 + late),
        ),
    )
    ftp = Ftp()
    yield Conversation(
        "ftp: nobody listens", (*ftp.opened(), ftp.port(), ftp.data(OTHER, REFUSED)), limits={"ftp_port": 0}
    )
    ftp = Ftp(server_port=2121)
    yield Conversation(
        "ftp: on a port of its own", (*ftp.opened(), ftp.port(), *ftp.carried(OTHER)), limits={"ftp_port": 2121}
    )
    yield from kept()
    for version in (4, 6):
        ftp = Ftp(version=version)
        yield Conversation(
            f"ftp: passive, of a client that may open control connections only, IPv{version}",
            (
                *ftp.opened(),
                ftp.data(GUEST, REFUSED, admitted=frozenset(), open=False, open_port=21),
                ftp.passive(),
                *ftp.carried(GUEST),
            ),
        )


def kept() -> Iterator[Conversation]:
    """Control connections that outlive their rule: they go on, and data connections are new ones."""
    nothing = frozenset[tuple[int, int | None]]()
    ftp = Ftp(GUEST)
    yield Conversation(
        "ftp: of a control connection that is kept, when its rule is gone",
        (
            *ftp.opened(CLOSED),
            ftp.passive(),
            ftp.data(OTHER, REFUSED, admitted=nothing, open=False),
            ftp.says(OTHER, "PASV\r\n"),
            ftp.passive(port=DATA + 1),
            ftp.data(OTHER, REFUSED, port=DATA + 1),
            ftp.data(OTHER, port=DATA + 1, admitted=SERVER, open=False),
        ),
        keep=True,
    )
    ftp = Ftp(GUEST)
    yield Conversation(
        "ftp: of a control connection that is kept, and has gone on since its rule is gone",
        (
            *ftp.opened(CLOSED),
            ftp.passive(),
            ftp.says(OTHER, "NOOP\r\n", admitted=nothing, open=False),
            ftp.says(GUEST, "200 So\r\n"),
            ftp.data(OTHER, REFUSED),
            ftp.passive(port=DATA + 1),
            ftp.data(OTHER, REFUSED, port=DATA + 1),
            ftp.data(OTHER, port=DATA + 1, admitted=SERVER, open=False),
        ),
        keep=True,
    )
    ftp = Ftp()
    yield Conversation(
        "ftp: of a client whose control connection is kept, when its rule is gone",
        (*ftp.opened(), ftp.port(), ftp.data(OTHER, REFUSED, admitted=ADMITTED, open=False)),
        keep=True,
    )
    ftp = Ftp(GUEST)
    talk = Talk(ports=(DATA, FAR))
    yield Conversation(
        "ftp: a data connection is kept as its control connection is",
        (
            *ftp.opened(CLOSED),
            ftp.passive(),
            *talk.opened(OTHER),
            talk(OTHER, "PA", 1, 1, size=10, admitted=nothing, open=False),
        ),
        keep=True,
    )


Rows = Iterator[tuple[str, list[Turn]]]


def both_ways() -> Rows:
    for version in (4, 6):
        client, server = Ftp(version=version), Ftp(GUEST, version)
        yield (
            f"active, of a client, IPv{version}",
            [*client.opened(), client.data(OTHER, REFUSED), client.port(), *client.carried(OTHER)],
        )
        yield (
            f"passive, of a server, IPv{version}",
            [*server.opened(CLOSED), server.data(OTHER, REFUSED), server.passive(), *server.carried(OTHER)],
        )
        server = Ftp(GUEST, version)
        yield (
            f"active, of a server that may open nothing, IPv{version}",
            [*server.opened(CLOSED), server.data(GUEST, REFUSED), server.port(), *server.carried(GUEST)],
        )


def wordings() -> Rows:
    own = LOCAL[4]
    for text in (
        f"port {six(own, DATA)}\n",
        f"EPRT |1|{own}|{DATA}|\r\n",
        f"eprt !1!{own}!{DATA}!\r\n",
        f"NOOP\r\nPORT {six(own, DATA)}\r\nLIST\r\n",
        f"PORT {six(own, 60_000)}\r\nPORT {six(own, DATA)}\r\n",
    ):
        ftp = Ftp()
        yield f"a client says {text!r}", [*ftp.opened(), ftp.says(GUEST, text), ftp.data(OTHER)]
    for text in (
        f"227 {six(own, DATA)}\r\n",
        f"227 Passive, as you like: {six(own, DATA)}\r\n",
        f"227 =({six(own, DATA)})\r\n",
        f"229 (!!!{DATA}!)\r\n",
        f"200 so\r\n227 ({six(own, DATA)})\r\n",
    ):
        ftp = Ftp(GUEST)
        yield f"a server says {text!r}", [*ftp.opened(CLOSED), ftp.says(GUEST, text), ftp.data(OTHER)]
    for text in (
        f"PORT {six(own, DATA)}",  # a digit may follow
        f"PORT  {six(own, DATA)}\r\n",
        f"PORT {six(own, DATA)},1\r\n",
        f"PORT {six(own, DATA)} \r\n",
        f"PORT\r\n{six(own, DATA)}\r\n",
        f" PORT {six(own, DATA)}\r\n",
        f"XPORT {six(own, DATA)}\r\n",
        f"EPRT |1|{own}|{DATA}\r\n",
        f"EPRT |3|{own}|{DATA}|\r\n",
        f"EPRT |2|{own}|{DATA}|\r\n",
        f"EPRT |1|{own}|{DATA + 65536}|\r\n",
        f"EPRT |2|::ffff:{own}|{DATA}|\r\n",
        f"EPRT |2|::ffff:a00:104|{DATA}|\r\n",
        f"227 ({six(own, DATA)})\r\n",  # it is the server's to say
    ):
        ftp = Ftp()
        yield (
            f"a client says {text!r}, which is nothing",
            [*ftp.opened(), ftp.says(GUEST, text), ftp.data(OTHER, REFUSED)],
        )
    for text in (
        f"227 ({six(own, DATA)}",
        f"227-({six(own, DATA)})\r\n",
        f"227 mode 4 ({six(own, DATA)})\r\n",
        f"228 ({six(own, DATA)})\r\n",
        f"229 (|||{DATA}|\r\n",
        f"229 (||{DATA}|)\r\n",
        f"229 |||{DATA}|\r\n",
        f"PORT {six(own, DATA)}\r\n",
    ):
        ftp = Ftp(GUEST)
        yield (
            f"a server says {text!r}, which is nothing",
            [*ftp.opened(CLOSED), ftp.says(GUEST, text), ftp.data(OTHER, REFUSED)],
        )
    for written in ("2001:0DB8:1:0:0:0:0:4", "2001:db8:0001::0:4", "2001:db8:1:0::4"):
        ftp = Ftp(version=6)
        yield (
            f"{written} is the client's address, too",
            [*ftp.opened(), ftp.says(GUEST, f"EPRT |2|{written}|{DATA}|\r\n"), ftp.data(OTHER)],
        )


def refusals() -> Rows:
    for version, third in ((4, "10.0.1.6"), (6, "2001:db8:1::6")):
        ftp = Ftp(version=version)
        yield (
            f"the client names somebody else, IPv{version}",  # the bounce attack
            [*ftp.opened(), ftp.port(third), ftp.data(OTHER, REFUSED)],
        )
        ftp = Ftp(version=version)
        yield (
            f"the client names the server, IPv{version}",
            [*ftp.opened(), ftp.port(ftp.address(OTHER)), ftp.data(OTHER, REFUSED)],
        )
    ftp = Ftp(GUEST)
    yield "the server names somebody else", [*ftp.opened(CLOSED), ftp.passive("10.0.1.6"), ftp.data(OTHER, REFUSED)]
    for port, dropped in ((1023, REFUSED), (1024, None), (22, None), (21, REFUSED), (0, REFUSED), (65535, None)):
        ftp = Ftp()  # 22 is admitted anyway
        yield f"port {port}", [*ftp.opened(), ftp.port(port=port), ftp.data(OTHER, dropped, port=port)]
    ftp = Ftp()
    yield "another port than was named", [*ftp.opened(), ftp.port(), ftp.data(OTHER, REFUSED, port=DATA + 1)]
    ftp = Ftp(GUEST)
    yield "the other side opens it", [*ftp.opened(CLOSED), ftp.passive(), ftp.data(GUEST, REFUSED)]
    ftp = Ftp()
    yield (
        "of another port of the host",
        [*ftp.opened(), ftp.port(), ftp.data(OTHER, REFUSED, port_of="b"), ftp.data(OTHER)],
    )
    ftp = Ftp(server_port=2121)
    yield "no server's port", [*ftp.opened(), ftp.port(), ftp.data(OTHER, REFUSED)]
    ftp = Ftp(GUEST, client_port=21, server_port=22)
    yield "the client's port is 21", [*ftp.opened(), ftp.passive(), ftp.data(OTHER, REFUSED)]
    ftp = Ftp()
    yield (
        "before it is open",
        [*ftp.talk.opened()[:2], ftp.says(OTHER, "220 ready\r\n"), ftp.data(OTHER, REFUSED)],
    )
    ftp = Ftp()
    yield "not by what opens nothing", [*ftp.opened(), ftp.port(), Talk(ports=(DATA, FAR))(OTHER, "SA", 0, 1, REFUSED)]


def once() -> Rows:
    ftp = Ftp()
    yield (
        "twice",
        [*ftp.opened(), ftp.port(), ftp.data(OTHER), ftp.data(OTHER), ftp.data(OTHER, REFUSED, far=FAR + 1)],
    )
    ftp = Ftp()
    yield "in time", [*ftp.opened(), ftp.port(), ftp.data(OTHER, after_s=59)]
    ftp = Ftp()
    yield "late", [*ftp.opened(), ftp.port(), ftp.data(OTHER, REFUSED, after_s=60)]
    ftp = Ftp()
    yield "and again", [*ftp.opened(), ftp.port(), ftp.data(OTHER, REFUSED, after_s=60), ftp.port(), ftp.data(OTHER)]
    ftp = Ftp()
    yield (
        "the last one only",
        [*ftp.opened(), ftp.port(port=50_001), ftp.port(), ftp.data(OTHER, REFUSED, port=50_001), ftp.data(OTHER)],
    )
    ftp = Ftp()
    yield "one that is refused takes none away", [*ftp.opened(), ftp.port(), ftp.port("10.0.1.6"), ftp.data(OTHER)]
    ftp, second = Ftp(), Ftp(client_port=40001)
    yield (
        "two control connections speak of the same, and the one goes on to another",
        [*ftp.opened(), *second.opened(), ftp.port(), second.port(), ftp.port(port=50_001), ftp.data(OTHER)],
    )
    ftp = Ftp()
    yield (
        "the control connection is reset",
        [*ftp.opened(), ftp.port(), ftp.talk(OTHER, "R", ftp.sent[OTHER]), ftp.data(OTHER, REFUSED)],
    )
    ftp = Ftp()
    yield (
        "the control connection is half closed",
        [*ftp.opened(), ftp.talk(GUEST, "FA", ftp.sent[GUEST], ftp.sent[OTHER]), ftp.says(OTHER, "200 so\r\n")],
    )
    ftp = Ftp()
    again = Talk(ports=(DATA, FAR))
    yield (
        "the same ports once more, when the former is over",
        [
            *ftp.opened(),
            ftp.port(),
            *again.opened(OTHER),
            again(OTHER, "R", 1),
            again(OTHER, "S", 0, dropped=REFUSED, base=(1000, 90000)),
            ftp.port(),
            again(OTHER, "S", 0, base=(1000, 90000)),
        ],
    )


def lines() -> Rows:
    own = LOCAL[4]
    ftp = Ftp()
    whole = f"PORT {six(own, DATA)}\r\n"
    yield (
        "in the midst of a line",
        [*ftp.opened(), ftp.says(GUEST, "NOOP "), ftp.says(GUEST, whole), ftp.data(OTHER, REFUSED)],
    )
    ftp = Ftp()
    yield (
        "and at the next",
        [*ftp.opened(), ftp.says(GUEST, "NOOP "), ftp.says(GUEST, whole), ftp.port(), ftp.data(OTHER)],
    )
    ftp = Ftp()
    yield (
        "beyond what was sent",
        [*ftp.opened(), ftp.says(GUEST, whole, ahead=10), ftp.data(OTHER, REFUSED)],
    )
    ftp = Ftp()
    yield (
        "out of the window",
        [*ftp.opened(), ftp.says(GUEST, whole, INVALID, ahead=70_000), ftp.data(OTHER, REFUSED)],
    )
    ftp = Ftp()
    first = ftp.opened()
    same = ftp.port()
    yield (
        "sent again",
        [
            *first,
            same,
            same,
            ftp.data(OTHER),
            ftp.data(OTHER, REFUSED, far=FAR + 1),
            same,
            ftp.data(OTHER, REFUSED, far=FAR + 1),
        ],
    )
    ftp = Ftp()
    yield (
        "behind much else in its segment",
        [*ftp.opened(), ftp.says(GUEST, "NOOP\r\n" * 80 + whole), ftp.data(OTHER)],
    )
    ftp = Ftp()
    yield (
        "behind too much",
        [*ftp.opened(), ftp.says(GUEST, "NOOP\r\n" * 90 + whole), ftp.data(OTHER, REFUSED)],
    )


def pieces() -> Rows:
    """Lines that are split over segments."""
    own = LOCAL[4]
    whole, more = f"PORT {six(own, DATA)}\r\n", f"PORT {six(own, DATA + 1)}\r\n"
    for version in (4, 6):
        for server in (GUEST, OTHER):
            ftp = Ftp(server, version)
            turn = ftp.port() if server == OTHER else ftp.passive()
            text = packet_text(turn)
            for way, at in (("in two segments", (9,)), ("byte by byte", ())):
                ftp = Ftp(server, version)
                yield (
                    f"{way}, {text[:4]}, IPv{version}",
                    [*ftp.opened(CLOSED if server == GUEST else None), *ftp.split(GUEST, text, *at), ftp.data(OTHER)],
                )
    for cut in (1, 4, 5, 13, len(whole) - 2, len(whole) - 1):
        ftp = Ftp()
        yield f"cut at {cut}", [*ftp.opened(), *ftp.split(GUEST, whole, cut), ftp.data(OTHER)]
    ftp = Ftp()
    yield (
        "behind others, and before others",
        [*ftp.opened(), ftp.says(GUEST, "NOOP\r\n" + whole[:9]), ftp.says(GUEST, whole[9:] + "NO"), ftp.data(OTHER)],
    )
    ftp = Ftp()
    yield (
        "the answers to others come in between",
        [
            *ftp.opened(),
            ftp.says(GUEST, whole[:9]),
            ftp.says(OTHER, "200 "),
            ftp.says(GUEST, whole[9:20]),
            ftp.says(OTHER, "so\r\n"),
            ftp.says(GUEST, whole[20:]),
            ftp.data(OTHER),
        ],
    )
    ftp = Ftp()
    begun = ftp.opened()
    first, second, third = ftp.split(GUEST, whole, 5, 12)
    yield "each is sent again", [*begun, first, first, second, first, second, third, second, ftp.data(OTHER)]
    ftp = Ftp()
    begun = ftp.opened()
    first, second = ftp.split(GUEST, whole, 9)
    yield "the wrong way round", [*begun, second, first, ftp.data(OTHER, REFUSED), ftp.port(), ftp.data(OTHER)]
    ftp = Ftp()
    yield (
        "sent again together with what follows, which is what nobody waits for",
        [
            *ftp.opened(),
            ftp.says(GUEST, whole[:9]),
            ftp.says(GUEST, whole, ahead=-9),
            ftp.data(OTHER, REFUSED),
            ftp.says(GUEST, whole[9:]),
            ftp.data(OTHER, REFUSED),
            ftp.port(),
            ftp.data(OTHER),
        ],
    )
    ftp = Ftp()
    begun = ftp.opened()
    first, second, third = ftp.split(GUEST, whole, 5, 12)
    yield "one is missing", [*begun, first, third, ftp.data(OTHER, REFUSED), second, ftp.data(OTHER, REFUSED)]
    ftp = Ftp()
    begun = ftp.opened()
    first, second = ftp.split(GUEST, whole, 9)
    out = ftp.says(GUEST, more[9:], INVALID, ahead=70_000)
    yield "another's comes out of the window", [*begun, first, out, second, ftp.data(OTHER)]
    for client_port, dropped in ((40_016, REFUSED), (40_001, None)):
        ftp, second_one = Ftp(), Ftp(client_port=client_port)
        yield (
            f"in the place of another's, port {client_port}" if dropped else "beside another's",
            [
                *ftp.opened(),
                *second_one.opened(),
                ftp.says(GUEST, whole[:9]),
                second_one.says(GUEST, more[:9]),
                ftp.says(GUEST, whole[9:]),
                second_one.says(GUEST, more[9:]),
                ftp.data(OTHER, dropped),
                ftp.data(OTHER, port=DATA + 1),
            ],
        )
    ftp, third_one = Ftp(), Ftp()
    of_b = [*third_one.opened(), third_one.says(GUEST, more[:9])]
    yield (
        "in no other port's place",
        [
            *ftp.opened(),
            ftp.says(GUEST, whole[:9]),
            *(replace(turn, port="b") for turn in of_b),
            ftp.says(GUEST, whole[9:]),
            ftp.data(OTHER),
        ],
    )
    for after_s, dropped in ((59, None), (60, REFUSED)):
        ftp = Ftp()
        yield (
            f"in {after_s} s",
            [
                *ftp.opened(),
                ftp.says(GUEST, whole[:9]),
                ftp.says(GUEST, whole[9:], after_s=after_s),
                ftp.data(OTHER, dropped),
            ],
        )
    words = f"227 {'x' * 480}({six(own, DATA)})\r\n"
    for more_words, dropped in ((0, None), (20, REFUSED)):
        ftp = Ftp(GUEST)
        text = words[:300] + "x" * more_words + words[300:]
        yield (
            f"a line of {len(text)} bytes",
            [*ftp.opened(CLOSED), *ftp.split(GUEST, text, 200, 400), ftp.data(OTHER, dropped)],
        )
    ftp = Ftp(GUEST)
    yield (
        "what is said before its line ends is said once",
        [
            *ftp.opened(CLOSED),
            ftp.says(GUEST, words[:-3] + ")"),
            ftp.data(OTHER),
            ftp.says(GUEST, "."),
            ftp.says(GUEST, "\r\n"),
            ftp.data(OTHER, REFUSED, far=FAR + 1),
        ],
    )
    ftp = Ftp()
    yield (
        "of somebody else",
        [*ftp.opened(), *ftp.split(GUEST, f"PORT {six('10.0.1.6', DATA)}\r\n"), ftp.data(OTHER, REFUSED)],
    )


def packet_text(turn: Turn) -> str:
    """What a turn's segment says."""
    ip = packet.parse(turn.frame)
    assert isinstance(ip, packet.Ip)
    flow = flows.read(ip)
    assert flow is not None
    return flow.text.decode()


def rules() -> Rows:
    ftp = Ftp(GUEST)
    talk = Talk(ports=(DATA, FAR))
    nothing = frozenset[tuple[int, int | None]]()
    yield (
        "the control connection's rule goes, and so does the data connection",
        [
            *ftp.opened(CLOSED),
            ftp.passive(),
            *talk.opened(OTHER),
            talk(OTHER, "PA", 1, 1, REFUSED, size=10, admitted=nothing, open=False),
            talk(GUEST, "A", 1, 1, REFUSED),
            talk(OTHER, "PA", 1, 1, size=10, admitted=SERVER, open=False),
        ],
    )
    ftp = Ftp(GUEST)
    yield (
        "other rules change, and it goes on",
        [
            *ftp.opened(CLOSED),
            ftp.passive(),
            *talk.opened(OTHER),
            talk(OTHER, "PA", 1, 1, size=10, admitted=SERVER | {(6, 99)}, open=False),
        ],
    )
    ftp = Ftp(GUEST)
    yield (
        "the rule goes before the data connection comes",
        [*ftp.opened(CLOSED), ftp.passive(), ftp.data(OTHER, REFUSED, admitted=nothing, open=False)],
    )
    ftp = Ftp(GUEST)
    yield (
        "rules change before the data connection comes",
        [*ftp.opened(CLOSED), ftp.passive(), ftp.data(OTHER, admitted=SERVER | {(6, 99)}, open=False)],
    )
    ftp = Ftp()
    yield (
        "the client's own rule goes, and its active data connection",
        [
            *ftp.opened(),
            ftp.port(),
            *talk.opened(OTHER),
            talk(OTHER, "PA", 1, 1, REFUSED, size=10, admitted=ADMITTED, open=False),
        ],
    )

"""The reference's connection tracker on the conversations that every tracker runs."""

from __future__ import annotations

import pytest

from packets import conversations, edges, ftp
from packets.conversations import ADMITTED, Conversation
from weft.reference import packet
from weft.reference.conntrack import Limits, Question, Ruling, Tracker
from weft.reference.packet import Ip
from weft.reference.qos import Direction

SECOND_NS = 10**9
CONVERSATIONS = (*conversations.CONVERSATIONS, *edges.conversations(), *ftp.conversations())


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.name)
def test_a_conversation(conversation: Conversation) -> None:
    tracker = Tracker(Limits(**conversation.limits))
    admitted, open_out, open_port, now_ns = ADMITTED, True, None, 1000 * SECOND_NS

    def judge(question: Question) -> Ruling:
        if question.direction is Direction.FROM_GUEST:
            allowed = open_out or (question.protocol == 6 and question.number == open_port)
            return Ruling(allowed, 1 if allowed else 0)
        allowed = (question.protocol, question.number) in admitted
        return Ruling(allowed, 2 if allowed else 0)

    for rank, turn in enumerate(conversation.turns):
        now_ns += turn.after_s * SECOND_NS
        if turn.admitted is not None:
            admitted, open_out, open_port = turn.admitted, turn.open, turn.open_port
            tracker.epoch += 1
        ip = packet.parse(turn.frame)
        assert isinstance(ip, Ip), (rank, ip)
        decision = tracker.check(turn.port, Direction(turn.side), ip, now_ns, judge,
            keep=conversation.keep, arriving=rank < conversation.arriving, leaving=conversation.leaving,
        )  # fmt: skip
        assert decision.reason == turn.dropped, (rank, decision.why)


def test_every_conversation_has_a_name_of_its_own() -> None:
    names = [conversation.name for conversation in CONVERSATIONS]
    assert sorted(set(names)) == sorted(names)

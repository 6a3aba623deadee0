from datetime import timedelta

from sqlalchemy import Engine

from models import ConversationStatus
from services.database import open_session
from services.sweeps import process_idle_conversations
from tests.support import MOMENT, NOON, all_conversations, all_events, open_conversation


def test_a_conversation_is_ended_exactly_at_its_deadline_and_not_before(engine: Engine) -> None:
    with open_session(engine) as session:
        open_conversation(session)
        session.commit()
    deadline = NOON + timedelta(minutes=30)

    assert process_idle_conversations(engine, now=deadline - MOMENT).count == 0
    assert process_idle_conversations(engine, now=deadline).count == 1
    assert process_idle_conversations(engine, now=deadline + MOMENT).count == 0

    assert [one.status for one in all_conversations(engine)] == [ConversationStatus.IDLE_TIMEOUT]
    assert [event.deadline for event in all_events(engine)] == [deadline]

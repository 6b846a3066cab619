"""A conversation is what its events say, in their order, and nothing else."""

from __future__ import annotations

from eventstore.events.control import ControlReleased, ControlTaken
from eventstore.events.custom import Custom
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import (
    ReplyAwaited,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeferred,
    ReplyRestarted,
    ReplyStarted,
)
from eventstore.events.sms import SmsRequested, SmsSent, SmsStatusChanged
from eventstore.schema import Body
from projections import conversations
from projections.control import ControlState
from projections.conversations import KEPT_MESSAGES, Conversation, Counts, Delivery, OpenReply
from projections.projection import timestamp
from tests.support.facts import at, history, recorded


def message(number: int = 1, text: str = "hello") -> MessageReceived:
    return MessageReceived(message_id=f"in_{number}", channel="sms", text=text)


def started(attempt: int = 1, *, until: int = 1) -> ReplyStarted:
    return ReplyStarted(attempt=attempt, assistant="demo", model="offline", context_until=str(at(until)))


def completed(text: str = "hi") -> ReplyCompleted:
    return ReplyCompleted(message_id="out_1", attempt=1, model="offline", text=text)


def sms(message_id: str, text: str, *, by_agent: bool = False) -> SmsSent:
    return SmsSent(
        intent_id="intent",
        message_id=message_id,
        sent_by="agent" if by_agent else "assistant",
        provider="outbox",
        to="+14155552671",
        text=text,
    )


def asked_by_agent() -> SmsRequested:
    return SmsRequested(intent_id="i", message_id="msg_9", sent_by="agent", to="+14155552671", text="Ann here")


def fold(*bodies: Body) -> Conversation:
    document = conversations.fold(history(*bodies))
    assert document is not None
    return document


def spoken(document: Conversation) -> list[tuple[str, str]]:
    return [(each.sent_by, each.text) for each in document.messages]


def test_a_message_is_kept_with_its_channel_time_and_position() -> None:
    document = fold(message())
    assert document.messages == (conversations.Message("in_1", "hello", "user", "sms", timestamp(at(1)), str(at(1))),)
    assert document.last_activity == timestamp(at(1))


def test_an_answer_follows_its_question_and_goes_out_by_the_same_channel() -> None:
    document = fold(message(), started(), completed())
    assert spoken(document) == [("user", "hello"), ("agent", "hi")]
    assert document.messages[1].channel == "sms"
    assert document.unanswered == ()


def test_the_text_that_carries_an_answer_is_not_a_second_message() -> None:
    document = fold(message(), started(), completed(), sms("out_1", "hi"))
    assert spoken(document) == [("user", "hello"), ("agent", "hi")]
    assert document.counts == Counts(user=1, agent=1)


def test_an_answer_under_way_is_open_until_it_ends() -> None:
    opened = OpenReply(str(at(1)), 1, "demo", timestamp(at(2)), str(at(1)))
    assert fold(message(), started()).open_replies == {str(at(1)): opened}
    assert fold(message(), started(), completed()).open_replies == {}
    assert fold(message(), started(), ReplyCancelled(reason="control")).open_replies == {}


def test_a_second_attempt_keeps_the_time_of_the_first() -> None:
    (reply,) = fold(message(), started(), started(2)).open_replies.values()
    assert (reply.attempt, reply.started) == (2, timestamp(at(2)))
    (reply,) = fold(message(), started(), ReplyRestarted(attempt=3)).open_replies.values()
    assert reply.attempt == 3


def test_one_answer_that_has_seen_three_messages_answers_all_three() -> None:
    document = fold(message(1), message(2), message(3), started(until=3))
    assert len(document.unanswered) == 3
    assert fold(message(1), message(2), message(3), started(until=3), completed()).unanswered == ()
    assert [m.id for m in fold(message(1), message(2), started(until=1), completed()).unanswered] == ["in_2"]


def test_a_deferred_message_stays_unanswered_and_a_keyword_never_asks() -> None:
    stop = MessageReceived(message_id="in_2", channel="sms", keyword="STOP", text="STOP")
    assert [m.id for m in fold(message(), ReplyDeferred(reason="control")).unanswered] == ["in_1"]
    assert fold(stop).unanswered == ()
    assert [m.id for m in fold(message(), stop, ReplyDeferred(reason="keyword")).unanswered] == ["in_1"]


def test_what_an_agent_writes_answers_at_once_and_is_a_message_once_it_has_left() -> None:
    asked = asked_by_agent()
    assert fold(message(), asked).unanswered == ()
    assert spoken(fold(message(), asked)) == [("user", "hello")]
    document = fold(message(), asked, message(2), sms("msg_9", "Ann here", by_agent=True))
    assert spoken(document)[-1] == ("human_agent", "Ann here")
    assert [m.id for m in document.unanswered] == ["in_2"]


def test_control_shows_who_speaks() -> None:
    taken = ControlTaken(agent="7", agent_name="Ann")
    assert fold(message(), taken).control == ControlState("7", "Ann", timestamp(at(2)), 1, at(2).ms)
    assert fold(message(), taken, ControlReleased(agent="7")).control == ControlState(epoch=2)


def test_only_the_last_messages_are_kept_but_all_are_counted() -> None:
    document = fold(*(message(number) for number in range(1, KEPT_MESSAGES + 11)))
    assert [document.messages[0].id, document.messages[-1].id] == ["in_11", f"in_{KEPT_MESSAGES + 10}"]
    assert document.counts.user == KEPT_MESSAGES + 10


def test_events_that_say_nothing_leave_no_conversation() -> None:
    assert conversations.fold([recorded(1, Custom(name="custom.ping"))]) is None
    assert conversations.fold([]) is None


def test_a_field_that_is_no_position_does_not_stop_the_fold() -> None:
    strange = ReplyStarted(attempt=1, assistant="demo", model="offline", context_until="yesterday")
    assert fold(message(), strange, completed()).unanswered == ()


def test_the_newest_and_the_held_conversations_come_first() -> None:
    older, newer = fold(message()), fold(message(), message())
    assert max(conversations.terms(newer)) < max(conversations.terms(older))
    held = fold(message(), ControlTaken(agent="7"))
    assert {term.partition(":")[0] for term in conversations.terms(held)} == {"recent", "held", "active"}


def test_a_message_that_several_runs_show_is_one_message() -> None:
    sent = MessageSent(message_id="m", agent="7", text="Ann here")
    document = fold(message(), ControlTaken(agent="7"), sent, sent)
    assert spoken(document) == [("user", "hello"), ("human_agent", "Ann here")]
    assert document.counts.human_agent == 1
    assert document.unanswered == ()


def test_what_the_holder_writes_counts_as_activity_and_what_others_do_does_not() -> None:
    taken, sent = ControlTaken(agent="7"), MessageSent(message_id="m", agent="7", text="Ann here")
    assert fold(taken, message()).control.active_ms == at(1).ms
    assert fold(taken, message(), sent).control.active_ms == at(3).ms
    assert fold(taken, message(), asked_by_agent()).control.active_ms == at(3).ms


def test_a_run_is_awaited_until_it_ends() -> None:
    awaited = ReplyAwaited(deadline_s=120)
    assert fold(message(), awaited).awaited == (str(at(1)),)
    assert fold(message(), awaited, ReplyDeferred(reason="control")).awaited == ()


def test_a_status_stays_when_the_sending_is_recorded_after_it() -> None:
    changed = SmsStatusChanged(message_id="out_1", intent_id="intent", status="delivered")
    asked = SmsRequested(intent_id="intent", message_id="out_1", sent_by="assistant", to="+14155552671", text="hi")
    document = fold(message(), asked, changed, sms("out_1", "hi"))
    assert document.deliveries == {"intent": Delivery("out_1", "", "delivered")}


def test_the_state_says_whose_turn_it_is() -> None:
    taken = ControlTaken(agent="7")
    stories: list[tuple[Body, ...]] = [
        (message(),), (message(), started()), (message(), started(), completed()), (message(), taken)
    ]  # fmt: skip
    assert [fold(*story).state for story in stories] == ["waiting", "answering", "quiet", "held"]


def test_a_text_goes_out_from_the_number_that_was_written_to() -> None:
    by_whatsapp = MessageReceived(message_id="in_2", channel="whatsapp", to="+15550100", text="hello")
    assert fold(message(), by_whatsapp).line == "whatsapp:+15550100"
    assert fold(by_whatsapp, message(3)).line == "whatsapp:+15550100"

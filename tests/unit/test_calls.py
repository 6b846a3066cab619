"""A call is what its producers agree on, in whatever order they tell."""

from __future__ import annotations

import itertools

import pytest

from eventstore.events.calls import (
    CallEnded,
    CallFailed,
    CallInitiated,
    CallRequested,
    CallStarted,
    CallStatusReported,
    CallSummarized,
    CallTurnRecorded,
)
from eventstore.schema import Body
from projections import caller, calls
from projections.calls import CALLS, Call, End, Told, Turn, news, open_request
from projections.contacts import Contact
from projections.conversations import Conversation, Message
from projections.projection import fact
from tests.support.facts import at, history

SID = "CA1"
BEGAN = CallInitiated(call_sid=SID, direction="inbound", provider="twilio")
TOLD = Told(SID, "elevenlabs", "inbound", "el:1", "+14155550100", "+14155552671")


def status(name: str, sequence: int | None = None, duration_s: int | None = None) -> CallStatusReported:
    return CallStatusReported(call_sid=SID, provider="twilio", status=name, sequence=sequence, duration_s=duration_s)


def fold(*bodies: Body) -> Call | None:
    return CALLS.fold({}, map(fact, history(*bodies))).get(SID)


def call(*bodies: Body) -> Call:
    folded = fold(BEGAN, *bodies)
    assert folded is not None
    return folded


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_reports_never_lead_backwards_by_their_sequence(order: tuple[int, ...]) -> None:
    reports = [status("ringing", 1), status("in-progress", 2), status("completed", 3, 62)]
    now = call(*(reports[place] for place in order))
    assert (now.status, now.sequence, now.duration_s) == ("completed", 3, 62)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_reports_without_a_sequence_are_ranked(order: tuple[int, ...]) -> None:
    reports = [status("ringing"), status("in-progress"), status("ended")]
    assert call(*(reports[place] for place in order)).status == "ended"


def test_what_is_told_of_a_call_that_never_began_is_no_call() -> None:
    assert fold(status("ringing"), CallEnded(call_sid=SID, provider="vapi", outcome="completed")) is None


def test_a_call_ends_as_its_first_end_said() -> None:
    ends = [CallEnded(call_sid=SID, provider="twilio", outcome=outcome) for outcome in ("busy", "completed")]
    assert call(*ends).outcome == "busy"


def test_an_end_knows_the_duration_that_was_reported_before() -> None:
    [keyed] = news(TOLD._replace(end=End("completed")), call(status("completed", 3, 62)))
    assert keyed.bodies == [CallEnded(call_sid=SID, provider="elevenlabs", outcome="completed", duration_s=62)]


def test_whoever_comes_after_the_end_adds_a_summary_once() -> None:
    ended = CallEnded(call_sid=SID, provider="twilio", outcome="completed")
    told = TOLD._replace(end=End("completed", 62, None, "A test ride."))
    [keyed] = news(told, call(ended))
    [summarized] = keyed.bodies
    assert summarized == CallSummarized(call_sid=SID, provider="elevenlabs", duration_s=62, summary="A test ride.")
    assert list(news(told, call(ended, summarized))) == []
    assert list(news(TOLD._replace(end=End("completed")), call(ended))) == []


def test_only_one_producer_tells_the_transcript_and_it_is_bounded() -> None:
    told = TOLD._replace(turns=[Turn(str(number), "user", "hi") for number in range(calls.MAX_TURNS + 5)])
    [keyed] = news(told, call())
    assert len(keyed.bodies) == calls.MAX_TURNS
    heard = CallTurnRecorded(call_sid=SID, message_id="1", role="user", text="hi")
    assert list(news(told, call(heard))) == []
    assert len(list(news(told._replace(live=True), call(heard)))) == 1


def test_every_producer_names_a_fact_of_a_call_alike() -> None:
    others = TOLD._replace(provider="vapi", key="vapi:1")
    assert calls.beginning(TOLD).key == calls.beginning(others).key
    ended = End("completed")
    [first], [second] = (list(news(told._replace(end=ended), call())) for told in (TOLD, others))
    assert first.key == second.key


@pytest.mark.parametrize(
    ("customer", "address"),
    [
        ("+1 415 555 2671", "tel:+14155552671"),
        ("+266696687", "call:CA1"),
        ("anonymous", "call:CA1"),
        ("", "call:CA1"),
        ("client:web", "call:CA1"),
    ],
)
def test_only_a_number_leads_to_a_conversation_that_calls_share(customer: str, address: str) -> None:
    assert TOLD._replace(customer=customer).address == address


def test_an_outbound_call_fulfils_the_request_that_a_provider_was_asked_for() -> None:
    asked = CallRequested(call_id="1", epoch=0, to="+1"), CallStarted(call_id="1")
    found = open_request(history(*asked))
    assert found is not None
    assert found.call_id == "1"
    assert open_request(history(*asked[:1])) is None, "nobody was asked yet"
    ours = CallInitiated(call_sid=SID, direction="outbound", provider="twilio", call_id="1")
    assert open_request(history(*asked, ours)) is None
    assert open_request(history(*asked, CallFailed(call_id="1", code="X", detail=""))) is None
    assert open_request(history(*asked, BEGAN)) == found, "another call is none of its business"


# What a voice agent is told


def said(number: int, text: str = "hello") -> Message:
    return Message(f"m{number}", text, "user", "sms", "2026-11-20T10:00:00.000Z", str(at(number)))


def test_a_long_history_fits_the_prompt_newest_last() -> None:
    messages = tuple(said(number, f"{number} " + "x" * 400) for number in range(50))
    context = caller.variables("acme", "Acme", Conversation("c", "1-0", "", messages=messages), None)
    lines = context["conversation_context"].splitlines()
    assert len(context["conversation_context"]) <= caller.CONTEXT_CHARS
    assert lines[-1].startswith("SMS 2026-11-20 customer: 49 xxx")
    assert all(len(line) < caller.MESSAGE_CHARS + 30 and line.endswith("…") for line in lines)


def test_a_contact_nobody_has_spoken_to_is_an_existing_lead_without_history() -> None:
    ann = Contact("c1", "", "", first_name="Ann", last_name="Lee")
    given = caller.variables("acme", "Acme", None, ann)
    assert (given["customer_name"], given["lead_status"], given["caller_type"]) == (
        "Ann Lee",
        "Existing Lead",
        "existing_lead",
    )
    assert given["has_conversation_history"] == "false"

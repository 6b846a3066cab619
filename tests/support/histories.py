"""What must be true of a history, whatever broke while it was made: pure, over decoded events in their order.

Each check yields a sentence for everything it finds wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from eventstore import codec
from eventstore.events.messages import MessageReceived
from eventstore.events.opportunities import OpportunityCreated
from eventstore.events.sms import SmsFailed, SmsRequested, SmsSent, SmsStarted, SmsUncertain
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolRequested
from eventstore.schema import Position, Recorded
from tests.support.streams import text_shown

ANSWERS = frozenset({"reply.completed", "reply.failed", "reply.cancelled", "reply.deferred"})


def outcomes(history: Sequence[Recorded]) -> dict[Position, list[Recorded]]:
    """What ended each run, by run. Tools that an assistant called inside its turn end nothing."""
    ends: dict[Position, list[Recorded]] = defaultdict(list)
    for event in history:
        match codec.decode(event):
            case ToolCompleted(call_id=None) | ToolFailed(call_id=None):
                ends[event.run].append(event)
            case _ if event.type in ANSWERS:
                ends[event.run].append(event)
    return ends


def marked(history: Sequence[Recorded]) -> dict[str, list[Recorded]]:
    """Inputs by the mark that their producer has put on them."""
    found: dict[str, list[Recorded]] = defaultdict(list)
    for event in history:
        match codec.decode(event):
            case MessageReceived(text=text):
                found[text.split(" ")[0]].append(event)
            case ToolRequested(arguments=arguments):
                found[str(arguments.get("name") or arguments.get("message"))].append(event)
    return found


def accepted_once(history: Sequence[Recorded], marks: Iterable[str]) -> Iterator[str]:
    """Every mark names one input that a producer was told is taken; each of them has exactly one outcome."""
    found, ends = marked(history), outcomes(history)
    for mark in marks:
        if len(inputs := found.get(mark, [])) != 1:
            yield f"the input {mark} is on the log {len(inputs)} times"
        for each in inputs:
            if len(ended := ends.get(each.run, [])) != 1:
                yield f"the input {mark} ({each.run}) has {len(ended)} outcomes: {[event.type for event in ended]}"


def answered_in_order(history: Sequence[Recorded]) -> Iterator[str]:
    """Within a conversation runs end in the order in which they began, save those that wait for a person."""
    awaited = {event.run for event in history if event.type == "reply.awaited"}
    ended: dict[str, list[Position]] = defaultdict(list)
    for run, ends in outcomes(history).items():
        for event in ends:
            if run not in awaited and event.conversation is not None:
                ended[event.conversation].append(event.position)
    by_end = {event.position: event.run for event in history}
    for conversation, ends_at in ended.items():
        runs = [by_end[position] for position in sorted(ends_at)]
        for earlier, later in pairwise(runs):
            if earlier > later:
                yield f"{conversation}: run {later} was answered out of order, after {earlier}"


def effects_once(history: Sequence[Recorded], left: Mapping[str, int]) -> Iterator[str]:
    """`left` says how often a provider has really sent the text of each intent."""
    requested, ended = [], defaultdict[str, list[str]](list)
    made, tried = Counter[str](), set[str]()
    for event in history:
        match codec.decode(event):
            case SmsRequested(intent_id=intent):
                requested.append(intent)
            case SmsStarted(intent_id=intent):
                tried.add(intent)
            case SmsSent(intent_id=intent) | SmsFailed(intent_id=intent) | SmsUncertain(intent_id=intent):
                ended[intent].append(event.type)
            case OpportunityCreated(name=name):
                made[name] += 1
    yield from (f"{name} was made {times} times" for name, times in made.items() if times > 1)
    for intent in requested:
        times, how = left.get(intent, 0), ended.get(intent, [])
        if len(how) != 1:
            yield f"the text {intent} has {len(how)} outcomes: {how}"
        elif how == ["sms.sent"] and times != 1:
            yield f"the text {intent} is recorded as sent, and left {times} times"
        elif how == ["sms.failed"] and times:
            yield f"the text {intent} is recorded as failed, and left"
    yield from (f"the text {intent} left {times} times" for intent, times in left.items() if times > 1)
    yield from (f"the text {intent} left unrecorded" for intent in left if intent not in tried)


def sent_in_order(history: Sequence[Recorded]) -> Iterator[str]:
    """Within a conversation texts are sent in the order in which they were asked for: they are a lane."""
    asked, begun = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for event in history:
        match codec.decode(event):
            case SmsRequested(intent_id=intent):
                asked[event.conversation or ""].append(intent)
            case SmsStarted(intent_id=intent) if intent not in begun[event.conversation or ""]:
                begun[event.conversation or ""].append(intent)
    for conversation, intents in begun.items():
        for intent, expected in zip(intents, [each for each in asked[conversation] if each in intents], strict=True):
            if intent != expected:
                yield f"{conversation}: the text {intent} was sent out of order, before {expected}"


def silent_while_held(history: Sequence[Recorded]) -> Iterator[str]:
    """From a person's taking over to the handing back, nothing is said by the assistant."""
    holder: dict[str, str] = {}
    for event in history:
        conversation = event.conversation or ""
        if event.type == "control.taken":
            holder[conversation] = event.actor
        elif event.type == "control.released":
            holder.pop(conversation, None)
        elif event.actor.startswith("assistant") and conversation in holder:
            yield f"{event.type} at {event.position} while {holder[conversation]} holds {conversation}"


def shown_whole(shown: Sequence[dict[str, Any]], expected: Sequence[Recorded]) -> Iterator[str]:
    """A subscriber's events are those of the log, and the answers that it can put together are the stored ones."""
    got, on_log = [event["id"] for event in shown], [str(event.position) for event in expected]
    if got != on_log:
        missing = [f"{event.type} {event.position}" for event in expected if str(event.position) not in set(got)]
        foreign = [f"{event['type']} {event['id']}" for event in shown if event["id"] not in set(on_log)]
        yield f"{len(got)} events came, {len(on_log)} are on the log; missing {missing[:9]}, not there {foreign[:9]}"
    by_run: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in shown:
        by_run[event["run"]].append(event)
    if not any(event["type"] == "reply.delta" for event in shown):
        return
    for run, events in by_run.items():
        said = [event for event in events if event["type"] == "reply.completed"]
        for event in said:
            stored = event["data"]["text"]
            if event["actor"].startswith("assistant") and (text := text_shown(events)) != stored:
                yield f"run {run} shows {text!r}, stored is {stored!r}"

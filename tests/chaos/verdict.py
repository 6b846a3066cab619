"""What is wrong after a run: with the history, with what subscribers were shown, with what Redis holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import parse_qs, urlsplit

from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.log import Log
from eventstore.read_models import ReadModels
from eventstore.schema import OrgId, Recorded
from projections import PROJECTIONS
from projections.verify import verify
from tests.chaos.subscribers import Subscriber
from tests.support import histories
from tests.support.invariants import violations


def of_history(
    history: Sequence[Recorded], marks: Iterable[str], left: Iterable[Mapping[str, str]], *, may_lose: bool
) -> Iterator[str]:
    """`left` are the forms of the texts that a provider has really sent. `may_lose`: the log may have forgotten inputs,
    and that a text has left."""
    times = Counter(parse_qs(urlsplit(form["StatusCallback"]).query)["intent"][0] for form in left)
    kept = histories.marked(history)
    yield from histories.accepted_once(history, [mark for mark in marks if mark in kept or not may_lose])
    yield from histories.answered_in_order(history)
    yield from histories.sent_in_order(history)
    if not may_lose:
        yield from histories.effects_once(history, times)
    yield from histories.silent_while_held(history)


def of_subscriber(subscriber: Subscriber, history: Sequence[Recorded], *, may_lose: bool) -> Iterator[str]:
    """`may_lose`: Redis may have come back with a shorter log, which subscribers are then told by a gap."""
    if may_lose and subscriber.ends and subscriber.last not in {event.position for event in history}:
        return  # the log has forgotten the run: who comes late finds none, who was there cannot be told
    allowed = ("ahead", "unknown") if may_lose else ()
    wrong = [
        *subscriber.faults,
        *(f"an unexpected gap: {gap}" for gap in subscriber.gaps if gap.reason not in allowed),
        *histories.shown_whole(subscriber.seen, expected(subscriber, history)),
    ]
    yield from (f"{subscriber.name}: {sentence}" for sentence in wrong)


def expected(subscriber: Subscriber, history: Sequence[Recorded]) -> list[Recorded]:
    """What it has asked for and was promised since its last gap; the stream of a run ends with the run."""
    events = [event for event in history if subscriber.wants(event)]
    if subscriber.ends and (ends := histories.outcomes(events)):
        last = min(event.position for each in ends.values() for event in each)
        events = [event for event in events if event.position <= last]
    return [event for event in events if not subscriber.gaps or event.position > subscriber.gaps[-1].after]


def is_level(subscriber: Subscriber, history: Sequence[Recorded]) -> bool:
    wanted = expected(subscriber, history)
    return subscriber.ended or (not subscriber.ends and (not wanted or subscriber.last >= wanted[-1].position))


async def of_store(pipe: Pipe, home: Pipe, org: OrgId) -> list[str]:
    """`home` leads to the server that holds the organization's keys."""
    found = await violations(home, org)
    for projection in PROJECTIONS:
        try:
            differences = await verify(Log(pipe), ReadModels(pipe), org, projection)
        except StoreError as error:  # facts are missing
            found.append(f"the read model {projection.name} cannot be folded again: {error}")
            continue
        found += [f"the read model {projection.name} is not what the log folds to: {each}" for each in differences]
    return found

"""A conversation at one position, answers under way included: everything after that position is still to come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from eventstore import codec
from eventstore.events.replies import ReplyDelta, ReplyRestarted, ReplyStepped
from eventstore.log import Log
from eventstore.schema import ConversationId, OrgId, Position, Recorded
from projections.conversations import CONVERSATIONS, Conversation, fold
from projections.engine import Engine


class Snapshot(NamedTuple):
    """`conversation` None: nothing has been said. `texts` are what is shown of its open replies, by run."""

    position: Position
    conversation: Conversation | None
    texts: dict[str, str]


async def latest(log: Log, engine: Engine, org: OrgId, conversation: ConversationId) -> Snapshot:
    """As it is now. The clock is read first: the read model holds everything up to there, and when it holds more of
    this conversation, everything up to that."""
    clock = (await log.bounds(org)).clock
    document = await (await engine.level(org, CONVERSATIONS)).get(conversation)
    position = max(clock, Position.parse(document.position)) if document else clock
    return Snapshot(position, document, await _texts(log, org, document, position))


async def at(log: Log, org: OrgId, conversation: ConversationId, position: Position) -> Snapshot:
    """As it was then. Of an answer that was under way, what its deltas still tell."""
    events = await log.read_conversation(org, conversation)
    document = fold(event for event in events if event.position <= position)
    return Snapshot(position, document, await _texts(log, org, document, position))


async def _texts(log: Log, org: OrgId, document: Conversation | None, position: Position) -> dict[str, str]:
    runs = document.open_replies if document else ()
    return {run: shown(await log.read_run(org, Position.parse(run)), position) for run in runs}


def shown(run: Iterable[Recorded], until: Position) -> str:
    """What a client shows of an answer: finished steps, and what the deltas of the current one add up to."""
    finished, current = "", ""
    for event in run:
        if event.position > until:
            break
        match codec.decode(event):
            case ReplyDelta(text=text):
                current += text
            case ReplyStepped(text=text):
                finished, current = finished + text, ""
            case ReplyRestarted(text=text):
                finished, current = text, ""
    return finished + current

"""Callbacks that are not delivered: those on their way, and the dead letters."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from eventstore.events.callbacks import CallbackDeadLettered, CallbackDelivered, CallbackFailed, CallbackRequested
from projections.engine import ReadModel
from projections.projection import Fact, Projection

_LAST_MS = 10**13 - 1


class Callback(msgspec.Struct, frozen=True):
    """`id` is the webhook's. A dead letter has `dead_since`; it leaves the list when it is tried again."""

    id: str
    run: str
    conversation: str | None
    url: str
    requested_at: str
    attempts: int = 0
    error: str = ""
    dead_since: str | None = None
    died_ms: int = 0


def _touches(event: Fact) -> tuple[str, ...]:
    match event.body:
        case CallbackRequested(redelivers=redelivers):
            return (redelivers or str(event.position),)
        case CallbackFailed(callback=name) | CallbackDelivered(callback=name) | CallbackDeadLettered(callback=name):
            return (name,)
    return ()


def evolve(state: Callback | None, event: Fact) -> Callback | None:
    match event.body:
        case CallbackRequested(url=url, redelivers=redelivers):
            run, conversation = str(event.recorded.run), event.recorded.conversation
            return Callback(redelivers or str(event.position), run, conversation, url, event.at)
        case CallbackFailed(attempt=attempt, error=error) if state is not None:
            return replace(state, attempts=attempt, error=error)
        case CallbackDeadLettered(attempts=attempts, error=error) if state is not None:
            died = event.position.ms
            return replace(state, attempts=attempts, error=error, dead_since=event.at, died_ms=died)
    return None


def _terms(callback: Callback) -> set[str]:
    """Newest first."""
    return {f"dead:{_LAST_MS - callback.died_ms:013d}"} if callback.dead_since else set()


CALLBACKS: Projection[Callback] = Projection("callbacks", 1, Callback, _touches, evolve, _terms)


async def dead_letters(model: ReadModel[Callback], limit: int) -> list[Callback]:
    return await model.with_prefix("dead:", limit)

"""What a projection is: a pure fold from facts to documents, with the terms that find them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from eventstore import codec
from eventstore.schema import Body, Position, Recorded, UnknownEvent

D = TypeVar("D")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fact(NamedTuple):
    """A recorded event with its decoded body."""

    recorded: Recorded
    body: Body | UnknownEvent

    @property
    def position(self) -> Position:
        return self.recorded.position

    @property
    def at(self) -> str:
        """When it was recorded, as clients see it: `2025-11-20T23:20:00.123Z`."""
        return timestamp(self.recorded.position)


def fact(recorded: Recorded) -> Fact:
    return Fact(recorded, codec.decode(recorded))


def timestamp(position: Position) -> str:
    moment = _EPOCH + timedelta(milliseconds=position.ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _no_terms(_: Any) -> set[str]:
    return set()


@dataclass(frozen=True)
class Projection(Generic[D]):
    """`touches` names the documents an event changes; `evolve` gives the new document, None to remove it.

    Both are pure and total: they must take every event in every state, or the read model stops there. Raise
    `version` whenever a document or its terms would come out differently; documents are then folded anew.
    `terms` hold no NUL. Documents are stored as JSON of the type `document` (a Struct or a tagged union of them).
    """

    name: str
    version: int
    document: Any
    touches: Callable[[Fact], tuple[str, ...]]
    evolve: Callable[[D | None, Fact], D | None]
    terms: Callable[[D], set[str]] = _no_terms

    def encode(self, document: D) -> bytes:
        return msgspec.json.encode(document)

    def decode(self, stored: bytes) -> D:
        document: D = msgspec.json.decode(stored, type=self.document)
        return document

    def fold(self, documents: Mapping[str, D | None], events: Iterable[Fact]) -> dict[str, D | None]:
        """The documents after the events; None marks one that does not exist any more."""
        state = dict(documents)
        for event in events:
            for key in self.touches(event):
                state[key] = self.evolve(state.get(key), event)
        return state

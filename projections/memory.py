"""What is remembered of each conversation: a running summary, memories, and who and what was talked about.

A conversation is one person's with one assistant, so nothing is remembered across persons or organizations.
"""

from __future__ import annotations

import msgspec

from eventstore.events.memory import Entity, Memory, MemoryExtracted, Relation
from projections.projection import Fact, Projection

KEPT_MEMORIES = 200
KEPT_ENTITIES = 100
KEPT_RELATIONS = 200
"""The latest ones; the summary holds what went before."""


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A memory, and when it was last heard of (ms of the log's clock)."""

    at_ms: int
    memory: Memory


class Remembered(msgspec.Struct, frozen=True, omit_defaults=True):
    """`until` is where the last extraction stopped. All lists are oldest first."""

    until: str
    summary: str = ""
    memories: tuple[Kept, ...] = ()
    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()


def _touches(event: Fact) -> tuple[str, ...]:
    conversation = event.recorded.conversation
    return (conversation,) if conversation and isinstance(event.body, MemoryExtracted) else ()


def evolve(state: Remembered | None, event: Fact) -> Remembered | None:
    if not isinstance(event.body, MemoryExtracted):
        return state
    new, before = event.body, state or Remembered(event.body.until)
    return Remembered(
        until=new.until,
        summary=new.summary or before.summary,
        memories=_memories(before.memories, [Kept(event.position.ms, memory) for memory in new.memories]),
        entities=_entities(before.entities, new.entities),
        relations=tuple(dict.fromkeys((*_without(before.relations, new.relations), *new.relations)))[-KEPT_RELATIONS:],
    )


def _memories(before: tuple[Kept, ...], new: list[Kept]) -> tuple[Kept, ...]:
    """The same again is heard of anew; what is about the same is replaced."""
    latest = {_key(kept.memory): kept for kept in (*before, *new)}
    order = {_key(kept.memory): place for place, kept in enumerate((*before, *new))}
    return tuple(latest[key] for key in sorted(latest, key=order.__getitem__))[-KEPT_MEMORIES:]


def _key(memory: Memory) -> tuple[str, str]:
    return ("about", memory.about.casefold()) if memory.about else ("text", memory.text.casefold())


def _entities(before: tuple[Entity, ...], new: list[Entity]) -> tuple[Entity, ...]:
    named = {entity.name.casefold() for entity in new}
    kept = [entity for entity in before if entity.name.casefold() not in named]
    return tuple({entity.name.casefold(): entity for entity in (*kept, *new)}.values())[-KEPT_ENTITIES:]


def _without(before: tuple[Relation, ...], new: list[Relation]) -> list[Relation]:
    return [relation for relation in before if relation not in new]


MEMORY: Projection[Remembered] = Projection("memory", 1, Remembered, _touches, evolve)

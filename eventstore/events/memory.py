"""What is remembered of a conversation beyond its last messages: asked for, extracted, or not."""

from __future__ import annotations

import msgspec

from eventstore.events.replies import Usage
from eventstore.schema import Body, Personal


class Memory(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing worth knowing about the person. A later one that is `about` the same replaces it ("": both hold).

    `topics` are words that a question about it may use and its text does not: they are what search by meaning has to
    go on, see docs/memory.md.
    """

    text: str
    about: str = ""
    topics: list[str] = []


class Entity(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody or something that was talked about, by name."""

    name: str
    kind: str = ""


class Relation(msgspec.Struct, frozen=True):
    """`subject` and `object` are names of entities."""

    subject: str
    relation: str
    object: str


class MemoryRequested(Body, frozen=True, kw_only=True, tag="memory.requested"):
    """So many messages have come since the last extraction that another one is due."""

    messages: int


class MemoryStarted(Body, frozen=True, kw_only=True, tag="memory.started"):
    attempt: int
    model: str


class MemoryExtracted(Body, frozen=True, kw_only=True, tag="memory.extracted"):
    """`until` is the request: what was said before it is in here. `summary` is that of the whole conversation."""

    until: str
    model: str
    usage: Usage | None = None
    summary: Personal[str] = ""
    memories: Personal[list[Memory]] = []
    entities: Personal[list[Entity]] = []
    relations: Personal[list[Relation]] = []


class MemoryFailed(Body, frozen=True, kw_only=True, tag="memory.failed"):
    """The next extraction takes these messages too."""

    error: str


TYPES = (MemoryRequested, MemoryStarted, MemoryExtracted, MemoryFailed)

"""Does a read model say what the log says? Folds the log again, in memory, and compares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Literal, NamedTuple, TypeVar

from eventstore.read_models import START, Checkpoint, Generation, ReadModels
from eventstore.schema import OrgId
from projections.engine import PAGE, Engine, FactReader, after, members
from projections.projection import Fact, Projection, fact

D = TypeVar("D")


class Difference(NamedTuple):
    """`expected` and `stored` are JSON documents, or index entries of the document `key`; None where there is none."""

    key: str
    what: Literal["document", "terms"]
    expected: bytes | None
    stored: bytes | None


class _Stored(NamedTuple):
    """What is kept, and the checkpoints before and after it was read."""

    began: Checkpoint
    ended: Checkpoint
    documents: dict[str, bytes]
    terms: dict[str, set[str]]


async def verify(facts: FactReader, store: ReadModels, org: OrgId, projection: Projection[D]) -> list[Difference]:
    """The differences, by document key; empty when all is well. Needs memory for the whole read model.

    Work goes on meanwhile: a document may be in any state it had while the read model was being read.
    Raises StoreError if the log has lost facts.
    """
    live = (await Engine(facts, store).level(org, projection)).generation
    stored = await _stored(store, live)
    expected = await _refold(facts, projection, org, stored)
    keys = sorted(expected.keys() | stored.documents.keys() | stored.terms.keys())
    return [difference for key in keys for difference in _compare(projection, key, expected[key], stored)]


async def _stored(store: ReadModels, live: Generation) -> _Stored:
    began = await store.checkpoint(live) or START
    documents = {key: document async for key, document in store.all_documents(live)}
    terms: dict[str, set[str]] = defaultdict(set)
    async for entry in store.all_terms(live):
        terms[entry.partition("\0")[2]].add(entry)
    return _Stored(began, await store.checkpoint(live) or began, documents, terms)


async def _refold(
    facts: FactReader, projection: Projection[D], org: OrgId, stored: _Stored
) -> dict[str, list[D | None]]:
    """Per key the state at the first checkpoint, and every later one up to the second."""
    states: dict[str, list[D | None]] = defaultdict(lambda: [None])
    async for event in _until(facts, org, stored.ended):
        for key in projection.touches(event):
            changed = projection.evolve(states[key][-1], event)
            if event.position <= stored.began.position:
                states[key] = [changed]
            else:
                states[key].append(changed)
    return states


async def _until(facts: FactReader, org: OrgId, end: Checkpoint) -> AsyncIterator[Fact]:
    checkpoint = START
    while checkpoint.position < end.position:
        page = await facts.read(org, checkpoint.position, count=PAGE, deltas=False)
        if not page:
            return
        for recorded in page:
            if recorded.position > end.position:
                return
            yield fact(recorded)
        checkpoint = after(checkpoint, page)


def _compare(projection: Projection[D], key: str, states: Iterable[D | None], stored: _Stored) -> list[Difference]:
    found, entries = stored.documents.get(key), stored.terms.get(key, set())
    documents, indexes = [], []
    for state in states:
        documents.append(None if state is None else projection.encode(state))
        indexes.append(set() if state is None else set(members(projection, key, state)))
    differences = []
    if found not in documents:
        differences.append(Difference(key, "document", documents[-1], found))
    if entries not in indexes:
        differences.append(Difference(key, "terms", _joined(indexes[-1]), _joined(entries)))
    return differences


def _joined(entries: set[str]) -> bytes:
    return "\n".join(sorted(entries)).encode()

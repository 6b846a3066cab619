"""Brings read models level with the log, whoever asks and whenever, and rebuilds them beside the live ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from eventstore.errors import StoreError
from eventstore.read_models import Change, Checkpoint, Generation, ReadModels, member
from eventstore.schema import OrgId, Position, Recorded
from projections.projection import Fact, Projection, fact

D = TypeVar("D")

PAGE = 100
"""Facts folded per step: bounds the time for which writing one step occupies Redis."""

MAX_FLIPS = 5
"""How many rebuilds by others one call to `level` follows before it gives up."""


class FactReader(Protocol):
    """What the engine needs of the log (or of log and archive as one)."""

    async def read(self, org: OrgId, after: Position, *, count: int = ..., deltas: bool = ...) -> list[Recorded]: ...


class ReadModel(Generic[D]):
    """A read model to query. It holds at least every fact that was on the log when `level` was called."""

    def __init__(self, store: ReadModels, projection: Projection[D], generation: Generation) -> None:
        self._store = store
        self.projection = projection
        self.generation = generation

    async def get(self, key: str) -> D | None:
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, D]:
        """The documents that exist, in the order of the keys."""
        stored = await self._store.documents(self.generation, keys)
        decode = self.projection.decode
        return {key: decode(raw) for key, raw in zip(keys, stored, strict=True) if raw is not None}

    async def with_term(self, term: str, limit: int) -> list[D]:
        """Documents with exactly this term, ordered by key."""
        return list((await self.get_many(await self.keys_with(term, limit))).values())

    async def with_prefix(self, prefix: str, limit: int) -> list[D]:
        """Documents with a term that begins so, ordered by term, each once; `limit` counts terms."""
        return list((await self.get_many(await self.keys_with_prefix(prefix, limit))).values())

    async def keys_with(self, term: str, limit: int) -> list[str]:
        return await self.keys_with_prefix(f"{term}\0", limit)

    async def keys_with_prefix(self, prefix: str, limit: int) -> list[str]:
        entries = await self._store.with_prefix(self.generation, prefix, limit)
        return list(dict.fromkeys(entry.partition("\0")[2] for entry in entries))

    async def count(self, prefix: str) -> int:
        """Entries whose term begins so."""
        return await self._store.count(self.generation, prefix)


class _Turns:
    """Of all in this process who want one read model level, one folds the log, and it is level for the others too.
    `done` is the latest turn that came to its end, `live` what it brought level."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.begun = self.done = 0
        self.live: Generation | None = None


class Engine:
    """Any number of processes may level and rebuild the same read model at any time: each step compares the
    checkpoint it began from, and whoever loses reads on from where the winner got to.
    """

    def __init__(self, facts: FactReader, store: ReadModels) -> None:
        self._facts = facts
        self._store = store
        self._turns: WeakValueDictionary[tuple[OrgId, str, int], _Turns] = WeakValueDictionary()

    async def level(self, org: OrgId, projection: Projection[D]) -> ReadModel[D]:
        """The read model with everything that is on the log now, so a caller reads its own writes.

        Raises StoreError if the log no longer holds what comes after the checkpoint.
        """
        turns = self._turns.setdefault((org, projection.name, projection.version), _Turns())
        under_way = turns.begun
        async with turns.lock:
            if turns.live is None or turns.done <= under_way:  # may have read the log before the caller's own write
                turns.begun += 1
                turns.live = await self._level(org, projection)
                turns.done = turns.begun
            return ReadModel(self._store, projection, turns.live)

    async def _level(self, org: OrgId, projection: Projection[Any]) -> Generation:
        for _ in range(MAX_FLIPS):
            live = await self._store.live(org, projection.name, projection.version)
            if live is None:
                await self._build(org, projection)
            elif await self._catch_up(projection, live):
                return live
        raise StoreError(f"read model {projection.name} of {org} was replaced {MAX_FLIPS} times while it was read")

    async def rebuild(self, org: OrgId, projection: Projection[D]) -> ReadModel[D]:
        """Folds the whole log into a new generation while the live one serves, then flips, and drops what older
        versions of the projection left. A rebuild that was interrupted goes on where it stopped."""
        await self._build(org, projection)
        await self._store.retire(org, projection.name, projection.version)
        return await self.level(org, projection)

    async def _build(self, org: OrgId, projection: Projection[Any]) -> None:
        building = await self._store.begin(org, projection.name, projection.version)
        if await self._catch_up(projection, building):
            await self._store.flip(building, projection.version)

    async def _catch_up(self, projection: Projection[Any], generation: Generation) -> bool:
        """False if the generation does not exist any more."""
        checkpoint = await self._store.checkpoint(generation)
        while checkpoint is not None:
            page = await self._facts.read(generation.org, checkpoint.position, count=PAGE, deltas=False)
            if not page:
                return True
            reached = after(checkpoint, page)
            change = await self._change(projection, generation, [fact(recorded) for recorded in page])
            if await self._store.advance(generation, checkpoint, reached, change):
                checkpoint = reached
            else:  # another process was faster, or the generation is gone
                checkpoint = await self._store.checkpoint(generation)
            if len(page) < PAGE and checkpoint is not None and checkpoint.position >= reached.position:
                return True
        return False

    async def _change(self, projection: Projection[Any], generation: Generation, events: Sequence[Fact]) -> Change:
        touched = list(dict.fromkeys(key for event in events for key in projection.touches(event)))
        stored = dict(zip(touched, await self._store.documents(generation, touched), strict=True))
        before = {key: projection.decode(raw) if raw else None for key, raw in stored.items()}
        return difference(projection, stored, before, projection.fold(before, events))


def after(checkpoint: Checkpoint, page: Sequence[Recorded]) -> Checkpoint:
    """Where a page leads. Facts are numbered without holes, so a page that does not fit means lost facts."""
    last = page[-1]
    if last.number != checkpoint.number + len(page):
        raise StoreError(
            f"expected fact {checkpoint.number + 1} of {last.organization} after {checkpoint.position}, the log goes "
            f"on with {page[0].number} at {page[0].position}: restore the archive or the backup, then rebuild"
        )
    return Checkpoint(last.position, last.number)


def difference(
    projection: Projection[D], stored: dict[str, bytes | None], before: dict[str, D | None], now: dict[str, D | None]
) -> Change:
    """Only what really changed: many events leave documents and terms as they were."""
    encoded = {key: projection.encode(document) for key, document in now.items() if document is not None}
    old, new = _members(projection, before), _members(projection, now)
    return Change(
        written={key: raw for key, raw in encoded.items() if raw != stored.get(key)},
        removed=[key for key, document in now.items() if document is None and stored.get(key) is not None],
        terms_added=sorted(new - old),
        terms_removed=sorted(old - new),
    )


def _members(projection: Projection[D], documents: dict[str, D | None]) -> set[str]:
    return {
        entry
        for key, document in documents.items()
        if document is not None
        for entry in members(projection, key, document)
    }


def members(projection: Projection[D], key: str, document: D) -> Iterable[str]:
    """The index entries of one document."""
    return (member(term, key) for term in projection.terms(document))

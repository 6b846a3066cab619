"""Where read models are kept: documents, search terms and a checkpoint per generation, moved in one step.

Every version of a projection's code has its own live generation, so that old and new processes can run side by side;
a rebuild fills another generation and flips the pointer to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from eventstore import keys
from eventstore.connection import Pipe, load_script
from eventstore.resp import Argument
from eventstore.schema import ORIGIN, OrgId, Position

ADVANCE = load_script("advance.lua")
FLIP = load_script("flip.lua")

GRACE_MS = 60_000
"""How long a generation outlives its replacement, for queries that began on it."""

SCAN_COUNT = 500


class Checkpoint(NamedTuple):
    """The last fact that was folded; `number` proves that none was skipped."""

    position: Position
    number: int


START = Checkpoint(ORIGIN, 0)


class Generation(NamedTuple):
    """One stored form of a read model."""

    org: OrgId
    name: str
    number: int

    def key(self, part: str) -> str:
        return keys.of(self.org).read_model(self.name, self.number, part)

    def parts(self) -> list[str]:
        return [self.key("head"), self.key("docs"), self.key("terms")]


class Change(msgspec.Struct, frozen=True):
    """What a page of events does to a read model."""

    written: Mapping[str, bytes] = {}
    removed: Sequence[str] = ()
    terms_added: Sequence[str] = ()
    terms_removed: Sequence[str] = ()


def member(term: str, key: str) -> str:
    """An entry of the term index. Terms hold no NUL, so what follows it is the document's key."""
    return f"{term}\0{key}"


class ReadModels:
    """Storage only: what the documents mean is the projections' business."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    async def live(self, org: OrgId, name: str, version: int) -> Generation | None:
        """The generation that queries of this projection version read."""
        number = await self._pipe.call("HGET", _pointers(org, name), f"live:{version}")
        return Generation(org, name, int(number)) if number else None

    async def begin(self, org: OrgId, name: str, version: int) -> Generation:
        """The generation under construction: the one an interrupted rebuild left, else a new one."""
        pointers, building = _pointers(org, name), f"building:{version}"
        number = await self._pipe.call("HGET", pointers, building)
        if number is None:
            fresh = await self._pipe.call("HINCRBY", pointers, "last", 1)
            await self._pipe.call("HSETNX", pointers, building, fresh)
            number = await self._pipe.call("HGET", pointers, building) or fresh
        generation = Generation(org, name, int(number))
        await self._pipe.call("HSETNX", generation.key("head"), "p", str(ORIGIN))
        return generation

    async def flip(self, built: Generation, version: int) -> bool:
        """Makes it the live generation; False if another process has done so, or has begun anew."""
        old = await self.live(built.org, built.name, version)
        reply = await self._pipe.run(
            FLIP,
            [_pointers(built.org, built.name), *(old or built).parts()],
            [version, built.number, old.number if old else "", GRACE_MS],
        )
        return bool(reply[0] == b"OK")

    async def retire(self, org: OrgId, name: str, below: int) -> None:
        """Drops what older versions of the projection kept; a process that still runs one builds its own again."""
        pointers = _pointers(org, name)
        reply = await self._pipe.call("HGETALL", pointers)
        for field, number in zip(reply[::2], reply[1::2], strict=True):
            kind, _, version = field.decode().partition(":")
            if version and int(version) < below:
                await self._pipe.call("HDEL", pointers, f"{kind}:{version}")
                for key in Generation(org, name, int(number)).parts():
                    await self._pipe.call("PEXPIRE", key, GRACE_MS)

    async def checkpoint(self, generation: Generation) -> Checkpoint | None:
        """How far it was folded; None if it does not exist (any more)."""
        position, number = await self._pipe.call("HMGET", generation.key("head"), "p", "n")
        return Checkpoint(Position.parse(position), int(number or 0)) if position else None

    async def advance(self, generation: Generation, expected: Checkpoint, to: Checkpoint, change: Change) -> bool:
        """Documents, terms and checkpoint in one step; False, and nothing changed, if it is not at `expected`."""
        arguments: list[Argument] = [str(expected.position), str(to.position), to.number]
        arguments += map(len, (change.written, change.removed, change.terms_added, change.terms_removed))
        for name, document in change.written.items():
            arguments += (name, document)
        arguments += change.removed
        for entry in change.terms_added:
            arguments += (0, entry)
        arguments += change.terms_removed
        reply = await self._pipe.run(ADVANCE, generation.parts(), arguments)
        return bool(reply[0] == b"OK")

    async def documents(self, generation: Generation, names: Sequence[str]) -> list[bytes | None]:
        if not names:
            return []
        return list(await self._pipe.call("HMGET", generation.key("docs"), *names))

    async def with_prefix(self, generation: Generation, prefix: str, limit: int) -> list[str]:
        """Entries of the term index that begin so, in the order of their bytes."""
        low, high = b"[" + prefix.encode(), b"[" + prefix.encode() + b"\xff"
        reply = await self._pipe.call("ZRANGEBYLEX", generation.key("terms"), low, high, "LIMIT", 0, limit)
        return [entry.decode() for entry in reply]

    async def count(self, generation: Generation, prefix: str) -> int:
        low, high = b"[" + prefix.encode(), b"[" + prefix.encode() + b"\xff"
        return int(await self._pipe.call("ZLEXCOUNT", generation.key("terms"), low, high))

    async def all_documents(self, generation: Generation) -> AsyncIterator[tuple[str, bytes]]:
        """Every document, in no order; one that is being written may come in either state, or twice."""
        cursor = b"0"
        while True:
            cursor, page = await self._pipe.call("HSCAN", generation.key("docs"), cursor, "COUNT", SCAN_COUNT)
            for name, document in zip(page[::2], page[1::2], strict=True):
                yield name.decode(), document
            if cursor == b"0":
                return

    async def all_terms(self, generation: Generation) -> AsyncIterator[str]:
        """Every entry of the term index, under the same reservations."""
        cursor = b"0"
        while True:
            cursor, page = await self._pipe.call("ZSCAN", generation.key("terms"), cursor, "COUNT", SCAN_COUNT)
            for entry in page[::2]:
                yield entry.decode()
            if cursor == b"0":
                return


def _pointers(org: OrgId, name: str) -> str:
    """Which generation is live and which is being built, per version; generations count from 1."""
    return keys.of(org).read_model(name, 0, "generations")

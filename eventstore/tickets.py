"""Tickets: what a browser's EventSource or WebSocket, which can send no header, opens one stream with.

A ticket opens one route with one filter for one organization. It is kept as a hash, can be opened within `OPEN_S`, and
after that only by a client that says where it was.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Literal, NamedTuple

import msgspec

from eventstore import keys
from eventstore.connection import Pipe, load_script
from eventstore.schema import OrgId

TICKET = load_script("ticket.lua")

OPEN_S = 30
AGAIN_S = 60
"""After an opening that showed nothing; longer than anybody is told to stay away."""
LIFE_S = 12 * 3_600
PREFIX = "tlt_"
MAX_LENGTH = 100

Refused = Literal["unknown", "elsewhere", "used"]
_REFUSALS: dict[int, Refused] = {0: "unknown", -1: "elsewhere", -2: "used"}


class Grant(msgspec.Struct, frozen=True):
    """What a ticket stands for: the rights of the credential that asked for it, until `until_ms` (epoch).

    `binding` is a digest of route and filter.
    """

    org: OrgId
    credential_id: str
    scopes: list[str]
    binding: str
    until_ms: int
    subject: str | None = None


class Opened(NamedTuple):
    """The `nth` opening of a ticket; a later one replaces it."""

    ticket: str
    nth: int
    grant: Grant


class Tickets:
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    async def issue(self, grant: Grant) -> str:
        plain = PREFIX + secrets.token_urlsafe(24)
        await self._pipe.call("SET", keys.ticket(_digest(plain)), msgspec.json.encode(grant), "PX", OPEN_S * 1_000)
        return plain

    async def open(self, plain: str, binding: str, *, returns: bool) -> Opened | Refused:
        """`returns`: the client says where in the stream it was."""
        if not plain.startswith(PREFIX) or len(plain) > MAX_LENGTH or not plain.isascii():
            return "unknown"
        digest = _digest(plain)
        stored = await self._pipe.call("GET", keys.ticket(digest))
        if stored is None:
            return "unknown"
        grant = msgspec.json.decode(stored, type=Grant)
        names = [keys.ticket(digest), keys.ticket_openings(digest)]
        count = int(await self._pipe.run(TICKET, names, [binding, int(returns), grant.until_ms]))
        return Opened(digest, count, grant) if count > 0 else _REFUSALS[count]

    async def give_back(self, plain: str) -> None:
        """Undoes the first opening, which showed nothing, so that there can be another one within `AGAIN_S`. A stream
        that this ticket has opened meanwhile ends."""
        names = keys.ticket(_digest(plain)), keys.ticket_openings(_digest(plain))
        if (stored := await self._pipe.call("GET", names[0])) is not None:
            until_ms = msgspec.json.decode(stored, type=Grant).until_ms
            ends_ms = min(int((time.time() + AGAIN_S) * 1_000), until_ms)
            await asyncio.gather(self._pipe.call("DEL", names[1]), self._pipe.call("PEXPIREAT", names[0], ends_ms))

    async def are_newest(self, opened: Sequence[Opened]) -> list[bool]:
        """Whether each is still the last opening of a ticket that is still good."""
        if not opened:
            return []
        counts = await self._pipe.call("MGET", *(keys.ticket_openings(each.ticket) for each in opened))
        return [stored == b"%d" % each.nth for stored, each in zip(counts, opened, strict=True)]


def _digest(plain: str) -> str:
    return sha256(plain.encode()).hexdigest()

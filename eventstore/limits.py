"""Budgets per name and window, kept in Redis for all processes together.

A window begins with the first call in it and has a fixed length, so a budget is two numbers, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from eventstore import keys
from eventstore.connection import Pipe, load_script
from eventstore.schema import ConversationId, OrgId

LIMIT = load_script("limit.lua")

WINDOW_S = 900


class Budget(NamedTuple):
    """`remaining` after this call; `reset_s` until the window is over, rounded up."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int


Communication = Literal["sms", "calls"]


class Ceiling(NamedTuple):
    """At most so many in any window; 0 is no limit."""

    most: int
    window_s: int = WINDOW_S


class Ceilings(NamedTuple):
    """How much may leave: to one customer, and from one organization."""

    sms_per_number: Ceiling = Ceiling(30)
    sms: Ceiling = Ceiling(1_000)
    calls_per_number: Ceiling = Ceiling(5)
    calls: Ceiling = Ceiling(100)


class Limits:
    """One script call per question. A refused call costs nothing: who keeps asking is not locked out longer."""

    def __init__(self, pipe: Pipe, *, now_ms: Callable[[], int] | None = None) -> None:
        self._pipe = pipe
        self._now_ms = now_ms

    async def spend(
        self, org: OrgId, bucket: str, subject: str, limit: int, *, window_s: int = WINDOW_S, cost: int = 1
    ) -> Budget:
        """Takes `cost` from the subject's bucket if the limit allows it; 0 only asks whether it would allow 1.

        `subject` becomes part of a key's name: an id (of a key, a conversation), never a telephone number or a name.
        """
        now: int | str = self._now_ms() if self._now_ms else ""
        reply = await self._pipe.run(
            LIMIT, [keys.of(org).limit(f"{bucket}:{subject}")], [now, limit, window_s * 1_000, cost]
        )
        allowed, remaining, reset_ms = (int(value) for value in reply)
        return Budget(bool(allowed), limit, remaining, -(-reset_ms // 1_000))


class Communications:
    """What leaves by SMS and telephone, counted before it does: a loop with another machine must end by itself."""

    def __init__(self, limits: Limits, ceilings: Ceilings) -> None:
        self._limits = limits
        self._ceilings = ceilings

    async def allow(self, org: OrgId, kind: Communication, conversation: ConversationId) -> bool:
        """Counts one to this customer, and one from this organization."""
        return await self._spend(org, kind, conversation, cost=1)

    async def has_room(self, org: OrgId, kind: Communication, conversation: ConversationId) -> bool:
        """Whether one more would be allowed now; counts nothing."""
        return await self._spend(org, kind, conversation, cost=0)

    async def _spend(self, org: OrgId, kind: Communication, conversation: ConversationId, *, cost: int) -> bool:
        own = self._ceilings
        to_one, from_all = (own.sms_per_number, own.sms) if kind == "sms" else (own.calls_per_number, own.calls)
        for subject, (most, window_s) in ((conversation, to_one), ("all", from_all)):
            if most and not (await self._limits.spend(org, kind, subject, most, window_s=window_s, cost=cost)).allowed:
                return False
        return True

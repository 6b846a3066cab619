"""Budgets per name and window, kept in Redis for all processes together.

A window begins with the first call in it and has a fixed length, so a budget is two numbers, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from eventstore import keys
from eventstore.connection import Pipe, load_script
from eventstore.schema import OrgId

LIMIT = load_script("limit.lua")

WINDOW_S = 900


class Budget(NamedTuple):
    """`remaining` after this call; `reset_s` until the window is over, rounded up."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int


class Limits:
    """One script call per question. A refused call costs nothing: who keeps asking is not locked out longer."""

    def __init__(self, pipe: Pipe, *, now_ms: Callable[[], int] | None = None) -> None:
        self._pipe = pipe
        self._now_ms = now_ms

    async def spend(
        self, org: OrgId, bucket: str, subject: str, limit: int, *, window_s: int = WINDOW_S, cost: int = 1
    ) -> Budget:
        """Takes `cost` from the subject's bucket if the limit allows it.

        `subject` becomes part of a key's name: an id (of a key, a conversation), never a telephone number or a name.
        """
        now: int | str = self._now_ms() if self._now_ms else ""
        reply = await self._pipe.run(
            LIMIT, [keys.of(org).limit(f"{bucket}:{subject}")], [now, limit, window_s * 1_000, cost]
        )
        allowed, remaining, reset_ms = (int(value) for value in reply)
        return Budget(bool(allowed), limit, remaining, -(-reset_ms // 1_000))

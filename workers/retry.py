"""When work is tried again, and what becomes of it after its last attempt."""

from __future__ import annotations

from typing import Literal, NamedTuple

LONGEST_WAIT_S = 300.0
"""Of what others ask us to wait: beyond it an answer has lost its reader."""


class Backoff(NamedTuple):
    """Exponential with full jitter: many lanes that failed together do not come back together."""

    base_ms: int = 500
    cap_ms: int = 60_000

    def delay_ms(self, attempts: int, chance: float, after_s: float = 0.0) -> int:
        """The pause after the given attempt; `chance` in [0, 1) is drawn by the caller.

        `after_s` is what whoever refused us asked for. The jitter comes on top: the others were told the same.
        """
        ceiling = min(self.cap_ms, self.base_ms * 2 ** min(max(attempts, 1) - 1, 30))
        return int(min(after_s, LONGEST_WAIT_S) * 1_000 + ceiling * chance)


class Schedule(NamedTuple):
    """One pause after each attempt, in seconds, for receivers that may be away for hours; the last one repeats."""

    pauses_s: tuple[float, ...]

    def delay_ms(self, attempts: int, chance: float, after_s: float = 0.0) -> int:
        """Never sooner than the pause says, up to a tenth later, and not before what the receiver asked for."""
        pause_s = self.pauses_s[min(max(attempts, 1), len(self.pauses_s)) - 1]
        return int(max(pause_s, min(after_s, LONGEST_WAIT_S)) * (1 + chance / 10) * 1_000)


class Policy(NamedTuple):
    """Attempts count when they begin, so crashes count. `park` keeps the lane's later work waiting for a person;
    `fail` records the failure and goes on with the next item."""

    max_attempts: int
    on_exhausted: Literal["park", "fail"]
    backoff: Backoff | Schedule = Backoff()

    def is_exhausted(self, attempts: int) -> bool:
        """Whether no attempt is left after this one."""
        return attempts >= self.max_attempts

    def is_overdrawn(self, attempts: int) -> bool:
        """Whether this attempt is one too many: the ones before it ended without a word, in crashes."""
        return attempts > self.max_attempts

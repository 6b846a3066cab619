"""A clock that only moves when a test says so."""

from __future__ import annotations


class Clock:
    """Call it for the time in milliseconds."""

    def __init__(self, ms: int = 1_760_000_000_000) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms

    def advance(self, ms: int) -> None:
        """Negative steps the clock back, as a server's may."""
        self.ms += ms

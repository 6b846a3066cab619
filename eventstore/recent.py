"""Answers of the store that are believed for a moment, so that not every request asks again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

CACHE_S = 2.0
"""How long an answer is believed. A stream that looks again every 2 s so ends within 5 s of its key's revocation."""
CACHE_ENTRIES = 20_000

V = TypeVar("V")


class Recent(Generic[V]):
    """Answers believed for `CACHE_S` from the moment they were *asked* for, at most `CACHE_ENTRIES` of them.

    `clock` counts seconds monotonically.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[V, float]] = {}

    def holds(self, name: str) -> bool:
        entry = self._entries.get(name)
        return entry is not None and self._clock() < entry[1]

    def get(self, name: str) -> V | None:
        entry = self._entries.get(name)
        return entry[0] if entry is not None and self._clock() < entry[1] else None

    def put(self, name: str, value: V, asked: float) -> None:
        self._entries.pop(name, None)
        if len(self._entries) >= CACHE_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._entries[name] = (value, asked + CACHE_S)

    def clear(self) -> None:
        self._entries.clear()

    def drop(self, name: str) -> None:
        self._entries.pop(name, None)

"""A stream of text as deltas on the log: the first piece at once, then what has gathered since."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

COALESCE_S = 0.03
"""Below what an eye notices, and an order of magnitude fewer appends than tokens."""


class Deltas:
    """`write` runs beside the stream that calls `add`, and ends once `close` was called and all is stored.

    One append is in flight at a time, so order is kept. `text` is what has been stored so far.
    """

    def __init__(self, store: Callable[[int, str], Awaitable[None]], first_index: int = 0) -> None:
        self.text = ""
        self.index = first_index
        self._store = store
        self._gathered: list[str] = []
        self._some = asyncio.Event()
        self._closed = asyncio.Event()

    def add(self, text: str) -> None:
        if text:
            self._gathered.append(text)
            self._some.set()

    def close(self) -> None:
        self._closed.set()
        self._some.set()

    async def write(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._gathered:
                await self._store_gathered()
                await self._pause()
            if self._closed.is_set():
                return

    async def _store_gathered(self) -> None:
        text, self._gathered = "".join(self._gathered), []
        await self._store(self.index, text)
        self.index += 1
        self.text += text

    async def _pause(self) -> None:
        """Ends early when the stream has."""
        try:
            async with asyncio.timeout(COALESCE_S):
                await self._closed.wait()
        except TimeoutError:
            return

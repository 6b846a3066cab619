"""A stream of text as deltas on the log: the first piece at once, then what has gathered since."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

SHARE = 5
"""An append is followed by a pause of so many times its length: slow appends say that others append, too."""
MOST_S = 0.04
"""The longest pause: below what an eye notices."""


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
        self._closed = False

    def add(self, text: str) -> None:
        if text:
            self._gathered.append(text)
            self._some.set()

    def close(self) -> None:
        self._closed = True
        self._some.set()

    async def write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            self._some.clear()
            while self._gathered:
                began = loop.time()
                await self._store_gathered()
                if not self._closed:
                    await asyncio.sleep(min((loop.time() - began) * SHARE, MOST_S))
            if self._closed:
                return

    async def _store_gathered(self) -> None:
        text, self._gathered = "".join(self._gathered), []
        await self._store(self.index, text)
        self.index += 1
        self.text += text

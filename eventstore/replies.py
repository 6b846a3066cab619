"""The receiving end of a connection to Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from eventstore.errors import CommandFailed


class Replies(asyncio.Protocol):
    """Replies come in the order of the commands that `waiting` holds.

    A stream to read them from would cost a task, and a turn of the event loop for every read.
    """

    def __init__(self, lost: Callable[[Replies, str], None]) -> None:
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self.heard_at = 0.0
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(replyError=CommandFailed)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        waiting, gets = self.waiting, self._parser.gets
        try:
            self._parser.feed(data)
            while (reply := gets()) is not False:
                if not waiting:
                    raise hiredis.ProtocolError(f"a reply nobody asked for: {reply!r:.80}")
                future = waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except hiredis.ProtocolError as error:
            self._lost(self, f"the connection to Redis broke: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(self, "the connection to Redis broke" + (f": {error}" if error is not None else ""))

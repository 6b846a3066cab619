"""A connection on which the same event is published over and over."""

from __future__ import annotations

import socket
from contextlib import suppress

REPLY_BYTES = 1 << 16


class Publisher:
    """Calling it publishes one event. Replies are read in passing, and not looked at."""

    def __init__(self, port: int, request: bytes, *, greeting: bytes = b"") -> None:
        self._request = request
        self._connection = socket.create_connection(("127.0.0.1", port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.sendall(greeting)

    def __call__(self) -> None:
        with suppress(BlockingIOError):
            self._connection.recv(REPLY_BYTES, socket.MSG_DONTWAIT)
        self._connection.sendall(self._request)

    def close(self) -> None:
        self._connection.close()

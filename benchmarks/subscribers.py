"""A cheap SSE load client: many sockets on one epoll, counting a byte that every frame holds exactly once."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

MARK = b"~"
READ_BYTES = 1 << 18


class Subscribers:
    """`count[i]` frames have reached subscriber i since `reset`."""

    def __init__(self, port: int, path: str, headers: str, number: int) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._index: dict[int, int] = {}
        self.count = [0] * number
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{headers}\r\n".encode()
        for index in range(number):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            connection.sendall(request)
            head = connection.recv(READ_BYTES)
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise RuntimeError(f"the subscription was refused: {head[:200]!r}")
            connection.setblocking(False)
            self._sockets[connection.fileno()] = connection
            self._index[connection.fileno()] = index
            self._poll.register(connection.fileno(), select.EPOLLIN)

    def settle(self, quiet_s: float = 0.5) -> None:
        """Reads until nothing more comes, and starts counting at zero."""
        deadline = time.monotonic() + quiet_s
        while time.monotonic() < deadline:
            if self.read(0.05):
                deadline = time.monotonic() + quiet_s
        self.count = [0] * len(self.count)

    def read(self, timeout_s: float) -> int:
        """One round over the readable sockets; how many frames it brought."""
        got = 0
        for fd, _ in self._poll.poll(timeout_s, 1_000):
            data = self._sockets[fd].recv(READ_BYTES)
            if not data:
                raise RuntimeError("a stream broke off under load")
            frames = data.count(MARK)
            self.count[self._index[fd]] += frames
            got += frames
        return got

    def run(self, publish: Callable[[], None], *, in_flight: int, seconds: float) -> float:
        """Keeps so many events in flight for a while; frames per second over all subscribers."""
        published, number = 0, len(self.count)
        self.count = [0] * number
        begun = time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds:
            done = min(self.count)
            while published - done < in_flight:
                publish()
                published += 1
            self.read(1.0)
        total = sum(self.count)
        while sum(self.count) < published * number and time.perf_counter() - begun < seconds + 5:
            self.read(0.2)
        if sum(self.count) != published * number:
            raise RuntimeError(f"{published * number - sum(self.count)} frames did not arrive")
        return total / elapsed

    def close(self) -> None:
        for connection in self._sockets.values():
            connection.close()
        self._poll.close()

"""A cheap load client: many streams on one epoll, counting a byte that every frame holds exactly once."""

from __future__ import annotations

import select
import socket
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

MARK = b"|"
"""In every event once, and in nothing else that is sent: neither in what a stream says of itself, nor in lengths."""
SSE = "text/event-stream"
READ_BYTES = 1 << 18
SAMPLED = 100
"""So many subscribers, evenly among all, are timed: every frame of theirs."""
LATE_S = 30.0
PONG = b"\x8a\x80\x00\x00\x00\x00"
PING_BEGINS, PING_ENDS = 0x89, 0
"""Text does neither: a WebSocket's sign of life, before or after frames, is answered. Who never answers one is cut."""


class Turn(NamedTuple):
    """Frames per second over all subscribers; the 99th of 100 delays from before an event's publication until a
    subscriber had read it."""

    frames_per_s: float
    p99_ms: float


class Subscribers:
    """`count[i]` frames have reached subscriber i since the last turn began."""

    def __init__(self, port: int, path: str, headers: str, number: int, *, accept: str = SSE) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, tuple[int, socket.socket]] = {}
        self._buffer = bytearray(READ_BYTES)
        self._published: list[float] = []
        self._delays: list[float] = []
        self._timed = frozenset(range(0, number, max(1, number // SAMPLED)))
        self.count = [0] * number
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n{headers}\r\n".encode()
        for index in range(number):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            connection.sendall(request)
            head = connection.recv(READ_BYTES)
            if head.split(b" ", 2)[1] not in (b"200", b"101"):
                raise RuntimeError(f"the subscription was refused: {head[:200]!r}")
            connection.setblocking(False)
            self._sockets[connection.fileno()] = index, connection
            self._poll.register(connection.fileno(), select.EPOLLIN)

    def settle(self, quiet_s: float = 0.5) -> None:
        """Reads until nothing more comes, and starts counting at zero."""
        deadline = time.monotonic() + quiet_s
        while time.monotonic() < deadline:
            if self._poll.poll(0.05, 1):
                self.read(0)
                deadline = time.monotonic() + quiet_s
        self._begin()

    def read(self, timeout_s: float) -> int:
        """One round over the readable sockets; how many frames it brought."""
        total, buffer, count = 0, self._buffer, self.count
        for fd, _ in self._poll.poll(timeout_s, 1_000):
            index, connection = self._sockets[fd]
            size = connection.recv_into(buffer)
            if not size:
                raise RuntimeError("a stream broke off under load")
            if buffer[size - 1] == PING_ENDS or buffer[0] == PING_BEGINS:
                connection.sendall(PONG)
            frames, before = buffer.count(MARK, 0, size), count[index]
            count[index] += frames
            total += frames
            if index in self._timed:
                now = time.perf_counter()
                self._delays += [now - at for at in self._published[before : before + frames]]
        return total

    def run(self, publish: Callable[[], None], *, in_flight: int, seconds: float) -> Turn:
        """Keeps so many events in flight for a while: one counts as such until the last subscriber has it."""
        self._begin()
        number, total, done = len(self.count), 0, 0
        begun = time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds:
            while len(self._published) - done < in_flight:
                self._published.append(time.perf_counter())
                publish()
            total += self.read(1.0)
            if total >= (done + 1) * number:
                done = min(self.count)
        frames_per_s = total / elapsed
        missing = len(self._published) * number - total
        while missing > 0 and time.perf_counter() - begun < seconds + LATE_S:
            missing -= self.read(0.2)
        if missing:
            raise RuntimeError(f"{missing} frames of {len(self._published) * number} are missing")
        return Turn(frames_per_s, statistics.quantiles(self._delays, n=100)[98] * 1e3)

    def close(self) -> None:
        for _, connection in self._sockets.values():
            connection.close()
        self._poll.close()

    def _begin(self) -> None:
        self.count = [0] * len(self.count)
        self._published, self._delays = [], []

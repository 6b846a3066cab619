"""`trunkline edge --processes N`: one port, several processes, and clients that do not notice when one of them dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from eventstore.connection import Pipe, pool_for
from tests.support.listeners import until_listening
from tests.support.product import Command, free_port, wait_until_serving
from tests.support.redis_servers import RedisServer, fastest_binary
from tests.support.stack import ACME, Stack, stacked
from tests.support.stream_client import Cut, StreamClient

PASSWORD = "not-for-everybody"
PROCESSES, CLIENTS = 2, 24
EVERYTHING = "/v1/events/stream"
DRAIN_S = 2.0


class Site(NamedTuple):
    port: int
    stack: Stack
    edge: Command

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def siblings(self) -> list[int]:
        """The processes that the command has started."""
        pid = self.edge.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def until_complete(self) -> list[int]:
        """Returns the siblings when all processes listen."""
        await until_listening(self.port, PROCESSES)
        return self.siblings()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - neither the kernel nor the product sets an asyncio.Event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    binary = fastest_binary()
    assert binary is not None
    redis, port = RedisServer(binary, tcp=True).start(), free_port()
    pipe = Pipe(pool_for(redis.url))
    await pipe.call("CONFIG", "SET", "requirepass", PASSWORD)
    await pipe.close()
    url = redis.url.replace("//", f"//:{PASSWORD}@")
    arguments = ("edge", "--port", str(port), "--processes", str(PROCESSES))
    edge = Command(*arguments, env={"TRUNKLINE_REDIS_URL": url, "TRUNKLINE_DRAIN_S": str(DRAIN_S)})
    try:
        await asyncio.to_thread(wait_until_serving, f"http://127.0.0.1:{port}", "/health/live")
        async with stacked(url, work=False, development=False) as stack:
            yield Site(port, stack, edge)
    finally:
        edge.stop()
        redis.stop()


class Client:
    """Follows everything, and returns with its position whenever it is cut; `seen` are the ids of facts."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.seen: list[str] = []
        self.opened = 0
        self._url = url
        self._headers = headers
        self._last = ""

    async def follow(self) -> None:
        while True:
            try:
                await self._connection()
            except (Cut, OSError):  # or nobody listens
                await asyncio.sleep(0.05)

    async def _connection(self) -> None:
        headers = (
            self._headers | {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last} if self._last else {})
        )
        async with StreamClient("GET", self._url + EVERYTHING, headers, None, "1.1") as stream:
            self.opened += 1
            while (frame := await stream.next()) is not None:
                self._last = frame.id or self._last
                if frame.type == "custom.said":
                    self.seen.append(frame.data["id"])

    async def has(self, ids: Sequence[str]) -> None:
        await until(lambda: len(self.seen) >= len(ids))
        assert self.seen == list(ids)


def listed(pids: Sequence[int]) -> str:
    return "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc")
async def test_a_process_that_dies_is_replaced_and_no_client_misses_anything_and_all_drain_together() -> None:
    async with site() as here:
        [sibling] = await here.until_complete()
        assert PASSWORD not in listed([here.edge.process.pid, sibling])
        key = await here.stack.key()
        clients = [Client(here.url, key) for _ in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.follow()) for client in clients]
            await until(lambda: all(client.opened for client in clients))
            said = await here.stack.say(3, org=ACME)
            for client in clients:
                await client.has(said)

            os.kill(sibling, signal.SIGKILL)
            await until(lambda: any(client.opened > 1 for client in clients))
            said += await here.stack.say(3, org=ACME)
            for client in clients:
                await client.has(said)
            assert any(client.opened == 1 for client in clients), "the others stayed"
            [replacement] = await here.until_complete()
            assert replacement != sibling

            begun = time.monotonic()
            here.edge.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(here.edge.wait) == 0, here.edge.stderr
            assert time.monotonic() - begun < DRAIN_S + 1
            assert not Path(f"/proc/{replacement}").exists()
            for task in tasks:
                task.cancel()

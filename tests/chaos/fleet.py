"""Edges, workers and their Redis as real processes, each behind a proxy of its own, and what can be done to them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import httpx

from tests.chaos.places import Place
from tests.chaos.schedule import DELAY_S, Step
from tests.support.product import Command
from tests.support.tcp_proxy import TcpProxy

EXIT_START = 2
"""What a process says that finds no Redis when it starts; whoever supervises it starts it again."""
NOT_BEGUN = -signal.SIGTERM
"""A process that was being started again is still importing, and does not listen for signals yet."""
LOOK_S = 0.1
SCRIPT = b"EVALSHA"
"""What is lost is mostly a write: nothing depends on the reply to a read."""
START_S = 60.0


class Member:
    """One process, behind a proxy of its own where Redis is one server.

    It is started again whenever Redis was away when it started; `ended` is how it ended otherwise."""

    def __init__(self, name: str, start: Callable[[str], Command], place: Place) -> None:
        self.name = name
        self.proxy = TcpProxy(place.url) if place.is_one else None
        self._url = place.url
        self.ended: list[str] = []
        self.breaking = asyncio.Lock()
        self._start = start
        self._command: Command | None = None

    def start(self) -> None:
        self._command = self._start(self.proxy.url if self.proxy is not None else self._url)

    @property
    def command(self) -> Command:
        assert self._command is not None, f"{self.name} was not started"
        return self._command

    async def supervise(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self.breaking.locked() or (code := self.command.process.poll()) is None:
                continue
            self.command.wait()
            if code != EXIT_START:
                self.ended.append(f"{self.name} ended with {code} by itself:\n{self.command.stderr[-2_000:]}")
            self.start()

    async def kill(self, for_s: float) -> None:
        self.command.kill()
        await asyncio.sleep(for_s)
        self.start()

    async def stop(self, for_s: float) -> None:
        self.command.pause()
        await asyncio.sleep(for_s)
        self.command.resume()

    def destroy(self) -> None:
        self.command.kill()

    async def end(self) -> None:
        """Drained, as by SIGTERM; the proxy has to go on meanwhile."""
        async with self.breaking:
            if (code := await asyncio.to_thread(self.command.stop)) not in (0, NOT_BEGUN):
                self.ended.append(f"{self.name} drained with {code}:\n{self.command.stderr[-2_000:]}")


class Fleet:
    """Runs from `async with` on; `stop_processes` ends all but Redis, which then holds what is to be checked."""

    def __init__(
        self,
        place: Place,
        edges: Sequence[Callable[[str], Command]],
        workers: Sequence[Callable[[str], Command]],
    ) -> None:
        self.place = place
        self.edges = [Member(f"edge {at}", start, place) for at, start in enumerate(edges)]
        self.workers = [Member(f"worker {at}", start, place) for at, start in enumerate(workers)]
        self._redis_breaking = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._supervisors: list[asyncio.Task[None]] = []

    @property
    def members(self) -> list[Member]:
        return [*self.edges, *self.workers]

    @property
    def faults_hit(self) -> int:
        """How many replies and requests the proxies have lost."""
        return sum(member.proxy.faults_hit for member in self.members if member.proxy is not None)

    async def __aenter__(self) -> Self:
        for member in self.members:
            if member.proxy is not None:
                await self._stack.enter_async_context(member.proxy)
            member.start()
            self._stack.callback(member.destroy)
        self._supervisors = [asyncio.create_task(member.supervise()) for member in self.members]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_supervising()
        await self._stack.aclose()

    async def serving(self, urls: Sequence[str]) -> None:
        """Returns once every edge has a worker to its requests."""
        async with asyncio.timeout(START_S), httpx.AsyncClient() as client:
            for url in urls:
                while not await _is_ready(client, url):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(LOOK_S)

    async def suffer(self, steps: Sequence[Step]) -> None:
        """All faults, each healed after its time; those that hit one process come after each other."""
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(self._suffer(step))

    async def stop_processes(self) -> list[str]:
        """What ended, now or before, in a way it should not."""
        await self._stop_supervising()
        await asyncio.gather(*(member.end() for member in self.members))
        return [sentence for member in self.members for sentence in member.ended]

    async def _stop_supervising(self) -> None:
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)

    async def _suffer(self, step: Step) -> None:
        await asyncio.sleep(step.at_s)
        match step.fault:
            case "kill_redis":
                async with self._redis_breaking:
                    await self.place.kill(step.lasts_s)
            case "stop_redis":
                async with self._redis_breaking:
                    await self.place.stop(step.lasts_s)
            case "cut_request" | "cut_reply" | "swallow_reply":
                if (proxy := _pick(self.members, step).proxy) is not None:
                    proxy.fail_next(step.fault, SCRIPT)
            case "delay":
                if (proxy := _pick(self.members, step).proxy) is not None:
                    proxy.delay_s = DELAY_S
                    await asyncio.sleep(step.lasts_s)
                    proxy.delay_s = 0.0
            case "kill_worker" | "kill_edge":
                member = _pick(self.workers if step.fault == "kill_worker" else self.edges, step)
                async with member.breaking:
                    await member.kill(step.lasts_s)
            case "stop_worker" | "stop_edge":
                member = _pick(self.workers if step.fault == "stop_worker" else self.edges, step)
                async with member.breaking:
                    await member.stop(step.lasts_s)


def _pick(members: Sequence[Member], step: Step) -> Member:
    return members[step.target % len(members)]


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health/ready", timeout=2)).status_code == 200
    except httpx.TransportError:
        return False

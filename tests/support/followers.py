"""Clients of several kinds on the same streams, each a program of its own, and what they have been shown."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.streams import CLIENTS

NPM = ("eventsource", "eventsource-client", "fetch-event-source")
BY_TICKET = ("chromium",)
"""These can send no headers."""
KINDS = ("chromium", *NPM, "httpx-sse", "curl")
PACKAGES = {"fetch-event-source": "@microsoft/fetch-event-source"}
LINE_BYTES = 1 << 20
STOP_S = 5.0


class Subscription(NamedTuple):
    stream: str
    url: str
    headers: dict[str, str]


def missing(kind: str) -> str | None:
    """Why this client cannot be had here."""
    if kind in NPM:
        if shutil.which("node") is None or not (CLIENTS / "node_modules" / PACKAGES.get(kind, kind)).is_dir():
            return f"node or npm's {kind} is missing: run `npm ci` in tests/e2e/clients"
    elif kind != "httpx-sse" and shutil.which(kind) is None:
        return f"there is no {kind} on PATH"
    return None


class Follower:
    """`shown` per stream: the id of each event, `gap REASON FIRST_AVAILABLE`, or the type of another frame; positions
    are left out. `opened` counts connections."""

    def __init__(self, kind: str, subscriptions: Sequence[Subscription]) -> None:
        self.kind = kind
        self.shown: dict[str, list[str]] = defaultdict(list)
        self.opened: Counter[str] = Counter()
        self._subscriptions = subscriptions
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        wanted = json.dumps([each._asdict() for each in self._subscriptions])
        program = ["node", str(CLIENTS / "subscribe.js")] if self.kind in NPM else [sys.executable, _PYTHON]
        self._process: Process = await asyncio.create_subprocess_exec(
            *program, self.kind, wanted, stdout=PIPE, start_new_session=True, limit=LINE_BYTES
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # curl is its child
        await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def until(self, holds: Callable[[Self], bool], limit_s: float) -> bool:
        """Whether it has come true in time."""
        try:
            async with asyncio.timeout(limit_s), self._news:
                await self._news.wait_for(lambda: holds(self))
        except TimeoutError:
            return False
        return True

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._hear(json.loads(line))
            async with self._news:
                self._news.notify_all()

    def _hear(self, line: dict[str, Any]) -> None:
        if line.get("opened"):
            self.opened[line["stream"]] += 1
        elif (shown := _shown(line["data"])) is not None:
            self.shown[line["stream"]].append(shown)


def _shown(data: dict[str, Any]) -> str | None:
    match data["type"]:
        case "position":
            return None
        case "gap":
            return f"gap {data['reason']} {data['first_available']}"
        case _:
            return str(data.get("id") or data["type"])


_PYTHON = str(CLIENTS / "subscribe.py")

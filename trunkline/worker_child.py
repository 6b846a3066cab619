"""The worker of `up`: a process of its own, because models and tools must not stall streams."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import structlog

from eventstore import children
from eventstore.presence import Presence
from trunkline.errors import StartError

READY_LIMIT_S = 30.0
READY_POLL_S = 0.02
DRAIN_LIMIT_S = 30.0

logger = structlog.get_logger(__name__)


class WorkerChild:
    """Use as `async with`, then `ready`, then keep one task in `watch`."""

    def __init__(self, presence: Presence, options: Sequence[str]) -> None:
        self._presence = presence
        self._command = [sys.executable, "-m", "trunkline", "worker", *options]
        self._others: frozenset[str] = frozenset()
        self._child: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> WorkerChild:
        self._others = await self._owners()
        self._launch()
        return self

    async def __aexit__(self, *_: object) -> None:
        """The worker finishes what it holds or hands it back, within `DRAIN_LIMIT_S`."""
        child, self._child = self._child, None
        if child is not None:
            await children.stop(child, DRAIN_LIMIT_S)

    async def ready(self) -> None:
        """Returns when the worker takes work. Raises StartError."""
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                while not await self._owners() - self._others:
                    if self._child is not None and (status := self._child.poll()) is not None:
                        raise StartError(f"the worker ended at its start (status {status}): see its messages above")
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError as error:
            raise StartError(f"the worker was not ready within {READY_LIMIT_S:.0f} s") from error

    async def watch(self) -> None:
        """Starts the worker again whenever it ends by itself, until cancelled."""
        async for _ in children.ends("worker", lambda: self._child):
            self._launch()

    def _launch(self) -> None:
        # Its stdout goes to stderr too: stdout is for the one line of `up --json`.
        self._child = children.spawn(self._command, stdout=sys.stderr.fileno(), stderr=None)

    async def _owners(self) -> frozenset[str]:
        return frozenset(present.owner for present in await self._presence.alive())

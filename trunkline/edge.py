"""`trunkline edge`: one process that serves streams."""

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from trunkline.errors import StartError
from trunkline.settings import Settings


class EdgeOptions(NamedTuple):
    redis_url: str | None = None
    host: str | None = None
    port: int | None = None
    processes: int = 1


def run_edge(options: EdgeOptions) -> int:
    """Serves until SIGINT or SIGTERM and drains; the exit code. Raises StartError."""
    raise StartError(f"`trunkline edge` is not composed yet (asked for {options})")


def serving(
    settings: Settings, redis_url: str, listener: socket.socket, *, development: bool
) -> AbstractAsyncContextManager[None]:
    """Serves on `listener` (already listening) from the moment it is entered. Leaving it drains: runs may end within
    the drain window, then endless streams are aborted and connections closed.

    `development`: bound to loopback without a public address, so that requests of this machine need no key.
    """
    raise StartError("the edge is not composed yet")

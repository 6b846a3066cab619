"""The life of one process: its event loop, and the signals that end it."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

COLLECT_AFTER = (20_000, 20, 20)
"""Requests leave few cycles; at Python's own 700 the collector took a twentieth of an edge's time."""


def run(main: Coroutine[None, None, T]) -> T:
    """Runs a coroutine on uvloop where there is one."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def settle_memory() -> None:
    """Once everything is loaded: the collector need not look at it again, nor look as often at what requests leave."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def raise_file_limit() -> int:
    """As many file descriptors as the system lets this process have; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS: "unlimited" may not be asked for
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit if limit != resource.RLIM_INFINITY else sys.maxsize


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def run_until_signalled(main: Coroutine[None, None, None]) -> int:
    """Runs a process that ends on SIGINT, SIGTERM or SIGHUP; its exit code. Under `nohup` SIGHUP stays ignored.

    The signal cancels `main`, which drains by leaving its `async with` blocks.
    A second SIGINT or SIGTERM does not wait.
    """
    return run(_until_signalled(main))


async def _until_signalled(main: Coroutine[None, None, None]) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    signalled = False

    def stop() -> None:
        nonlocal signalled
        if signalled:  # the end of a terminal is told twice: by its shell and by the kernel
            return
        signalled = True
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, stop)
    try:
        await main
    except asyncio.CancelledError:
        if not signalled:
            raise
    return 0

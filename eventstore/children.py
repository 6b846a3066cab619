"""Child processes that end when this process ends, however it ends."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import IO

import structlog

POLL_S = 0.05
KILL_LIMIT_S = 5.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
"""A child that ran this long did not fail at its start: the pause before the next start is short again."""
_PR_SET_PDEATHSIG = 1

logger = structlog.get_logger(__name__)

Output = int | IO[bytes] | None


def spawn(
    command: Sequence[str],
    *,
    stdout: Output,
    stderr: Output,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a child in a session of its own, so that Ctrl-C on a terminal reaches only its parent. Secrets go by
    `env` (None: this process's own): everybody on the machine can read a command line.

    On Linux the kernel sends it SIGTERM when the *thread* that called this ends: call it from the main thread.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        env=env,
        start_new_session=True,
        preexec_fn=dying_with_parent(),
    )


async def ended(child: subprocess.Popen[bytes]) -> int:
    """Waits until the child has ended; its exit status. Polls: a waiting thread could not be cancelled."""
    while (status := child.poll()) is None:  # noqa: ASYNC110 - the kernel sets no asyncio.Event
        await asyncio.sleep(POLL_S)
    return status


async def ends(name: str, current: Callable[[], subprocess.Popen[bytes] | None]) -> AsyncIterator[None]:
    """Yields when it is time to start the current child again: each time it has ended, after a pause that grows while
    children fail at their start. Ends when there is no child any more."""
    clock = asyncio.get_running_loop().time
    pause_s = FIRST_PAUSE_S
    while (child := current()) is not None:
        watched_since = clock()
        status = await ended(child)
        if current() is not child:
            continue
        if clock() - watched_since > STEADY_S:
            pause_s = FIRST_PAUSE_S
        logger.warning(f"{name} ended by itself", status=status, pid=child.pid, again_in_s=pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        yield


async def stop(child: subprocess.Popen[bytes], limit_s: float) -> None:
    """SIGTERM, and SIGKILL when the child is still there after `limit_s`. Returns when it is gone."""
    if child.poll() is not None:
        return
    child.terminate()
    await gone(child, limit_s)


async def gone(child: subprocess.Popen[bytes], limit_s: float) -> None:
    """Waits until a child that was told to end has ended; SIGKILL when it is still there after `limit_s`."""
    try:
        await asyncio.wait_for(ended(child), limit_s)
    except TimeoutError:
        child.kill()
        await asyncio.wait_for(ended(child), KILL_LIMIT_S)


def dying_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn`: see `spawn`. None where the system cannot do that."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child of a threaded process may not take locks
    parent = os.getpid()

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended between fork and prctl
            os._exit(1)

    return before_exec

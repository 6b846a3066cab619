"""A process without file descriptors says so, once."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from structlog.testing import capture_logs

from edges import descriptors


@contextmanager
def none_left() -> Iterator[None]:
    """For the whole process: nothing may be awaited in here that opens anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_want_of_file_descriptors_is_told_when_it_begins_and_when_it_is_over() -> None:
    with capture_logs() as logs:
        watching = asyncio.create_task(descriptors.watch(0))
        for _ in range(2):
            with none_left():
                for _ in range(5):
                    await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
        watching.cancel()
    assert [log["log_level"] for log in logs] == ["error", "warning"] * 2

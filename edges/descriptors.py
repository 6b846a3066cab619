"""Tells when no file descriptor is left: neither uvloop nor libuv says so, and new connections are reset unheard."""

from __future__ import annotations

import asyncio
import errno
import os

import structlog

LOOK_S = 5.0

logger = structlog.get_logger(__name__)


async def watch(look_s: float = LOOK_S) -> None:
    """Until cancelled; one line when it begins, one when it is over."""
    was_left = True
    while True:
        if (is_left := one_is_left()) is not was_left:
            if is_left:
                logger.warning("there are file descriptors again")
            else:
                logger.error("no file descriptor is left, new connections are reset: see `ulimit -n`")
        was_left = is_left
        await asyncio.sleep(look_s)


def one_is_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True

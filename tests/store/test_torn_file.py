"""A power cut may end the append-only file at any byte: what was on disk before is kept, and nothing by halves."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from eventstore import torn_file
from eventstore.append import APPEND, Append
from eventstore.connection import Pipe, pool_for
from eventstore.log import Log
from eventstore.schema import ORIGIN
from tests.store.conftest import PRESENT, binary_of
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.store import ACME, ANN, fact, written

APPENDS = 5
EVERY = 53
"""Of the bytes at which the file could end: prime, so that over all of them every part of a command is cut."""
STARTS = 4
"""Of those ends, with which a server is really started."""


class Left(NamedTuple):
    """What a server that fsyncs at every write leaves behind, and how large its file was as each append was
    acknowledged."""

    binary: str
    directory: Path
    sizes: list[int]

    @property
    def file(self) -> Path:
        return _file(self.directory)


def _file(directory: Path) -> Path:
    """The one that is written to."""
    [*found] = [*directory.glob("appendonly.aof"), *directory.glob("appendonlydir/*.incr.aof")]
    return found[-1]


@pytest.fixture(scope="module", params=PRESENT)
def left(request: pytest.FixtureRequest) -> Iterator[Left]:
    server = RedisServer(binary_of(request.param), appendonly=True).start()
    sizes = asyncio.run(_appended(server))
    server.kill()
    yield Left(binary_of(request.param), server.directory, sizes)
    server.stop()


async def _appended(server: RedisServer) -> list[int]:
    pipe = Pipe(pool_for(server.url), (APPEND,))
    log, sizes = Log(pipe), list[int]()
    for number in range(APPENDS):
        written(await log.append(ACME, Append(events=[fact(ANN, text=str(number), lane="l"), fact(ANN)])))
        sizes.append(_file(server.directory).stat().st_size)
    await pipe.close()
    return sizes


def torn(left: Left, end: int, home: Path) -> Path:
    """A copy of it that ends at this byte, as mended before a start; its file."""
    shutil.copytree(left.directory, home, ignore=shutil.ignore_patterns("*.sock"))
    os.truncate(_file(home), end)
    torn_file.mend(left.binary, home)
    return _file(home)


def test_whatever_byte_it_ends_at_all_that_was_acknowledged_is_kept_and_no_part_of_more(
    left: Left, tmp_path: Path
) -> None:
    """The first append is left out: scripts are loaded and the database is chosen on its way."""
    for end in range(left.sizes[0], left.sizes[-1] + 1, EVERY):
        home = tmp_path / str(end)
        whole = max(size for size in left.sizes if size <= end)
        assert torn(left, end, home).stat().st_size == whole, f"cut at {end} of {left.sizes}"
        shutil.rmtree(home)


@pytest.mark.parametrize("start", range(STARTS))
async def test_a_server_that_starts_on_it_has_a_whole_log_and_keeps_what_comes_later(left: Left, start: int) -> None:
    first, last = left.sizes[0], left.sizes[-1]
    end = first + (last - first) * (2 * start + 1) // (2 * STARTS)
    server = RedisServer(left.binary, appendonly=True)
    shutil.rmtree(server.directory)
    torn(left, end, server.directory)
    kept = sum(size <= end for size in left.sizes)
    for _ in range(2):  # what follows a torn transaction is lost with the second start, not with the first
        server.start()
        pipe = Pipe(pool_for(server.url), (APPEND,))
        assert len(await Log(pipe).read(ACME, ORIGIN)) == 2 * kept
        await assert_invariants(pipe, ACME)
        written(await Log(pipe).append(ACME, Append(events=[fact(ANN), fact(ANN, lane="l")])))
        kept += 1
        await pipe.close()
        server.kill()
    server.stop()

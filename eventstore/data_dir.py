"""The data directory of one installation: who holds it, and which redis-server wrote what is in it."""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from eventstore.errors import DataDirBusy, DataDirRefused, EmbeddedRedisError


class RedisVersion(NamedTuple):
    """Patch releases write the same files: only major and minor count."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @classmethod
    def parse(cls, text: str) -> RedisVersion:
        match = re.match(r"(\d+)\.(\d+)", text)
        if match is None:
            raise ValueError(f"not a version: {text[:40]!r}")
        return cls(int(match[1]), int(match[2]))


class DataDir:
    """Held by at most one process at a time. The lock falls with its process: kill -9 leaves none."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def __enter__(self) -> DataDir:
        self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def hold(self) -> None:
        """Creates the directory where it is missing. Raises DataDirBusy, EmbeddedRedisError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedRedisError(f"the data directory {self.path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise DataDirBusy(
                f"the data directory {self.path} is in use by another trunkline (process {holder or 'unknown'})"
            ) from error
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def written_by(self) -> RedisVersion | None:
        """The newest redis-server that wrote here. Raises DataDirRefused when that cannot be told."""
        path = self.path / "version.json"
        try:
            return RedisVersion.parse(read_json(path)["redis"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataDirRefused(f"{path} cannot be read, so the data is left as it is: {error}") from error

    def record_version(self, version: RedisVersion) -> None:
        write_json(self.path / "version.json", {"redis": str(version)})


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def write_json(path: Path, value: object) -> None:
    """Replaces the file in one step, readable by its owner only."""
    draft = path.with_name(path.name + ".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(value) + "\n")
    draft.replace(path)

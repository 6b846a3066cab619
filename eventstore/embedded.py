"""A redis-server child that keeps the log in a data directory, for an installation without a Redis of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import structlog

from eventstore import children, left_over, redis_binary, torn_file
from eventstore.connection import Pipe
from eventstore.data_dir import DataDir
from eventstore.errors import EmbeddedRedisError
from eventstore.redis_binary import RedisBinary

Fsync = Literal["always", "everysec"]
"""When a write is on disk: before its reply, or within a second."""

READY_LIMIT_S = 300.0
"""Reading a large log from disk takes its time; a server that ends is noticed at once."""
READY_POLL_S = 0.005
STOP_LIMIT_S = 30.0
LONGEST_SOCKET_PATH = 100
"""The kernel's limit is 107 bytes on Linux, 103 on macOS."""

logger = structlog.get_logger(__name__)


class EmbeddedRedis:
    """Holds the data directory while it is started. Whoever owns it keeps one task in `watch()`.

    The server listens on a private socket only, survives Ctrl-C so that its parent can drain, and ends with its parent.
    """

    def __init__(self, data_dir: Path, *, fsync: Fsync = "everysec") -> None:
        self._data = DataDir(data_dir)
        self._fsync = fsync
        self._home = self._data.path / "redis"
        self._socket = self._home / "redis.sock"
        self._binary: RedisBinary | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    async def __aenter__(self) -> EmbeddedRedis:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when the log can be read and written. Raises DataDirBusy, DataDirRefused, EmbeddedRedisError."""
        self._data.hold()
        try:
            written_by = self._data.written_by()
            self._binary = redis_binary.find(written_by)
            self._prepare_home()
            was_killed = left_over.read(self._home) is not None
            await left_over.stop(self._home, self._home / "redis.sock")
            # Before the start, because the first thing a newer server does is to rewrite the files in its own way.
            self._data.record_version(self._binary.version)
            if was_killed:
                await asyncio.to_thread(torn_file.mend, self._binary.path, self._home)
            await self._launch(self._binary)
        except OSError as error:
            await self.stop()
            raise EmbeddedRedisError(f"the data directory {self._data.path} cannot be used: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """The server writes what it holds to disk and ends; the data directory is free again. Cancel `watch` first."""
        child, self._child = self._child, None  # first, so that watch() does not start another
        if child is not None:
            await children.stop(child, STOP_LIMIT_S)
            left_over.forget(self._home)
        if self._socket.parent != self._home:
            self._socket.unlink(missing_ok=True)
            self._socket.parent.rmdir()
            self._socket = self._home / "redis.sock"
        self._data.release()

    async def watch(self) -> None:
        """Starts the server again whenever it ends by itself. Ends when `stop` was called, or by cancellation."""
        async for _ in children.ends("redis-server", lambda: self._child):
            assert self._binary is not None, "there was a child"
            try:
                await asyncio.to_thread(torn_file.mend, self._binary.path, self._home)
                await self._launch(self._binary)
            except (EmbeddedRedisError, OSError) as error:
                logger.error("redis-server did not start again", error=str(error))

    def _prepare_home(self) -> None:
        self._home.mkdir(mode=0o700, exist_ok=True)
        self._home.chmod(0o700)
        if len(os.fsencode(self._socket)) > LONGEST_SOCKET_PATH:
            self._socket = Path(tempfile.mkdtemp(prefix="trunkline-")) / "redis.sock"

    async def _launch(self, binary: RedisBinary) -> None:
        log_path = self._home / "redis.log"
        if log_path.exists():
            log_path.replace(self._home / "redis.log.1")  # what the last server said before it ended
        with log_path.open("wb") as output:
            self._child = children.spawn(
                arguments(binary.path, self._home, self._socket, self._fsync),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        left_over.record(self._home, self._child.pid, self._socket)
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                await self._until_ready(self._child, log_path)
        except TimeoutError as error:
            raise EmbeddedRedisError(f"{binary.path} was not ready within {READY_LIMIT_S:.0f} s") from error

    async def _until_ready(self, child: subprocess.Popen[bytes], log_path: Path) -> None:
        while not await _answers(self._socket):
            if child.poll() is not None:
                reason = _last_line(log_path)
                raise EmbeddedRedisError(f"redis-server ended at its start (status {child.returncode}): {reason}")
            await asyncio.sleep(READY_POLL_S)


def running_url(data_dir: Path) -> str | None:
    """The address of the server that another process keeps on this directory; None if there was none."""
    record = left_over.read(data_dir.absolute() / "redis")
    return f"unix://{quote(record.socket)}" if record else None


async def data_dir_of(url: str, pipe: Pipe) -> Path | None:
    """The data directory of the server at this address, if it is one on a socket of this machine."""
    if not url.startswith("unix://"):
        return None
    _, home = await pipe.call("CONFIG", "GET", "dir")
    return Path(os.fsdecode(home)).parent


def arguments(binary: str, home: Path, socket: Path, fsync: Fsync) -> list[str]:
    """The command line of the server that keeps the log in `home`."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(home),
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "maxmemory-policy": "noeviction",
        "set-proc-title": "no",  # the command line identifies a server that was left over
    }
    return [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]


async def _answers(socket: Path) -> bool:
    """False also while the server still reads its files and answers -LOADING."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return (await reader.readline()).startswith(b"+PONG")
    except OSError:
        return False
    finally:
        writer.close()


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"

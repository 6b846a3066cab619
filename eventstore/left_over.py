"""The redis-server that a killed process left behind in its data directory."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import msgspec

from eventstore.data_dir import write_json
from eventstore.errors import EmbeddedRedisError

STOP_LIMIT_S = 10.0
POLL_S = 0.01


class Record(msgspec.Struct, frozen=True):
    """What identifies a running server. `started` is its start time in clock ticks since boot: pids are reused."""

    pid: int
    started: int | None
    socket: str


def record(home: Path, pid: int, socket: Path) -> None:
    write_json(home / "redis.pid.json", msgspec.to_builtins(Record(pid, _started(pid), str(socket))))


def forget(home: Path) -> None:
    (home / "redis.pid.json").unlink(missing_ok=True)


async def stop(home: Path, socket: Path) -> None:
    """Ends a server that still writes to `home`. The caller holds the data directory, so nobody uses that server.

    It is not adopted: it may already be ending (its parent's death is its signal to), it would not end with its new
    parent, and it may be another program than the one that was chosen.
    """
    left = read(home)
    if left is not None:
        await _stop_process(left, home)
        await _shut_down(Path(left.socket))
        if (folder := Path(left.socket).parent) != home:
            with suppress(OSError):  # a short path in the system's temporary directory, perhaps cleaned up
                Path(left.socket).unlink(missing_ok=True)
                folder.rmdir()
    await _shut_down(socket)
    forget(home)


async def _stop_process(left: Record, home: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, TimeoutError):
            async with asyncio.timeout(STOP_LIMIT_S):
                while _is_running(left, home):
                    os.kill(left.pid, number)
                    await asyncio.sleep(POLL_S)
        if not _is_running(left, home):
            return
    raise EmbeddedRedisError(f"an earlier redis-server (process {left.pid}) still uses {home} and cannot be stopped")


async def _shut_down(socket: Path) -> None:
    """For a server whose pid is not known, or not ours to know (another container, no /proc)."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return  # nobody listens
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            writer.write(b"*1\r\n$8\r\nSHUTDOWN\r\n")
            while await reader.read(1024):
                pass  # it closes the connection when it has written everything and exits
    except TimeoutError as error:
        raise EmbeddedRedisError(f"an earlier redis-server answers on {socket} and does not stop") from error
    except OSError:
        pass
    finally:
        writer.close()


def read(home: Path) -> Record | None:
    """The last server that was started here, running or not. None also for a file that cannot be read: the socket
    still finds the server."""
    try:
        return msgspec.json.decode((home / "redis.pid.json").read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _is_running(left: Record, home: Path) -> bool:
    """True only for the very process that was recorded, running in this directory."""
    if left.started is None or _started(left.pid) != left.started:
        return False
    try:
        return os.fsencode(home) in Path(f"/proc/{left.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])

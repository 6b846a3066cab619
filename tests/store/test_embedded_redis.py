"""The redis-server child: real processes, killed the hard way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest

from eventstore import redis_binary
from eventstore.embedded import EmbeddedRedis, Fsync, arguments
from eventstore.errors import DataDirBusy, DataDirRefused, EmbeddedRedisError

LIMIT_S = 20.0

HOLD = """
import asyncio, sys
from pathlib import Path
from eventstore.embedded import EmbeddedRedis

async def hold() -> None:
    async with EmbeddedRedis(Path(sys.argv[1])) as redis:
        print(redis.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a started EmbeddedRedis on `path`; killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with holding(tmp_path) as process:
        yield process


async def test_what_was_written_is_there_after_stop_and_start(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path) as redis:
        assert await call(redis, "SET greeting hello") == "+OK"
        first_url = redis.url
    async with EmbeddedRedis(tmp_path) as redis:
        assert redis.url == first_url
        assert await call(redis, "GET greeting") == "hello"


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_writes_are_on_disk_as_soon_as_was_asked_for(tmp_path: Path, fsync: Fsync) -> None:
    async with EmbeddedRedis(tmp_path, fsync=fsync) as redis:
        assert await configured(redis, "appendfsync") == fsync


async def test_what_follows_a_script_that_a_power_cut_tore_is_kept(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    server, home = await first_line(holder), tmp_path / "redis"
    script = "redis.call('SET','half',1);redis.call('SET','whole',2)"
    for command in ("SET before 1", f'EVAL "{script}" 0'):
        assert _exchange(home / "redis.sock", command)
    holder.kill()
    await until_gone(server)
    [file] = [*home.glob("appendonly.aof"), *home.glob("appendonlydir/*.incr.aof")]
    os.truncate(file, file.stat().st_size - 30)
    with holding(tmp_path) as later:
        server = await first_line(later)
        assert _exchange(home / "redis.sock", "SET after 1") == ["+OK"]
    await until_gone(server)
    async with EmbeddedRedis(tmp_path) as redis:
        found = [await call(redis, f"EXISTS {key}") for key in ("before", "half", "whole", "after")]
    assert found == [":1", ":0", ":0", ":1"]


async def test_it_starts_within_a_quarter_of_a_second(tmp_path: Path) -> None:
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        async with EmbeddedRedis(tmp_path):
            durations.append(time.perf_counter() - started)
    assert min(durations) < 0.25


async def test_only_its_owner_may_reach_it(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path / "data") as redis:
        path = socket_path(redis)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert await configured(redis, "port") == "0"
        assert await configured(redis, "maxmemory-policy") == "noeviction"
        assert await configured(redis, "appendonly") == "yes"


async def test_a_second_holder_of_the_directory_is_refused(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path):
        with pytest.raises(DataDirBusy, match=rf"{tmp_path} is in use .*process {os.getpid()}"):
            await EmbeddedRedis(tmp_path).start()
    async with EmbeddedRedis(tmp_path):
        pass  # free again


async def test_a_broken_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedRedisError, match="file cannot be used: File exists"):
        await EmbeddedRedis(tmp_path / "file").start()


async def test_a_directory_with_a_long_name_and_spaces_works(tmp_path: Path) -> None:
    data_dir = tmp_path / "a name with spaces" / ("long" * 30)
    async with EmbeddedRedis(data_dir) as redis:
        assert await call(redis, "SET greeting hello") == "+OK"
        short = socket_path(redis)
        assert len(os.fsencode(short)) < 100
    assert not short.parent.exists()
    async with EmbeddedRedis(data_dir) as redis:
        assert await call(redis, "GET greeting") == "hello"


async def test_data_of_a_newer_redis_is_left_alone(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path):
        pass
    (tmp_path / "version.json").write_text('{"redis": "99.1"}')
    with pytest.raises(DataDirRefused, match=r"written by redis 99\.1, but .*redis-server is "):
        await EmbeddedRedis(tmp_path).start()
    assert json.loads((tmp_path / "version.json").read_text()) == {"redis": "99.1"}


async def test_an_unreadable_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "version.json").write_text("{}")
    with pytest.raises(DataDirRefused, match=r"version\.json cannot be read"):
        await EmbeddedRedis(tmp_path).start()


async def test_the_server_is_started_again_when_it_is_killed(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path) as redis:
        watching = asyncio.create_task(redis.watch())
        for round_ in range(2):
            await call(redis, f"SET round {round_}")
            first = redis.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await answers(redis, "GET round", str(round_))
            assert redis.pid != first
        watching.cancel()


async def test_the_server_ends_with_a_killed_parent_and_its_data_is_taken_over(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    left_pid = await first_line(holder)
    holder.kill()
    holder.wait()
    async with EmbeddedRedis(tmp_path) as redis:  # at once: the old server may still be ending
        assert redis.pid != left_pid
        assert not is_running(left_pid)
        assert await configured(redis, "dir") == str(tmp_path / "redis")


async def test_a_process_that_got_the_recorded_pid_later_is_left_alone(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path):
        pass
    with subprocess.Popen(["sleep", "60"]) as bystander:
        record = {"pid": bystander.pid, "started": 1, "socket": str(tmp_path / "redis" / "redis.sock")}
        (tmp_path / "redis" / "redis.pid.json").write_text(json.dumps(record))
        async with EmbeddedRedis(tmp_path) as redis:
            assert await call(redis, "PING") == "+PONG"
        assert bystander.poll() is None
        bystander.kill()


async def test_an_orphan_hands_over_what_it_holds(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path):
        pass
    home = tmp_path / "redis"
    orphan = subprocess.Popen(
        arguments(redis_binary.find().path, home, home / "redis.sock", "everysec"), stdout=subprocess.DEVNULL
    )
    try:
        redis = EmbeddedRedis(tmp_path)
        await answers(redis, "SET greeting hello", "+OK")
        async with redis:
            assert orphan.wait(LIMIT_S) == 0
            assert await call(redis, "GET greeting") == "hello"
    finally:
        orphan.kill()
        orphan.wait()


async def call(redis: EmbeddedRedis, command: str) -> str | None:
    """One inline command; a simple reply as it is, the text of a bulk reply, None when nobody answers."""
    lines = await asyncio.to_thread(_exchange, socket_path(redis), command)
    return lines[-1] if lines else None


async def answers(redis: EmbeddedRedis, command: str, expected: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await call(redis, command) != expected:  # noqa: ASYNC110 - another process, no event to wait for
            await asyncio.sleep(0.01)


async def configured(redis: EmbeddedRedis, name: str) -> str | None:
    return await call(redis, f"CONFIG GET {name}")


def _exchange(path: Path, command: str) -> list[str]:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(LIMIT_S)
            connection.connect(str(path))
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(4096).decode().splitlines()
    except OSError:
        return []


def socket_path(redis: EmbeddedRedis) -> Path:
    return Path(unquote(redis.url.removeprefix("unix://")))


async def first_line(process: subprocess.Popen[str]) -> int:
    """The number that it prints; warnings come before it."""
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        while not (line := await asyncio.to_thread(process.stdout.readline)).strip().isdigit():
            pass
    return int(line)


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while is_running(pid):  # noqa: ASYNC110 - another process, no event to wait for
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

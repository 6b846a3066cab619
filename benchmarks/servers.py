"""The servers under measurement, as child processes on loopback, each pinned to a core."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from eventstore.redis_binary import find

SERVER_CORE, CLIENT_CORE = 0, 1
START_S = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(core: int) -> list[str]:
    """A command prefix that keeps a process on one core, where there are two."""
    return ["taskset", "-c", str(core)] if (os.cpu_count() or 1) > 1 and shutil.which("taskset") else []


def yielding() -> list[str]:
    """A command prefix for who shares a core: it runs when the others there rest or have had their time, and does not
    interrupt them as it wakes up (SCHED_BATCH in sched(7))."""
    return ["chrt", "--batch", "0"] if shutil.which("chrt") else []


@contextmanager
def on_client_core() -> Iterator[None]:
    """Keeps the load client, and what it starts without a pin of its own, off the server's core."""
    before = os.sched_getaffinity(0)
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {CLIENT_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def child(command: list[str], *, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    output = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(env or {})})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def redis_path() -> str:
    return shutil.which("redis-server") or find().path


@contextmanager
def redis_server(*, core: int = CLIENT_CORE, fsync: str = "everysec") -> Iterator[int]:
    """A Redis with an append-only file, with the settings that `trunkline up` gives it; yields its port.

    The system's, as in production, where there is one: the bundled 6.2 needs a quarter more for our scripts. It does
    not interrupt the load client, with which it has to share a core here.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [
            *pinned(core), *yielding(), redis_path(), "--port", str(port), "--bind", "127.0.0.1", "--dir", directory,
            "--appendonly", "yes", "--appendfsync", fsync, "--save", "",
        ]  # fmt: skip
        with child(command):
            wait_for(port)
            yield port


class Edge(NamedTuple):
    port: int
    key: str
    pid: int


@contextmanager
def edge(redis_port: int, *, core: int = SERVER_CORE, env: dict[str, str] | None = None) -> Iterator[Edge]:
    """`trunkline edge` with an organization, and an API key of that."""
    url = f"redis://127.0.0.1:{redis_port}/0"
    trunkline = [sys.executable, "-m", "trunkline"]
    subprocess.run([*trunkline, "org", "create", "bench", "--redis-url", url], check=True, capture_output=True)
    made = subprocess.run(
        [*trunkline, "key", "create", "bench", "--redis-url", url, "--json"], check=True, capture_output=True
    )
    key = json.loads(made.stdout)["api_key"]
    port = free_port()
    command = [*pinned(core), *trunkline, "edge", "--redis-url", url, "--port", str(port)]
    with child(command, env={"TRUNKLINE_RATE_LIMIT": "0", **(env or {})}) as process:
        wait_for(port)
        yield Edge(port, key, process.pid)


def cpu_ns(pid: int) -> int:
    """What a process was on a core for, all threads together."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())

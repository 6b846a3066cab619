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
def child(
    command: list[str], *, env: dict[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    output = log.open("wb") if log else subprocess.DEVNULL
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


@contextmanager
def redis_server(*, core: int = CLIENT_CORE, fsync: str = "everysec") -> Iterator[int]:
    """A Redis with an append-only file, as `trunkline up` starts it; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [
            *pinned(core), find().path, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory,
            "--appendonly", "yes", "--appendfsync", fsync, "--save", "",
        ]  # fmt: skip
        with child(command):
            wait_for(port)
            yield port


@contextmanager
def edge(redis_port: int, *, core: int = SERVER_CORE, env: dict[str, str] | None = None) -> Iterator[tuple[int, str]]:
    """`trunkline edge` with an organization; yields its port and an API key."""
    url = f"redis://127.0.0.1:{redis_port}/0"
    trunkline = [sys.executable, "-m", "trunkline"]
    subprocess.run([*trunkline, "org", "create", "bench", "--redis-url", url], check=True, capture_output=True)
    made = subprocess.run(
        [*trunkline, "key", "create", "bench", "--redis-url", url, "--json"], check=True, capture_output=True
    )
    key = json.loads(made.stdout)["api_key"]
    port = free_port()
    command = [*pinned(core), *trunkline, "edge", "--redis-url", url, "--port", str(port)]
    with child(command, env={"TRUNKLINE_RATE_LIMIT": "0", **(env or {})}):
        wait_for(port)
        yield port, key


NCHAN = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
load_module {module};
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  keepalive_requests 100000000; nchan_shared_memory_size 256M;
  server {{
    listen 127.0.0.1:{port};
    location = /publish {{ nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 100; }}
    location = /subscribe {{
      nchan_subscriber eventsource; nchan_channel_id bench; nchan_subscriber_first_message newest;
    }}
  }}
}}
"""
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


def nchan_missing() -> str | None:
    if shutil.which("nginx") is None or not NCHAN_MODULE.exists():
        return "nginx with libnginx-mod-nchan is not installed"
    return None


@contextmanager
def nchan(*, core: int = SERVER_CORE) -> Iterator[int]:
    """nginx with nchan, one process; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "nginx.conf"
        config.write_text(NCHAN.format(directory=directory, port=port, module=NCHAN_MODULE))
        with child([*pinned(core), "nginx", "-c", str(config), "-p", directory], log=Path(directory) / "out"):
            wait_for(port)
            yield port

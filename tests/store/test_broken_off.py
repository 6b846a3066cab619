"""A test run that is broken off leaves no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.redis_servers import fastest_binary

LIMIT_S = 10.0
RUN = """
import os, signal, sys
from tests.support.redis_servers import RedisServer
print(RedisServer(sys.argv[1]).start().pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_server_ends_with_the_run_that_started_it(tmp_path: Path) -> None:
    binary = fastest_binary()
    assert binary is not None
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", RUN, binary], stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout is not None
        server = int(run.stdout.readline())
    deadline = time.monotonic() + LIMIT_S
    try:
        while _is_running(server):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        if _is_running(server):
            os.kill(server, signal.SIGKILL)


def _is_running(pid: int) -> bool:
    """Not as one that has ended, and whose parent has not asked how."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()

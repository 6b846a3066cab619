"""Debian's nginx with the configuration that is shipped, in front of servers of a test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from eventstore.children import dying_with_parent
from tests.support.product import free_port

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx.conf"
START_S = 10.0


@contextmanager
def nginx(directory: Path, upstreams: Sequence[int]) -> Iterator[str]:
    """Its address; ports and paths are all that differs from what is shipped. Skips the test where there is none."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no nginx on PATH (Debian: package nginx)")
    port = free_port()
    text = (
        CONFIGURATION.read_text().replace("/tmp/", f"{directory}/").replace("listen 8080;", f"listen 127.0.0.1:{port};")
    )
    for name, upstream in zip(("edge-1", "edge-2"), upstreams, strict=True):
        text = text.replace(f"{name}:8000", f"127.0.0.1:{upstream}")
    (directory / "nginx.conf").write_text(re.sub("/dev/stdout", f"{directory}/access.log", text))
    own = "user root;" if os.geteuid() == 0 else ""  # workers must reach the test's directory
    command = [program, "-c", str(directory / "nginx.conf"), "-e", "stderr", "-g", f"daemon off;{own}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=dying_with_parent())
    try:
        _wait_until_listening(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()  # at once, with its streams
        process.wait(10)


def _wait_until_listening(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            httpx.get(f"{url}/metrics", timeout=2)
            return
        except httpx.TransportError:
            assert process.poll() is None, "nginx did not start"
            assert time.monotonic() < deadline, "nginx does not answer"
            time.sleep(0.02)

"""Start-up: from `trunkline up` to the first request served, with a warm venv."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx

from benchmarks import servers
from benchmarks.report import Claim
from benchmarks.steal import calm
from tests.support.product import Command

ROUNDS = 5
LIMIT_S = 1.5


def measure(rounds: int = ROUNDS) -> list[Claim]:
    _first_served()
    took = calm(rounds, _first_served)
    median = statistics.median(took)
    return [Claim("first request after `trunkline up`", "seconds", median, "limit", LIMIT_S, LIMIT_S / median, 1.0)]


def _first_served() -> float:
    with tempfile.TemporaryDirectory() as directory:
        port = servers.free_port()
        begun = time.perf_counter()
        up = Command("up", "--json", "--port", str(port), "--data-dir", str(Path(directory) / "data"))
        try:
            while True:
                with suppress(httpx.TransportError):
                    answer = httpx.post(
                        f"http://127.0.0.1:{port}/v1/events", content=json.dumps({"events": [{"type": "custom.first"}]})
                    )
                    if answer.status_code == 201:
                        return time.perf_counter() - begun
                if up.process.poll() is not None:
                    raise RuntimeError(up.stderr)
                time.sleep(0.01)
        finally:
            up.stop()

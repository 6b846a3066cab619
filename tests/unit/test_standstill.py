"""Which tests are repeated: a whole session of its own, of one that the machine fails and one that fails itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import os, signal, subprocess, time

attempts = {"stopped": 0, "wrong": 0}

def test_that_is_stopped():
    attempts["stopped"] += 1
    if attempts["stopped"] == 1:
        with subprocess.Popen(f"sleep 1; kill -CONT {os.getpid()}", shell=True):
            os.kill(os.getpid(), signal.SIGSTOP)
    assert attempts["stopped"] == 2

def test_that_takes_its_time():
    time.sleep(0.2)

def test_that_is_wrong():
    attempts["wrong"] += 1
    assert False, attempts["wrong"]
"""


def test_only_what_failed_while_the_machine_stood_still_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(TESTS)
    options = "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir", str(tmp_path)
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "1 failed, 2 passed, 1 rerun" in told.stdout, told.stdout + told.stderr
    assert "AssertionError: 1" in told.stdout, told.stdout

"""The end of an append-only file that a power cut tore off in the middle of a script.

Redis 6.2 and 7.0 (not Valkey 9) cut such a file behind the last whole command, which may be inside the script's MULTI.
What they write after that is part of a transaction that never ends, and is lost at the next start. Their own checker,
which is the server under another name, cuts in front of the transaction.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import structlog

LIMIT_S = 300.0
"""It reads the whole file, as the server will."""

logger = structlog.get_logger(__name__)


def mend(server: str, home: Path) -> None:
    """For a file that nobody writes to. Raises OSError if the checker cannot be run; whatever else is wrong with the
    file, the server will say when it starts."""
    path = _written_last(home)
    if path is None:
        return
    checked = subprocess.run(
        ["redis-check-aof", "--fix", str(path)],
        executable=server, input=b"y\n", capture_output=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if b"truncated" in checked.stdout:
        logger.warning("the append-only file ended in the middle of a write", said=checked.stdout[-300:].decode())


def _written_last(home: Path) -> Path | None:
    """The part that only grows. (Asked about all that there are from 7.0 on, Valkey 9 chokes at the snapshot.)"""
    parts = [*home.glob("appendonlydir/appendonly.aof.*.incr.aof"), *home.glob("appendonly.aof")]
    return max(parts, key=lambda path: (path.parent != home, len(path.name), path.name), default=None)

"""A wall clock that a test may set, for child processes: libfaketime, which leaves the monotonic clock as it is."""

from __future__ import annotations

from pathlib import Path

MISSING = "there is no libfaketime (Debian: `apt-get install faketime`)"


def library() -> Path | None:
    """None where it is not installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class FalseClock:
    """Right until it is stepped; then for all processes with its `environment` at once, as on one machine."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "false-clock"
        self._ahead_s = 0
        self.step(0)

    def step(self, seconds: int) -> None:
        """Sets it on, or back if negative."""
        self._ahead_s += seconds
        written = self._file.with_suffix(".new")
        written.write_text(f"{self._ahead_s:+d}\n")
        written.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """libc is second: jemalloc, which Debian's Redis is linked with, asks for the time before it can be told."""
        return {
            "LD_PRELOAD": f"{library()} libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

"""`trunkline tail`: an organization's events as they happen."""

from __future__ import annotations

from typing import NamedTuple

from trunkline.errors import StartError


class TailOptions(NamedTuple):
    """`after` is a position, `0` or `now`."""

    organization: str
    redis_url: str | None = None
    after: str = "now"
    as_json: bool = False


def run_tail(options: TailOptions) -> int:
    """Prints until SIGINT; the exit code. Raises StartError."""
    raise StartError(f"`trunkline tail` is not composed yet (asked for {options})")

"""How long clients are waited for: the defaults are what they are promised, tests wait less."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web


class Pace(NamedTuple):
    """`heartbeat_s` of silence, then a sign of life; `stall_s` without progress, then a client is cut; `reach_s` until
    a position that this process has not read yet is looked at again; `beat_s` between looks at who was silent;
    `lifetime_s` that a stream without an end stays open at most (0: for ever); `come_back_ms` that an EventSource for
    which there is no room is told to stay away; `body_s` that a request's body may take before its size counts."""

    heartbeat_s: float = 15.0
    stall_s: float = 60.0
    reach_s: float = 5.0
    beat_s: float = 1.0
    lifetime_s: float = 3_600.0
    come_back_ms: tuple[int, int] = (15_000, 30_000)
    body_s: float = 30.0


PACE = web.AppKey("pace", Pace)

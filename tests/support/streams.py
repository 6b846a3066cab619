"""SSE clients of several kinds, and what they must all end up with."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, connect_sse

from eventstore.schema import Position

CLIENTS = Path(__file__).parents[1] / "e2e" / "clients"
READ_S = 30.0

Event = dict[str, Any]
Until = Callable[[Event], bool]


async def printed(command: Path, documented: str, url: str) -> bytes:
    """What a document's command prints, sent here instead of to the documented address."""
    text = command.read_text().strip().replace(documented, url)
    program = await asyncio.create_subprocess_exec("sh", "-c", f"{text} -s --max-time 10", stdout=-1)
    output, _ = await program.communicate()
    assert program.returncode == 0
    return output


def completed(event: Event) -> bool:
    return event.get("type") == "reply.completed"


def follow(
    url: str, *, headers: dict[str, str] | None = None, until: Until = completed, limit: int | None = None
) -> list[ServerSentEvent]:
    """httpx-sse: events up to the one that `until` names, or at most `limit`: then the connection is dropped."""
    seen: list[ServerSentEvent] = []
    for event in events(url, headers):
        seen.append(event)
        if until(json.loads(event.data)) or len(seen) == limit:
            break
    return seen


def events(url: str, headers: dict[str, str] | None = None) -> Iterator[ServerSentEvent]:
    with (
        httpx.Client(timeout=READ_S) as client,
        connect_sse(client, "GET", url, headers=headers or {}) as source,
    ):
        source.response.raise_for_status()
        yield from source.iter_sse()


def curl(url: str, *, last_event_id: str | None = None, until: str, after_lines: int | None = None) -> list[Event]:
    """`curl -N`: the data objects up to a line that holds `until`, or cut after so many of them."""
    program = shutil.which("curl")
    assert program is not None
    command = [program, "-sN", "--max-time", str(READ_S), url]
    if last_event_id is not None:
        command += ["-H", f"Last-Event-ID: {last_event_id}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen: list[Event] = []
        for line in process.stdout:
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
                if until in line or len(seen) == after_lines:
                    break
        process.kill()
    return seen


def text_shown(shown: list[Event]) -> str:
    """What a client that shows an answer ends up with: deltas, dropped where the answer was restarted."""
    text = ""
    for event in shown:
        match event["type"]:
            case "reply.delta":
                text += event["data"]["text"]
            case "reply.restarted":
                text = event["data"].get("text", "")
    return text


def without_positions(shown: list[Event]) -> list[Event]:
    return [event for event in shown if event["type"] not in ("position", "heartbeat")]


def ids(shown: list[Event]) -> list[str]:
    return [event["id"] for event in without_positions(shown)]


def in_order(positions: list[str]) -> bool:
    """Strictly rising as numbers: nothing misordered, nothing twice."""
    parsed = [Position.parse(position) for position in positions]
    return all(earlier < later for earlier, later in pairwise(parsed))

"""`trunkline tail`: an organization's events as they happen."""

from __future__ import annotations

import json
import sys
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from edges.dialects.native import event_json
from eventstore.codec import shown
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.schema import ORIGIN, OrgId, Position, Recorded
from eventstore.servers import pipe_to
from trunkline.errors import StartError
from trunkline.process import run_until_signalled
from trunkline.settings import load_settings
from trunkline.store import connected, store_url

BLOCKING_LIMIT_S = 5.0


class TailOptions(NamedTuple):
    """`after` is a position, `0` or `now`."""

    organization: str
    redis_url: str | None = None
    after: str = "now"
    as_json: bool = False


def run_tail(options: TailOptions) -> int:
    """Prints until SIGINT; the exit code. Raises StartError."""
    settings = load_settings(redis_url=options.redis_url)
    return run_until_signalled(_tail(store_url(settings), options))


async def _tail(url: str, options: TailOptions) -> None:
    org = OrgId(options.organization)
    async with connected(url) as pipe:
        if await Organizations(pipe).get(org) is None:
            raise StartError(f"there is no organization {options.organization!r}")
        log = Log(pipe)
        after = await _position(log, org, options.after)
        blocking = pipe_to(url, timeout_s=BLOCKING_LIMIT_S)
        console = Console(highlight=False)
        try:
            async for events in log.tail(org, after, blocking):
                for event in events:
                    _print_json(event) if options.as_json else console.print(_line(event), soft_wrap=True)
        finally:
            await blocking.close()


async def _position(log: Log, org: OrgId, text: str) -> Position:
    if text == "now":
        return (await log.bounds(org)).clock
    try:
        return ORIGIN if text == "0" else Position.parse(text)
    except ValueError as error:
        raise StartError(f"--after: {error}") from error


def _print_json(event: Recorded) -> None:
    sys.stdout.write(event_json(event).decode() + "\n")
    sys.stdout.flush()


def _line(event: Recorded) -> Text:
    data = json.loads(shown(event))
    number = str(event.number) if event.number is not None else "-"
    about = (event.conversation or "")[:14]
    return Text.assemble(
        (f"{event.position!s:<18} ", "dim"),
        f"{number:>6} ",
        (f"{event.type:<20} ", "bold"),
        (f"{about:<15} {event.actor:<18} ", "cyan"),
        json.dumps(data, ensure_ascii=False)[:200],
    )

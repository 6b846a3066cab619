"""`trunkline tail`: an organization's events as they happen."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.text import Text

from edges.dialects.native import event_json
from eventstore.codec import shown
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.schema import ORIGIN, OrgId, Position, Recorded
from eventstore.servers import pipe_to
from trunkline import logging
from trunkline.errors import StartError
from trunkline.process import run_until_signalled
from trunkline.settings import load_settings
from trunkline.store import connected, store_url

BLOCKING_LIMIT_S = 5.0


def run_tail(organization: str, redis_url: str | None, after: str, *, as_json: bool) -> int:
    """Prints what comes after a position, `0` or `now`, until SIGINT; the exit code. Raises StartError."""
    logging.configure()
    url = store_url(load_settings(redis_url=redis_url))
    return run_until_signalled(_tail(url, OrgId(organization), after, as_json=as_json))


async def _tail(url: str, org: OrgId, text: str, *, as_json: bool) -> None:
    async with connected(url) as pipe:
        if await Organizations(pipe).get(org) is None:
            raise StartError(f"there is no organization {org!r}")
        log = Log(pipe)
        after = await _position(log, org, text)
        blocking = pipe_to(url, timeout_s=BLOCKING_LIMIT_S)
        console = Console(highlight=False)
        try:
            async for events in log.tail(org, after, blocking):
                for event in events:
                    _print_json(event) if as_json else console.print(_line(event), soft_wrap=True)
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

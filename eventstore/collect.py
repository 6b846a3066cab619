"""Reading by index: what one conversation or run holds, page by page, for what it costs itself."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from eventstore import codec, keys
from eventstore.connection import Pipe, load_script
from eventstore.schema import OrgId, Position, Recorded

COLLECT = load_script("collect.lua")

LOOK_AHEAD = 5_000
"""How many facts behind a page are asked for their run: more of them than come in while one answer is given."""

PAGE_BYTES = 128 * 1024
"""Of stored fields, by which a page after a position is full: whoever reads it may be slow to pass it on."""

ENTRY = 2
"""What an entry of a stream consists of: its id, and its fields in one piece."""


class Scope(NamedTuple):
    """One conversation (`c`) or one run (`r`) of an organization, with its deltas or without."""

    org: OrgId
    kind: Literal["c", "r"]
    name: str
    deltas: bool = False


class Page(NamedTuple):
    """Events in order. `cut` says that there may be more, and where to go on; what was trimmed is not among them."""

    events: list[Recorded]
    cut: Position | None


async def after(pipe: Pipe, scope: Scope, position: Position, count: int) -> Page:
    return (await _page(pipe, scope, "a", position, count))[0]


async def after_with_look(pipe: Pipe, scope: Scope, position: Position, count: int) -> tuple[Page, list[Any]]:
    """And, as of the same moment, the replies to the commands by which `Log` looks at a position; for a fact's only the
    first of them, the log's clock."""
    return await _page(pipe, scope, "a", position, count, look=1)


async def before(pipe: Pipe, scope: Scope, position: Position, count: int) -> Page:
    """The last facts before a position, oldest first."""
    return (await _page(pipe, scope, "b", position, count))[0]


async def rest(pipe: Pipe, scope: Scope, position: Position, count: int) -> list[Recorded]:
    """Everything after a position, in pages of `count`."""
    events, cut = await after(pipe, scope, position, count)
    while cut is not None:
        page, cut = await after(pipe, scope, cut, count)
        events += page
    return events


async def _page(
    pipe: Pipe, scope: Scope, way: str, position: Position, count: int, look: int = 0
) -> tuple[Page, list[Any]]:
    org, kind, name, deltas = scope
    arguments = (kind, name, int(deltas), count, LOOK_AHEAD, way, position.ms, position.seq, PAGE_BYTES, look)
    cut, entries, *seen = await pipe.run(COLLECT, [keys.of(org).log], arguments)
    events = [event for entry in entries for event in _recorded(org, entry)]
    if kind == "c":  # a run may cross conversations
        events = [event for event in events if event.conversation == name]
    return Page(events, Position.of(cut) if cut else None), seen[0] if seen else []


def _recorded(org: OrgId, entry: list[Any]) -> list[Recorded]:
    if len(entry) == ENTRY:
        return [codec.joined(org, *entry)]
    return codec.deltas(org, *entry)

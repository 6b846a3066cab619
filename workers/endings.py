"""How the run of an item ends that no handler can read: by its type alone, so that whoever waits for it is told."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventstore.events.replies import ReplyFailed
from eventstore.events.tools import ToolFailed
from eventstore.schema import Event, Recorded

ACTOR = "system:worker"
CODE = "DROPPED"
DETAIL = "this could not be done and was given up"


def end_of(item: Recorded) -> Sequence[Event]:
    """Nothing if the item did not begin its run: that ends by what did."""
    if item.position != item.run:
        return ()
    if item.type.startswith("tool."):
        tool = msgspec.json.decode(item.data).get("tool", "")
        return [Event(ToolFailed(tool=str(tool), code=CODE, status=500, error=DETAIL), ACTOR)]
    return [Event(ReplyFailed(code=CODE, detail=DETAIL), ACTOR)]

"""Who speaks in a conversation: the assistant, or a human agent who took over."""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body, Personal


class ControlTaken(Body, frozen=True, kw_only=True, tag="control.taken"):
    agent: str
    agent_name: Personal[str] = ""


class ControlReleased(Body, frozen=True, kw_only=True, tag="control.released"):
    agent: str
    reason: Literal["left", "idle"] = "left"
    agent_name: Personal[str] = ""


TYPES = (ControlTaken, ControlReleased)

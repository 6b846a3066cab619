"""Work that could not be done: parked with its lane, redriven or dropped by a person, or given up."""

from __future__ import annotations

from eventstore.schema import Body


class WorkParked(Body, frozen=True, kw_only=True, tag="work.parked"):
    lane: str
    item: str
    attempts: int
    error: str


class WorkRedriven(Body, frozen=True, kw_only=True, tag="work.redriven"):
    """A person has set the lane going again at the item; the actor says who."""

    lane: str
    item: str | None = None


class WorkDropped(Body, frozen=True, kw_only=True, tag="work.dropped"):
    """A person has given the item up. Its run ends next, and then the lane goes on."""

    lane: str
    item: str


class WorkFailed(Body, frozen=True, kw_only=True, tag="work.failed"):
    lane: str
    item: str
    attempts: int
    error: str


TYPES = (WorkParked, WorkRedriven, WorkDropped, WorkFailed)

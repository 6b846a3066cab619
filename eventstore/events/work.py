"""Work that could not be done: parked with its lane, redriven by a person, or given up."""

from __future__ import annotations

from eventstore.schema import Body


class WorkParked(Body, frozen=True, kw_only=True, tag="work.parked"):
    lane: str
    item: str
    attempts: int
    error: str


class WorkRedriven(Body, frozen=True, kw_only=True, tag="work.redriven"):
    lane: str


class WorkFailed(Body, frozen=True, kw_only=True, tag="work.failed"):
    lane: str
    item: str
    attempts: int
    error: str


TYPES = (WorkParked, WorkRedriven, WorkFailed)

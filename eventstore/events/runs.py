"""Runs as such: what clients ask of work that is under way."""

from __future__ import annotations

from eventstore.schema import Body


class RunCancelRequested(Body, frozen=True, kw_only=True, tag="run.cancel_requested"):
    """A client wants the run to end; whether it did so for that is told by the run's own last event."""


TYPES = (RunCancelRequested,)

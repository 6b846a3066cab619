"""A tool call as a run: which tool, with checked arguments, and what makes two calls the same."""

from __future__ import annotations

from typing import Any

import msgspec

from edges.errors import ApiError
from edges.runs import RunRequest
from eventstore.events.tools import ToolRequested
from projections.tool_catalog import ToolSpec, find, validate

WRITE_DEDUPE_MS = 10_000
"""A write called by GET again within this time, by the same caller with the same arguments, is the same call."""


def requested(
    spec: ToolSpec,
    arguments: dict[str, Any],
    *,
    source: str,
    dedupe: bool = False,
    key: str | None = None,
) -> RunRequest:
    faults = validate(spec, arguments)
    if faults:
        raise ApiError(422, "INVALID_ARGUMENTS", "; ".join(faults))
    body = ToolRequested(tool=spec.name, source=source, arguments=arguments)
    dedupe_ms = WRITE_DEDUPE_MS if dedupe and spec.effect == "write" else None
    canonical = msgspec.json.encode(arguments, order="sorted")
    return RunRequest(body, spec.name, canonical, body.deadline_s, dedupe_ms=dedupe_ms, key=key)


def spec_of(name: str) -> ToolSpec:
    spec = find(name)
    if spec is None:
        raise ApiError(404, "TOOL_NOT_FOUND", f"there is no tool named {name[:80]!r}")
    return spec

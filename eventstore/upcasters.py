"""Old stored shapes, brought to today's on read. The stored bytes never change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(type, schema version) -> the function that leads its data to the next version."""

SCHEMA_VERSIONS: dict[str, int] = {}
"""Types whose current version is not 1."""


def upcast(event_type: str, version: int, data: dict[str, Any]) -> dict[str, Any]:
    while (step := UPCASTERS.get((event_type, version))) is not None:
        data = step(data)
        version += 1
    return data

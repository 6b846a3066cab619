"""Reading JSON of producers whose shapes drift: what is missing, null or of another type is simply not there."""

from __future__ import annotations

from typing import Any


def part(value: Any, *names: str) -> dict[str, Any]:
    """The object at a path, an empty one if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def parts(value: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects of an array."""
    entries = value.get(name)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def text(value: dict[str, Any], *names: str) -> str | None:
    """The first of these that is a text with something in it."""
    for name in names:
        if isinstance(found := value.get(name), str) and found.strip():
            return found
    return None


def number(value: dict[str, Any], *names: str) -> float | None:
    """The first of these that is a number."""
    for name in names:
        if isinstance(found := value.get(name), int | float) and not isinstance(found, bool):
            return found
    return None


def seconds(value: dict[str, Any], *names: str) -> int | None:
    """A duration that is one."""
    found = number(value, *names)
    return round(found) if found is not None and 0 <= found < 10**9 else None

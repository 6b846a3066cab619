"""What a ticket is good for: one route and one filter, the same whenever it is opened."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec
from yarl import URL

PARAMETER = "ticket"
NO_FILTER = frozenset({PARAMETER, "last_event_id", "after", "organizationId"})
"""Where the client was and who it is are not part of what it sees."""


def binding(path: str, query: Iterable[tuple[str, str]]) -> str:
    """Digest of a route and its filter, in whatever order that is written."""
    filter = sorted((name, value) for name, value in query if name not in NO_FILTER)
    return sha256(msgspec.json.encode([path, filter])).hexdigest()


def binding_of(url: URL) -> str:
    return binding(url.path, url.query.items())

"""What a ticket is good for: one route and one filter, the same whenever it is opened."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from yarl import URL

PARAMETER = "ticket"
NO_FILTER = frozenset({PARAMETER, "last_event_id", "after", "organizationId"})
"""Where the client was and who it is are not part of what it sees."""


def binding_of(url: URL) -> str:
    """Digest of a route and its filter, in whatever order that is written; a `+` may have come as a space (CONTRACT
    0.12)."""
    filter = sorted((name, value.replace("+", " ")) for name, value in url.query.items() if name not in NO_FILTER)
    return sha256(msgspec.json.encode([url.path, filter])).hexdigest()

"""Where events of other systems come in, one source a file."""

from __future__ import annotations

from edges.webhooks import twilio

WEBHOOK_SOURCES = (twilio,)
"""Each has `ROUTES`."""

"""Where events of other systems come in, one source a file."""

from __future__ import annotations

from edges.webhooks import elevenlabs, standard, twilio, vapi

WEBHOOK_SOURCES = (twilio, elevenlabs, vapi, standard)
"""Each has `ROUTES`."""

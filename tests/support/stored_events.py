"""Samples of stored events: one line per shape that was ever written, in `tests/fixtures/stored_events.ndjson`.

A line is never edited: logs hold its bytes for years. A new type or a new field gets a new line:

    python -c 'from tests.support.stored_events import line; from eventstore.events.tools import ToolStarted
    print(line(ToolStarted(tool="search", call_id="call_1"), "assistant:test", "conv_1"))'
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from eventstore import codec
from eventstore.schema import Body, ConversationId, OrgId, Recorded

SAMPLES = Path(__file__).parent.parent / "fixtures" / "stored_events.ndjson"


class StoredLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """Fields named as in the stream: type, conversation, actor, data, personal, digest (in hex)."""

    t: str
    c: str
    a: str
    d: msgspec.Raw
    p: msgspec.Raw
    h: str


def stored_lines() -> list[StoredLine]:
    decode = msgspec.json.Decoder(StoredLine).decode
    return [decode(raw) for raw in SAMPLES.read_bytes().splitlines()]


def as_recorded(line: StoredLine) -> Recorded:
    """The line as it would be read from the log."""
    fields = {"t": line.t, "c": line.c, "a": line.a, "n": "1", "v": "1", "r": "", "k": ""}
    flat = [part.encode() for pair in fields.items() for part in pair]
    flat += [b"d", bytes(line.d), b"p", bytes(line.p), b"h", bytes.fromhex(line.h)]
    return codec.recorded(OrgId("acme"), b"1760000000000-0", flat)


def line(body: Body, actor: str, conversation: str = "") -> str:
    """The line of an event as it is stored today."""
    type_, data, personal, digest = codec.encode(body, actor, ConversationId(conversation) or None)
    stored = StoredLine(type_.decode(), conversation, actor, msgspec.Raw(data), msgspec.Raw(personal), digest.hex())
    return msgspec.json.encode(stored).decode()

"""Between events and what the log stores: two JSON objects, one public and one personal, and a digest.

The digest `h` covers what the appender knows (type, conversation, actor, data, personal); what the script assigns
(number, position, version, run, cause) is bound to it in the leaf of the seal tree, so neither can be forged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from eventstore import events
from eventstore.schema import Body, ConversationId, OrgId, Position, Recorded, UnknownEvent
from eventstore.upcasters import SCHEMA_VERSIONS, UPCASTERS, upcast

CUSTOM_TYPE = re.compile(r"custom(\.[A-Za-z0-9_-]+)+")

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Fields(NamedTuple):
    """An event's encoded parts, ready for the append script."""

    type: bytes
    data: bytes
    personal: bytes
    digest: bytes


@lru_cache(maxsize=1)
def _bodies() -> dict[str, type[Body]]:
    return {str(body.__struct_config__.tag): body for body in events.TYPES}


@lru_cache(maxsize=256)
def _parts(body: type[Body]) -> tuple[tuple[tuple[str, Any], ...], tuple[tuple[str, Any], ...]]:
    """(name, default) of the public and of the personal fields."""
    public: list[tuple[str, Any]] = []
    personal: list[tuple[str, Any]] = []
    for field, extra in _fields(body):
        (personal if extra.get("personal") else public).append((field.name, field.default))
    return tuple(public), tuple(personal)


def _fields(body: type[Body]) -> list[tuple[msgspec.inspect.Field, dict[str, Any]]]:
    """Every field with what marks it."""
    info = msgspec.inspect.type_info(body)
    assert isinstance(info, msgspec.inspect.StructType)
    marks = (field.type.extra if isinstance(field.type, msgspec.inspect.Metadata) else None for field in info.fields)
    return [(field, mark or {}) for field, mark in zip(info.fields, marks, strict=True)]


@lru_cache(maxsize=4_096)
def is_custom_type(name: str) -> bool:
    """Whether the organization's own events may be called this."""
    return CUSTOM_TYPE.fullmatch(name) is not None


def personal_fields(body: type[Body]) -> frozenset[str]:
    return frozenset(name for name, _ in _parts(body)[1])


def encode(body: Body, actor: str, conversation: ConversationId | None) -> Fields:
    kind, personal = type(body), b"{}"
    if isinstance(body, events.Custom):
        stored_type, data = _custom_type(body.name), _encode(body.data)
    else:
        stored_type = _stored_type(kind)
        public_fields, private_fields = _parts(kind)
        data = _encode(
            {n: value for n, default in public_fields if (value := getattr(body, n)) is not None or value != default}
        )
        if private_fields:
            personal = _encode({n: value for n, _ in private_fields if (value := getattr(body, n)) is not None})
    return Fields(stored_type, data, personal, digest(stored_type, conversation, actor, data, personal))


@lru_cache(maxsize=4_096)
def _custom_type(name: str) -> bytes:
    if CUSTOM_TYPE.fullmatch(name) is None:
        raise ValueError(f"not a name for a custom event: {name[:80]!r}")
    return name.encode()


def _stored_type(body: type[Body]) -> bytes:
    """Its name, and the version of its fields where that is not the first."""
    name = str(body.__struct_config__.tag)
    schema = SCHEMA_VERSIONS.get(name, 1)
    return name.encode() if schema == 1 else b"%b;%d" % (name.encode(), schema)


def digest(stored_type: bytes, conversation: str | None, actor: str, data: bytes, personal: bytes) -> bytes:
    """SHA-256 over the stored form, one part a line: encoded JSON, names and ids hold no line break."""
    return sha256(
        b"%b\n%b\n%b\n%b\n%b" % (stored_type, (conversation or "").encode(), actor.encode(), data, personal)
    ).digest()


def joined(org: OrgId, entry_id: bytes, fields: bytes) -> Recorded:
    """One fact as a script passes it on: names and values joined by NUL, which only the digest, the last, may hold."""
    return recorded(org, entry_id, fields.split(b"\0", 2 * len(_FACT) - 1))


def recorded(org: OrgId, entry_id: bytes, fields: list[bytes] | tuple[bytes, ...]) -> Recorded:
    """One stream entry as Redis returns it (a flat list of names and values). Missing fields are tolerated."""
    names, values = fields[::2], fields[1::2]
    if names == _DELTA:
        stored, conversation, run, cause, actor, data, personal = values
        number = version = digest = b""
    elif names == _FACT:
        stored, conversation, number, version, run, cause, actor, data, personal, digest = values
    else:
        get = dict(zip(names, values, strict=False)).get
        stored, conversation, number, version, run, cause, actor, data, personal, digest = (
            get(name, b"{}" if name in (b"d", b"p") else b"") for name in _FACT
        )
    position = Position.of(entry_id)
    stored_type, schema = _type(stored)
    return Recorded(
        position, org, stored_type, _name(actor), _position(run) if run else position,
        _position(cause) if cause else None, ConversationId(_name(conversation)) if conversation else None,
        int(number) if number else None, int(version) if version else None, data, personal, digest, schema,
    )  # fmt: skip


# The fields as the script writes them: to look each up by its name costs more than everything else here.
_DELTA = [b"t", b"c", b"r", b"k", b"a", b"d", b"p"]
_FACT = [b"t", b"c", b"n", b"v", b"r", b"k", b"a", b"d", b"p", b"h"]


# Events of one page share most of what these read.
_position = lru_cache(maxsize=4_096)(Position.of)


@lru_cache(maxsize=4_096)
def _name(stored: bytes) -> str:
    return stored.decode()


def deltas(org: OrgId, run: bytes, first: bytes, packed: Sequence[bytes]) -> list[Recorded]:
    """Deltas of one run as its index has them: position, data, personal data, and whence they come, unless that is
    what the run's `first` says too."""
    usual, events = _source(*first.split(b"\0")[3:]), []
    of_run = _position(run) if run else None
    split = [each.split(b"\0") for each in packed]
    for position, parts in zip(Position.all_of(parts[0] for parts in split), split, strict=True):
        stored_type, schema, conversation, cause, actor = usual if len(parts) == 3 else _source(*parts[3:])
        events.append(
            Recorded(
                position, org, stored_type, actor, of_run or position, cause, conversation,
                None, None, parts[1], parts[2], b"", schema,
            )
        )  # fmt: skip
    return events


@lru_cache(maxsize=1_024)
def _source(
    stored: bytes = b"", conversation: bytes = b"", cause: bytes = b"", actor: bytes = b""
) -> tuple[str, int, ConversationId | None, Position | None, str]:
    known = ConversationId(conversation.decode()) if conversation else None
    return *_type(stored), known, Position.of(cause) if cause else None, actor.decode()


@lru_cache(maxsize=1_024)
def _type(stored: bytes) -> tuple[str, int]:
    name, _, schema = stored.decode().partition(";")
    return name, int(schema) if schema else 1


def merge(data: bytes, personal: bytes) -> bytes:
    """One JSON object out of two, without decoding either."""
    if personal == b"{}":
        return data
    if data == b"{}":
        return personal
    return data[:-1] + b"," + personal[1:]


def shown(event: Recorded) -> bytes:
    """The event's data as clients see it: one JSON object, without its hidden fields."""
    hidden = _hidden(event.type)
    if not hidden:
        return merge(event.data, event.personal)
    fields = _decode_raw(event.personal)
    return merge(event.data, _encode({name: raw for name, raw in fields.items() if name not in hidden}))


@lru_cache(maxsize=4_096)
def _hidden(event_type: str) -> frozenset[str]:
    """Its hidden fields. To look at all types at once would hold up a process' first event by 40 ms."""
    body = _bodies().get(event_type)
    return frozenset(field.name for field, mark in _fields(body) if "hidden" in mark) if body else frozenset()


def decode(event: Recorded) -> Body | UnknownEvent:
    """The typed event; UnknownEvent when the type is unknown or its data no longer fits."""
    merged = merge(event.data, event.personal)
    body = _bodies().get(event.type)
    try:
        if body is None:
            if event.type.startswith("custom."):
                return events.Custom(name=event.type, data=_decode_object(merged))
        elif UPCASTERS and (event.type, event.schema) in UPCASTERS:
            return msgspec.convert(_tagged(upcast(event.type, event.schema, _decode_object(merged)), event.type), body)
        else:
            return _decoder(body).decode(merged)
    except msgspec.DecodeError:  # damaged or of another shape: one entry must not stop every reader of the log
        pass
    return UnknownEvent(event.type, _decode_leniently(merged))


@lru_cache(maxsize=256)
def _decoder(body: type[Body]) -> msgspec.json.Decoder[Body]:
    return msgspec.json.Decoder(body)


def _tagged(data: dict[str, Any], tag: str) -> dict[str, Any]:
    return {**data, "type": tag}


def _decode_leniently(merged: bytes) -> dict[str, Any]:
    try:
        return _decode_object(merged)
    except msgspec.DecodeError:
        return {}

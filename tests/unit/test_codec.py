"""What is stored can be read for ever: samples of every shape, byte for byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import codec, events
from eventstore.events.custom import Custom
from eventstore.events.messages import MessageReceived
from eventstore.events.replies import ReplyFailed, ReplyStepped, ToolCall
from eventstore.events.tools import ToolCompleted, ToolRequested
from eventstore.schema import ORIGIN, Body, ConversationId, OrgId, Position, Recorded, UnknownEvent
from eventstore.upcasters import SCHEMA_VERSIONS, UPCASTERS
from tests.support.stored_events import StoredLine, as_recorded, line, stored_lines

LINES = stored_lines()
HOW = "add a line to tests/fixtures/stored_events.ndjson (tests/support/stored_events.py says how)"


def names(lines: list[StoredLine]) -> list[str]:
    return [f"{number}-{line.t}" for number, line in enumerate(lines, start=1)]


def tag(body: type[Body]) -> str:
    return str(body.__struct_config__.tag)


def newest() -> list[StoredLine]:
    """The last sample of each type: the shape that is written today."""
    return list({line.t.partition(";")[0]: line for line in LINES}.values())


# Samples


def test_every_event_type_has_a_sample() -> None:
    sampled = {line.t.partition(";")[0] for line in LINES}
    missing = [tag(body) for body in events.TYPES if tag(body) not in sampled]
    assert not missing, f"{missing}: {HOW}"
    assert any(name.startswith("custom.") for name in sampled)


def test_every_field_of_every_type_is_in_a_sample() -> None:
    sampled: dict[str, set[str]] = defaultdict(set)
    for sample in LINES:
        for part in (sample.d, sample.p):
            sampled[sample.t.partition(";")[0]].update(msgspec.json.decode(part))
    missing = [
        f"{tag(body)}.{field}"
        for body in events.TYPES
        for field in body.__struct_fields__
        if field not in sampled[tag(body)]
    ]
    assert not missing, f"{missing}: {HOW}"


@pytest.mark.parametrize("stored", LINES, ids=names(LINES))
def test_a_stored_event_still_decodes_to_its_type(stored: StoredLine) -> None:
    body = codec.decode(as_recorded(stored))
    assert not isinstance(body, UnknownEvent)
    assert body.type == stored.t.partition(";")[0]


@pytest.mark.parametrize("stored", LINES, ids=names(LINES))
def test_the_digest_of_a_stored_event_is_that_of_its_bytes(stored: StoredLine) -> None:
    digest = codec.digest(stored.t.encode(), stored.c, stored.a, bytes(stored.d), bytes(stored.p))
    assert digest.hex() == stored.h


@pytest.mark.parametrize("stored", newest(), ids=names(newest()))
def test_an_event_is_encoded_to_the_bytes_of_its_newest_sample(stored: StoredLine) -> None:
    body = codec.decode(as_recorded(stored))
    assert isinstance(body, Body)
    fields = codec.encode(body, stored.a, ConversationId(stored.c) or None)
    assert fields == (stored.t.encode(), bytes(stored.d), bytes(stored.p), bytes.fromhex(stored.h))
    assert msgspec.json.decode(line(body, stored.a, stored.c)) == msgspec.json.decode(msgspec.json.encode(stored))


# Personal data


@pytest.mark.parametrize("stored", LINES, ids=names(LINES))
def test_personal_fields_are_never_in_the_public_part(stored: StoredLine) -> None:
    body = next((body for body in events.TYPES if tag(body) == stored.t), Custom)
    personal = codec.personal_fields(body) if body is not Custom else frozenset[str]()
    assert not personal & set(msgspec.json.decode(stored.d))
    assert set(msgspec.json.decode(stored.p)) <= personal


def test_no_personal_value_reaches_the_public_part() -> None:
    """The same for values: each sample with a marker in every string of its personal part."""
    for stored in newest():
        marked = msgspec.json.encode(_marked(msgspec.json.decode(stored.p)))
        body = codec.decode(as_recorded(msgspec.structs.replace(stored, p=msgspec.Raw(marked))))
        assert isinstance(body, Body), stored.t
        fields = codec.encode(body, "customer", None)
        assert b"MARKER" not in fields.data + fields.type, stored.t
        assert fields.personal.count(b"MARKER") == marked.count(b"MARKER"), stored.t


def _marked(value: Any) -> Any:
    match value:
        case str():
            return "MARKER"
        case dict():
            return {key: _marked(entry) for key, entry in value.items()}
        case list():
            return [_marked(entry) for entry in value]
    return value


def test_what_is_not_known_is_not_stored() -> None:
    fields = codec.encode(MessageReceived(message_id="m-1"), "customer", None)
    assert fields.data == b'{"message_id":"m-1","channel":"chat","media_count":0}'
    assert fields.personal == b'{"text":""}'


# Decoding


def recorded(type_: str, data: bytes = b"{}", personal: bytes = b"{}") -> Recorded:
    fields = [b"t", type_.encode(), b"d", data, b"p", personal]
    return codec.recorded(OrgId("acme"), b"5-1", fields)


def test_an_unknown_type_keeps_its_data() -> None:
    event = recorded("future.happened", b'{"a":[1,null]}', b'{"b":"c"}')
    assert codec.decode(event) == UnknownEvent("future.happened", {"a": [1, None], "b": "c"})


def test_unknown_fields_are_ignored_when_decoding_and_kept_as_stored() -> None:
    data = b'{"code":"x","detail":"y","from_the_future":{"z":1}}'
    event = recorded("reply.failed", data)
    assert codec.decode(event) == ReplyFailed(code="x", detail="y")
    assert event.data == data


@pytest.mark.parametrize("data", [b"{}", b'{"code":1,"detail":"y"}', b'{"code":null,"detail":"y"}'])
def test_data_that_does_not_fit_its_type_is_kept_as_unknown(data: bytes) -> None:
    assert codec.decode(recorded("reply.failed", data)) == UnknownEvent("reply.failed", msgspec.json.decode(data))


@pytest.mark.parametrize("data", [b"", b"not json", b"[1]", b'{"code":'])
@pytest.mark.parametrize("type_", ["reply.failed", "custom.x", "future.happened"])
def test_data_that_is_no_object_does_not_stop_a_reader(type_: str, data: bytes) -> None:
    assert codec.decode(recorded(type_, data)) == UnknownEvent(type_, {})


def test_parts_are_merged_without_decoding() -> None:
    assert codec.merge(b'{"a":1}', b'{"b":2}') == b'{"a":1,"b":2}'
    assert codec.merge(b'{"a":1}', b"{}") == b'{"a":1}'
    assert codec.merge(b"{}", b'{"b":2}') == b'{"b":2}'
    assert codec.merge(b"{}", b"{}") == b"{}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
json_objects = st.dictionaries(st.text(), json_values, max_size=4)


def bodies() -> Iterator[st.SearchStrategy[Body]]:
    text = st.text()
    yield st.builds(MessageReceived, message_id=text, text=text, sender=st.none() | text)
    yield st.builds(ToolRequested, tool=text, arguments=json_objects)
    yield st.builds(ToolCompleted, tool=text, result=json_values)
    calls = st.lists(st.builds(ToolCall, id=text, tool=text, arguments=json_objects), max_size=3)
    yield st.builds(ReplyStepped, attempt=st.integers(1, 9), step=st.integers(1, 9), text=text, calls=calls)
    yield st.builds(Custom, name=st.from_regex(codec.CUSTOM_TYPE, fullmatch=True), data=json_objects)


@given(body=st.one_of(*bodies()))
def test_what_is_encoded_decodes_to_the_same(body: Body) -> None:
    type_, data, personal, _ = codec.encode(body, "customer", None)
    assert codec.decode(recorded(type_.decode(), data, personal)) == body


@pytest.mark.parametrize("name", ["custom", "custom.", "custom.a;2", "custom.a\nb", "custom.a b", "other.a"])
def test_a_custom_event_cannot_take_a_name_that_reads_as_another(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        codec.encode(Custom(name=name), "customer", None)


@given(body=st.one_of(*bodies()))
def test_stored_parts_are_one_line_each(body: Body) -> None:
    """Parts of a digest are separated by line breaks."""
    fields = codec.encode(body, "customer", None)
    assert b"\n" not in fields.data + fields.personal


def test_the_digest_binds_every_part() -> None:
    base = (b"t", "c", "a", b"{}", b"{}")
    others = [(b"u", *base[1:]), (b"t", "x", *base[2:]), (b"t", "c", "x", *base[3:])]
    others += [(*base[:3], b'{"x":1}', b"{}"), (*base[:4], b'{"x":1}'), (b"t", "", "a", b"{}", b"{}")]
    assert len({codec.digest(*parts) for parts in [base, *others]}) == 7


# Old shapes


def test_old_shapes_go_through_their_upcasters_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UPCASTERS, ("reply.failed", 1), lambda data: {"code": data["reason"], "text": "?"})
    monkeypatch.setitem(UPCASTERS, ("reply.failed", 2), lambda data: {"code": data["code"], "detail": data["text"]})
    monkeypatch.setitem(SCHEMA_VERSIONS, "reply.failed", 3)
    body = ReplyFailed(code="x", detail="?")
    assert codec.decode(recorded("reply.failed", b'{"reason":"x"}')) == body
    assert codec.decode(recorded("reply.failed;2", b'{"code":"x","text":"?"}')) == body
    written = codec.encode(body, "system", None)
    assert written.type == b"reply.failed;3"
    assert codec.decode(recorded("reply.failed;3", written.data)) == body


def test_no_upcaster_is_missing_below_a_types_current_version() -> None:
    for name, current in SCHEMA_VERSIONS.items():
        assert all((name, version) in UPCASTERS for version in range(1, current)), name


# Positions


def test_positions_are_ordered_as_numbers() -> None:
    texts = ["9-0", "10-0", "10-2", "10-10", "99-99", "100-0"]
    positions = [Position.parse(text) for text in texts]
    assert sorted(positions) == positions
    assert [str(position) for position in positions] == texts
    assert max(positions) == Position(100, 0)
    assert min(positions) > ORIGIN


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_position_reads_back_from_its_text(ms: int, seq: int) -> None:
    position = Position(ms, seq)
    assert Position.parse(str(position)) == Position.parse(str(position).encode()) == position


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_nothing_lies_between_a_position_and_the_one_before(ms: int, seq: int) -> None:
    position = Position(ms, seq)
    before = position.before()
    assert before < position or position == before == ORIGIN
    assert before.ms == position.ms - 1 or before.seq == position.seq - 1 or position == ORIGIN


@pytest.mark.parametrize(
    "text",
    ["", "5", "5-", "-5", "5-1-1", " 5-1", "5-1\n", "a-b", "5-*", "-1-1", "٥-1", "1" * 17 + "-0", b"5-\xff", "$"],
)
def test_what_is_no_position_is_refused_with_its_value(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.parse(text)


def test_an_event_is_shown_without_hidden_fields_after_a_look_at_its_own_type_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All types together take 40 ms, for which the first event of a process would hold up everything else."""
    looked_at, fields = list[type[Body]](), codec._fields

    def look(body: type[Body]) -> Any:
        looked_at.append(body)
        return fields(body)

    monkeypatch.setattr(codec, "_fields", look)
    codec._hidden.cache_clear()
    event = recorded("message.received", b'{"channel":"chat"}', b'{"text":"hello","callback_url":"https://own"}')
    assert codec.shown(event) == b'{"channel":"chat","text":"hello"}'
    assert codec.shown(recorded("custom.x", b'{"callback_url":1}')) == b'{"callback_url":1}'
    assert looked_at == [MessageReceived]

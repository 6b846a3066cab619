"""SSE, NDJSON and HTTP chunks, byte by byte."""

from __future__ import annotations

import json

import pytest
from httpx_sse._decoders import SSEDecoder
from hypothesis import given
from hypothesis import strategies as st

from edges.wire import NDJSON, SSE, Frame, http_chunk, ndjson, retry, sse

A, B = Frame(b'{"type":"a"}', "a"), Frame(b'{"type":"b"}', "b")


def test_an_sse_event_is_id_name_and_data_on_one_line_each() -> None:
    assert sse(Frame(b'{"n":1}', "result"), b"5-0") == b'id: 5-0\nevent: result\ndata: {"n":1}\n\n'
    assert sse(Frame(b"{}")) == b"data: {}\n\n"


def test_only_the_last_frame_of_an_event_carries_its_id() -> None:
    assert SSE.encode([A, B], b"5-0") == (b'event: a\ndata: {"type":"a"}\n\nid: 5-0\nevent: b\ndata: {"type":"b"}\n\n')
    assert NDJSON.encode([A, B], b"5-0") == b'{"type":"a"}\n{"id":"5-0","type":"b"}\n'


def test_without_a_position_no_frame_has_an_id() -> None:
    assert SSE.encode([A], None) == b'event: a\ndata: {"type":"a"}\n\n'
    assert NDJSON.encode([A], None) == b'{"type":"a"}\n'


def test_no_frames_are_no_bytes() -> None:
    assert SSE.encode([], b"5-0") == NDJSON.encode([], b"5-0") == b""


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"{}", b'{"id":"5-0"}\n'),
        (b'{"a":1}', b'{"id":"5-0","a":1}\n'),
        (b'{"id":"5-0","a":1}', b'{"id":"5-0","a":1}\n'),
    ],
)
def test_an_ndjson_line_has_its_id_once_and_first(data: bytes, line: bytes) -> None:
    assert ndjson(Frame(data), b"5-0") == line


def test_content_types_and_heartbeats_are_those_that_are_promised() -> None:
    assert (SSE.content_type, SSE.heartbeat) == ("text/event-stream; charset=utf-8", b": hb\n")
    assert (NDJSON.content_type, NDJSON.heartbeat) == ("application/x-ndjson", b'{"type":"heartbeat"}\n')


def test_retry_is_spread_over_its_range_and_is_no_event_of_its_own() -> None:
    waits = {int(retry().removeprefix(b"retry: ")) for _ in range(200)}
    assert min(waits) >= 1_000
    assert max(waits) <= 3_000
    assert len(waits) > 50
    assert retry(5, 5) == b"retry: 5\n"


def test_a_chunk_has_its_length_in_hex() -> None:
    assert http_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@given(st.text(), st.sampled_from([None, "result"]))
def test_whatever_json_says_is_one_line_for_every_reader(text: str, name: str | None) -> None:
    """Also for those that split at all that Unicode calls a line end."""
    data = json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if any("\ud800" <= char <= "\udfff" for char in text):
        return  # bodies with these are refused
    for encoded in (SSE.encode([Frame(data, name)], b"5-0"), NDJSON.encode([Frame(data, name)], b"5-0")):
        line = next(line for line in encoded.decode().splitlines() if '"text"' in line)
        assert json.loads(line.removeprefix("data: "))["text"] == text


def test_httpx_sse_reads_what_is_written() -> None:
    decoder, events = SSEDecoder(), []
    for line in (retry() + SSE.heartbeat + SSE.encode([A, B], b"5-0") + SSE.heartbeat).decode().splitlines():
        if (event := decoder.decode(line)) is not None:
            events.append((event.event, event.id, event.data))
    assert events == [("a", "", '{"type":"a"}'), ("b", "5-0", '{"type":"b"}')]

"""Durable consumers: what is not acknowledged comes again, whatever becomes of clients and connections."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType

from edges.app_keys import Quota
from edges.consumers import CONNECTIONS, Connections
from eventstore import keys
from eventstore.schema import Position
from tests.support.stack import ACME, DEMO, Edge, Stack, stacked
from tests.support.stream_client import StreamClient, query

STREAM = "/v1/events/stream"
LIMIT_S = 10.0

Data = dict[str, Any]


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False) as running:
        yield running


def stream(name: str = "crm", **parameters: str) -> str:
    return STREAM + query(consumer=name, **parameters)


async def ask(stack: Stack, method: str, path: str, body: object = None, status: int = 200) -> Any:
    async with stack.http() as http:
        answer = await http.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


async def acknowledge(stack: Stack, position: str, status: int = 200, name: str = "crm") -> Any:
    return await ask(stack, "POST", f"/v1/consumers/{name}", {"position": position}, status)


async def shown(client: StreamClient, last: str) -> list[str]:
    frames = await client.until(lambda frame: frame.id == last and frame.type != "position")
    return [str(frame.id) for frame in frames if frame.type not in ("position", "heartbeat")]


async def opened(client: StreamClient) -> str:
    """The id that the stream opens with."""
    [frame] = await client.take(1)
    assert frame.type == "position", frame
    return str(frame.id)


# Where a consumer is


async def test_a_consumer_that_crashed_is_shown_again_what_it_did_not_acknowledge(stack: Stack) -> None:
    a, b, c = await stack.say(3)
    async with stack.open(stream(after="0")) as client:
        assert await shown(client, c) == [a, b, c]
    async with stack.open(stream()) as client:
        assert await shown(client, c) == [a, b, c], "being sent is not being handled"
        assert (await acknowledge(stack, b))["position"] == b
    async with stack.open(stream()) as client:
        assert await shown(client, c) == [c]


async def test_a_new_consumer_begins_now_and_keeps_what_comes_while_it_is_away(stack: Stack) -> None:
    [before] = await stack.say()
    async with stack.open(stream()) as client:
        assert await opened(client) == before
    missed = await stack.say(3)
    async with stack.open(stream()) as client:
        assert await shown(client, missed[-1]) == missed


@pytest.mark.parametrize("how", ["header", "query"])
async def test_to_return_with_the_last_id_acknowledges_it_and_an_earlier_one_moves_nothing(
    stack: Stack, how: str
) -> None:
    a, b, c = await stack.say(3)

    def back(position: str) -> StreamClient:
        return stack.open(stream(), last=position) if how == "header" else stack.open(stream(last_event_id=position))

    async with stack.open(stream(after="0")) as client:
        await shown(client, c)
    async with back(b) as client:
        assert await shown(client, c) == [c]
    assert (await ask(stack, "GET", "/v1/consumers/crm"))["position"] == b
    async with back(a) as client:
        assert await shown(client, c) == [b, c], "the client is believed"
    assert (await ask(stack, "GET", "/v1/consumers/crm"))["position"] == b, "and keeps what it has acknowledged"


@pytest.mark.parametrize("after", ["0", "first", "now"])
async def test_after_shows_from_there_and_acknowledges_nothing(stack: Stack, after: str) -> None:
    a, b, c = await stack.say(3)
    async with stack.open(stream(after=b)) as client:
        await shown(client, c)
    async with stack.open(stream(after={"first": a}.get(after, after))) as client:
        [new] = await stack.say()
        assert await shown(client, new) == {"0": [a, b, c, new], "first": [b, c, new], "now": [new]}[after]
    assert (await ask(stack, "GET", "/v1/consumers/crm"))["position"] == b


async def test_a_position_that_cannot_be_honoured_is_a_gap_and_acknowledges_nothing(stack: Stack) -> None:
    a, b = await stack.say(2)
    async with stack.open(stream(after=a)) as client:
        await shown(client, b)
    async with stack.open(stream(), last="9999999999999-0") as client:
        assert (await client.take(1))[0].data["reason"] == "ahead"
        assert await shown(client, b) == [a, b]
    assert (await ask(stack, "GET", "/v1/consumers/crm"))["position"] == a


async def test_a_consumer_behind_a_trim_is_told_what_is_missing_and_goes_on(stack: Stack) -> None:
    written = await stack.say(6)
    async with stack.open(stream(after=written[0])) as client:
        await shown(client, written[-1])
    await stack.trim(written[1])
    async with stack.open(stream()) as client:
        assert await shown(client, written[-1]) == written[1:], (
            "it stood at the last fact that went: nothing is missing"
        )
    await stack.trim(written[3])
    async with stack.open(stream()) as client:
        [gap] = await client.take(1)
        assert (gap.data["reason"], gap.data["first_available"]) == ("trimmed", written[3])
        assert await shown(client, written[-1]) == written[3:]
    assert (await acknowledge(stack, written[4]))["lag"] == 1


async def test_only_what_was_sent_can_be_acknowledged(stack: Stack) -> None:
    a, b = await stack.say(2)
    async with stack.open(stream(after=a)) as client:
        await shown(client, b)
    for position, status in (("9999999999999-0", 422), ("1-1", 422), ("banana", 400), ("", 422)):
        await acknowledge(stack, position, status)
    assert (await ask(stack, "GET", "/v1/consumers/crm"))["position"] == a
    await acknowledge(stack, b, 404, "nobody")


# The filter


async def test_the_filter_is_kept_with_the_consumer(stack: Stack) -> None:
    [a] = await stack.say(conversation="conv_a")
    async with stack.open(stream(types="custom.*", conversation="conv_a", after="0")) as client:
        await shown(client, a)
    await stack.say(conversation="conv_b")
    [c] = await stack.say(conversation="conv_a")
    async with stack.open(stream()) as client:
        assert await shown(client, c) == [a, c]
    async with stack.open(stream(conversation="conv_a", types="custom.*,custom.*")) as client:
        assert await shown(client, c) == [a, c], "the same filter again"
    [listed] = (await ask(stack, "GET", "/v1/consumers"))["consumers"]
    assert listed["filter"] == {"conversation": "conv_a", "types": ["custom.*"]}


async def test_another_filter_is_refused_and_ends_nobodys_stream(stack: Stack) -> None:
    async with stack.open(stream(types="custom.*")) as client:
        await opened(client)
        for filter in ({"types": "reply.*"}, {"deltas": "1"}, {"conversation": "conv_a"}):
            async with stack.open(stream(**filter)) as other:
                assert other.status == 409
                problem = msgspec.json.decode(await other.body())
                assert problem["code"] == "CONSUMER_FILTER"
                assert "custom.*" in problem["detail"]
        [new] = await stack.say()
        assert await shown(client, new) == [new]


async def test_a_name_is_letters_digits_and_a_few_signs(stack: Stack) -> None:
    for name in ("", "a b", "ä", "-a", ".", "x" * 65, "a/b", "a:b", "a\n"):
        async with stack.open(stream(name)) as client:
            assert client.status == 422, name
            assert msgspec.json.decode(await client.body())["code"] == "BAD_CONSUMER"
    async with stack.open(stream("Crm.sync_2-b")) as client:
        await opened(client)


# The newest connection takes over


async def test_the_newest_connection_takes_over_here_and_in_another_process(stack: Stack) -> None:
    async with stack.edge() as other, stack.open(stream()) as first:
        await opened(first)
        async with stack.open(stream()) as second:
            await opened(second)
            await first.until_cut()
            async with stack.open(stream(), edge=other) as third:
                await opened(third)
                async with asyncio.timeout(1.0):
                    await second.until_cut()
                [new] = await stack.say()
                assert await shown(third, new) == [new]


async def test_of_many_that_open_at_once_one_stays(stack: Stack) -> None:
    async def lived(client: StreamClient) -> None:
        with suppress(asyncio.IncompleteReadError):  # replaced before it was answered
            async with client:
                await client.until_cut()

    async with stack.edge() as other:
        clients = [stack.open(stream(), edge=edge) for edge in [stack.first, other] * 5]
        lives = [asyncio.create_task(lived(client)) for client in clients]
        for life in itertools.islice(asyncio.as_completed(lives), len(clients) - 1):
            await life
        [new] = await stack.say()
        [(stays, life)] = [(client, life) for client, life in zip(clients, lives, strict=True) if not life.done()]
        async with asyncio.timeout(LIMIT_S):
            while new.encode() not in b"".join(stays.writes):
                await stack.tick()
        life.cancel()


async def test_other_consumers_and_other_organizations_are_left_alone(stack: Stack) -> None:
    key = await stack.key(org=ACME)
    async with stack.open(stream()) as first, stack.open(stream("other")) as second, stack.open(stream(), key) as third:
        for client in (first, second, third):
            await opened(client)
        [new] = await stack.say()
        assert await shown(first, new) == await shown(second, new) == [new]
        [theirs] = await stack.say(org=ACME)
        assert await shown(third, theirs) == [theirs]


# On a WebSocket


class Socket:
    def __init__(self, ws: ClientWebSocketResponse) -> None:
        self.ws = ws

    async def next(self) -> Data:
        async with asyncio.timeout(LIMIT_S):  # `receive` has a limit too, which every ping extends
            message = await self.ws.receive()
        assert message.type is WSMsgType.TEXT, message
        frame: Data = msgspec.json.decode(message.data)
        return frame

    async def until(self, last: str) -> list[str]:
        """Events up to that one."""
        seen: list[str] = []
        while last not in seen:
            frame = await self.next()
            if frame["type"] != "position":
                seen.append(frame["id"])
        return seen

    async def acknowledge(self, position: str) -> None:
        await self.ws.send_json({"type": "ack", "id": position})

    async def closed(self) -> int | None:
        while (await self.ws.receive(LIMIT_S)).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR):
            pass
        return self.ws.close_code


@asynccontextmanager
async def socket(
    stack: Stack, path: str, headers: Mapping[str, str] | None = None, edge: Edge | None = None
) -> AsyncIterator[Socket]:
    url = (edge.url if edge else stack.url) + path
    async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=headers, compress=15) as ws:
        yield Socket(ws)


async def consumer_at(stack: Stack, position: str) -> None:
    """Returns when the consumer has got there."""
    async with asyncio.timeout(LIMIT_S):
        while (await ask(stack, "GET", "/v1/consumers/crm"))["position"] != position:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_websocket_shows_the_stream_and_acknowledges_on_it(stack: Stack) -> None:
    a, b, c = await stack.say(3)
    async with socket(stack, stream(after="0")) as client:
        assert await client.next() == {"id": "0-0", "type": "position"}
        assert await client.until(c) == [a, b, c]
        [d] = await stack.say()
        assert await client.until(d) == [d]
        await client.acknowledge(b)
        await consumer_at(stack, b)
        await client.acknowledge(a)
        await client.acknowledge(c)
        await consumer_at(stack, c)
    async with socket(stack, stream()) as client:
        assert await client.until(d) == [d]


async def test_a_websocket_resumes_filters_and_names_nothing(stack: Stack) -> None:
    a, b = await stack.say(2)
    async with socket(stack, STREAM + query(last_event_id=a, types="custom.*")) as client:
        assert await client.until(b) == [b]
        await client.acknowledge(b)
        [c] = await stack.say()
        assert await client.until(c) == [c], "without a consumer an acknowledgement is heard, and moves nothing"
    async with socket(stack, STREAM, {"Last-Event-ID": "9999999999999-0"}) as client:
        gap = await client.next()
        assert (gap["type"], gap["reason"]) == ("gap", "ahead")


async def test_a_websocket_refuses_what_it_cannot_hear_and_lives_on(stack: Stack) -> None:
    [a] = await stack.say()
    async with socket(stack, stream(after="0")) as client:
        await client.until(a)
        for text, code in (
            ("banana", "INVALID_JSON"),
            ("[]", "INVALID_BODY"),
            ("{}", "INVALID_BODY"),
            ('{"type":"ack"}', "MALFORMED_POSITION"),
            ('{"type":"ack","id":"9999999999999-0"}', "UNKNOWN_POSITION"),
        ):
            await client.ws.send_str(text)
            refused = await client.next()
            assert (refused["type"], refused["code"]) == ("error", code)
            assert "id" not in refused
        await client.acknowledge(a)
        await consumer_at(stack, a)


async def test_a_burst_of_acknowledgements_ends_at_the_last(stack: Stack) -> None:
    written = await stack.say(200)
    async with socket(stack, stream(after="0")) as client:
        await client.until(written[-1])
        for position in written:
            await client.acknowledge(position)
        await consumer_at(stack, written[-1])


async def test_a_replaced_websocket_is_told_so_and_acknowledges_no_more(stack: Stack) -> None:
    a, b = await stack.say(2)
    async with stack.edge() as other, socket(stack, stream(after="0")) as first:
        await first.until(b)
        async with socket(stack, stream(), edge=other) as second:
            await first.acknowledge(b)
            assert await first.closed() == 4409
            assert await second.until(b) == [a, b]
            await second.acknowledge(a)
            await consumer_at(stack, a)


async def test_a_ticket_opens_the_stream_on_a_websocket(stack: Stack) -> None:
    key = await stack.key("events:read", org=ACME)
    async with stack.http(key) as http:
        made = (await http.post("/v1/stream-tickets", json={"route": stream()})).json()
    async with socket(stack, made["url"]) as client:
        await client.next()
        [new] = await stack.say(org=ACME)
        assert await client.until(new) == [new]


# Looking after them


async def test_consumers_are_listed_with_their_lag(stack: Stack) -> None:
    a, b, c = await stack.say(3)
    for name, after in (("b", "0"), ("a", b), ("c", "now")):
        async with stack.open(stream(name, after=after)) as client:
            await opened(client)
    listed = (await ask(stack, "GET", "/v1/consumers"))["consumers"]
    assert [(each["name"], each["position"], each["lag"]) for each in listed] == [
        ("a", b, 1),
        ("b", "0-0", 3),
        ("c", c, 0),
    ]
    assert listed[0] == await ask(stack, "GET", "/v1/consumers/a")
    assert listed[0]["filter"] == {}
    await stack.say(2)
    assert (await acknowledge(stack, a, name="b"))["lag"] == 4
    await ask(stack, "GET", "/v1/consumers/nobody", status=404)


@pytest.mark.parametrize("where", ["0", "a", "now"])
async def test_a_reset_moves_a_consumer_anywhere_and_ends_its_connection(stack: Stack, where: str) -> None:
    a, b, c = await stack.say(3)
    async with stack.open(stream(after=b)) as client:
        await shown(client, c)
        reset = await ask(stack, "POST", "/v1/consumers/crm/reset", {"position": {"a": a}.get(where, where)})
        assert reset["lag"] == {"0": 3, "a": 2, "now": 0}[where]
        await client.until_cut()
    async with stack.open(stream()) as client:
        [d] = await stack.say()
        assert await shown(client, d) == {"0": [a, b, c, d], "a": [b, c, d], "now": [d]}[where]


async def test_a_reset_names_a_place_of_the_log(stack: Stack) -> None:
    await stack.say()
    async with stack.open(stream()) as client:
        await opened(client)
        for position, status in (("9999999999999-0", 422), ("1-1", 422), ("banana", 400)):
            await ask(stack, "POST", "/v1/consumers/crm/reset", {"position": position}, status)
        await ask(stack, "POST", "/v1/consumers/nobody/reset", {"position": "0"}, 404)
        [new] = await stack.say()
        assert await shown(client, new) == [new], "it goes on"


async def test_a_deleted_consumer_is_gone_with_its_stream(stack: Stack) -> None:
    async with stack.open(stream()) as client:
        await opened(client)
        await ask(stack, "DELETE", "/v1/consumers/crm", status=204)
        await client.until_cut()
    await ask(stack, "DELETE", "/v1/consumers/crm", status=404)
    assert await ask(stack, "GET", "/v1/consumers") == {"consumers": []}


async def test_consumers_are_an_organizations_own_and_need_the_scope(stack: Stack) -> None:
    async with stack.open(stream()) as client:
        await opened(client)
    async with stack.http(await stack.key("events:read", org=ACME)) as http:
        assert (await http.get("/v1/consumers")).json() == {"consumers": []}
        assert (await http.delete("/v1/consumers/crm")).status_code == 404
    async with stack.http(await stack.key("chat:write", org=ACME)) as http:
        assert (await http.get("/v1/consumers")).status_code == 403


async def test_who_is_over_the_limit_takes_nothing_over(redis_url: str) -> None:
    async with stacked(redis_url, work=False, development=False, quota=Quota(requests=1_000, opens=1)) as stack:
        key = await stack.key(org=ACME)
        await stack.say(org=ACME)
        async with stack.open(stream(), key) as client:
            await opened(client)
            async with stack.open(STREAM, {**key, "Accept": "application/x-ndjson"}) as refused:
                assert refused.status == 429
            async with stack.open(stream(after="now"), {**key, "Accept": "application/x-ndjson"}) as refused:
                assert refused.status == 429
            [new] = await stack.say(org=ACME)
            assert await shown(client, new) == [new]
        async with stack.open(stream(), key) as client:
            assert await shown(client, new) == [new], "a consumer that returns opens for free"


async def test_a_consumer_that_stays_connected_does_not_expire(stack: Stack) -> None:
    connections, name = stack.first.app[CONNECTIONS], keys.of(DEMO).consumer("crm")
    assert isinstance(connections, Connections)
    async with stack.open(stream()) as client:
        await opened(client)
        await stack.pipe.call("PEXPIRE", name, 60_000)
        await connections.keep()
        assert await stack.pipe.call("PTTL", name) > 60_000


# Whatever happens


@pytest.mark.parametrize("seed", range(6))
async def test_no_sequence_of_crashes_and_acknowledgements_skips_an_event(stack: Stack, seed: int) -> None:
    """A client that handles events, acknowledges some of them in any of the three ways, and is killed at any moment."""
    dice, handled, written, last = random.Random(seed), set[str](), list[str](), ""

    def handle(id: str | None, type: object) -> bool:
        """Whether there is more to come."""
        nonlocal last
        last = str(id)
        if type != "position":
            handled.add(last)
        return last != written[-1]

    for life in range(12):
        written += await stack.say(dice.randrange(1, 6))
        path = stream(after="0") if life == 0 else stream()
        back = last if life and dice.random() < 0.3 else None
        if dice.random() < 0.5:
            async with socket(stack, path, {"Last-Event-ID": back} if back else None) as client:
                for _ in range(dice.randrange(8)):
                    frame = await client.next()
                    more = handle(frame["id"], frame["type"])
                    if dice.random() < 0.4:
                        await client.acknowledge(last)
                    if not more:
                        break
        else:
            async with stack.open(path, last=back) as http:
                for _ in range(dice.randrange(8)):
                    [shown_] = await http.take(1)
                    more = handle(shown_.id, shown_.type)
                    if dice.random() < 0.4:
                        await acknowledge(stack, last)
                    if not more:
                        break
        known = Position.parse((await ask(stack, "GET", "/v1/consumers/crm"))["position"])
        assert handled >= {position for position in written if Position.parse(position) <= known}
    written += await stack.say()
    async with stack.open(stream()) as http:
        handled |= set(await shown(http, written[-1]))
    assert handled == set(written)

"""Dead letters on the native surface: `GET /v1/dead-letters`, `POST /v1/dead-letters/{id}/redeliver`."""

from __future__ import annotations

import msgspec
from aiohttp import web

from edges.app_keys import ENGINE, LOG
from edges.auth import Caller
from edges.errors import ApiError
from edges.intake import record
from edges.limits import admit
from edges.runs import run_headers
from eventstore.append import Append, Idempotency, fingerprint
from eventstore.events.callbacks import CallbackRequested
from eventstore.schema import ConversationId, Event, Position
from projections.callbacks import CALLBACKS, Callback, dead_letters

SHOWN = 200
"""The newest ones; who has more has to look at the receiver first."""


async def list_(request: web.Request) -> web.Response:
    caller = await admit(request, "admin")
    found = await dead_letters(await request.app[ENGINE].level(caller.org, CALLBACKS), SHOWN)
    return web.json_response({"dead_letters": [_shown(letter) for letter in found]})


async def redeliver(request: web.Request) -> web.Response:
    """Tries once more from the beginning, under the same id; two requests at once are one."""
    caller = await admit(request, "admin")
    letter = await (await request.app[ENGINE].level(caller.org, CALLBACKS)).get(request.match_info["id"])
    if letter is None or letter.dead_since is None:
        raise ApiError(404, "DEAD_LETTER_NOT_FOUND", f"there is no dead letter {request.match_info['id'][:80]!r}")
    once = Idempotency(fingerprint("redeliver", letter.id, letter.dead_since), fingerprint(letter.id))
    append = Append(events=[_again(letter, caller)], idempotency=once)
    await record(request.app[LOG], caller.org, append)
    return web.json_response(
        {"id": letter.id, "status": "accepted"}, status=202, headers=run_headers(Position.parse(letter.run))
    )


def _again(letter: Callback, caller: Caller) -> Event:
    return Event(
        CallbackRequested(url=letter.url, redelivers=letter.id),
        caller.actor,
        ConversationId(letter.conversation) if letter.conversation else None,
        run=Position.parse(letter.run),
        lane=f"callback:{letter.run}",
    )


def _shown(letter: Callback) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(letter).items() if name != "died_ms"}


ROUTES = (
    web.get("/v1/dead-letters", list_, allow_head=False),
    web.post("/v1/dead-letters/{id}/redeliver", redeliver),
)

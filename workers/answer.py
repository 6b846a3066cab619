"""One attempt at an answer: the effects around the pure turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import sha256
from typing import cast

from eventstore import codec
from eventstore.events.messages import MessageReceived
from eventstore.events.replies import (
    ReplyCompleted,
    ReplyDelta,
    ReplyRestarted,
    ReplyStarted,
    ReplyStepped,
)
from eventstore.events.sms import SmsRequested
from eventstore.schema import Body, Event, Position, UnknownEvent
from eventstore.telemetry import FIRST_TOKEN_SECONDS
from projections.assistants import Assistant
from projections.memory import MEMORY
from workers import context, memory, prompt
from workers.deltas import Deltas
from workers.errors import TryAgain
from workers.groups import together
from workers.model import PAUSED, Message, Model, ModelRequest, StepDone, TextDelta
from workers.team import Team, Tools, assemble
from workers.turn import CallModel, Finish, RunTools, fold, joint, next_step
from workers.work import Done, Work

HISTORY_MS = 30 * 24 * 3_600_000
"""How far back a conversation is read for the model; its budget is spent long before in a busy one."""
TEXT_CHANNELS = frozenset({"sms", "whatsapp"})


class Answer:
    """What a client shows always ends equal to what is stored: the text of the last `reply.restarted`, if there is
    one, followed by the deltas of that attempt, is the text of `reply.completed`.

    `deltas_digest` is the SHA-256, in hex, of the UTF-8 bytes of exactly that concatenation, taken from what was
    really appended and not from the completed text.
    """

    def __init__(self, work: Work, message: MessageReceived, assistant: str, model: Model) -> None:
        self._work = work
        self._message = message
        self._asked = assistant
        self._assistant: Assistant
        self._tools: Tools
        self._model = model
        self._events: list[Body | UnknownEvent] = []
        self._attempt = 1
        self._shown = ""
        self._index = 0
        self._until = work.item.position
        self._history: list[Message] = []
        self._notes = ""
        self._memory_due: list[Event] = []

    @property
    def _actor(self) -> str:
        return f"assistant:{self._assistant.id}"

    async def give(self, latest_message: Position) -> Done:
        await self._begin(latest_message)
        last: StepDone | None = None
        while True:
            match next_step(self._events, last):
                case CallModel() as call:
                    last = await self._call_model(call)
                case RunTools(calls=calls):
                    await self._tools.run_all(calls)
                case Finish() as finish:
                    return self._done(finish, (last.model if last else None) or self._model.name)

    async def _begin(self, latest_message: Position) -> None:
        """The first attempt starts the run; a later one restarts what is shown, at the end of the finished steps."""
        work = self._work
        past = await work.log.read_run(work.org, work.run, work.run, deltas=False)
        self._events = [codec.decode(event) for event in past]
        turn = fold(self._events)
        answers = turn.started.assistant if turn.started else self._asked
        assistants = await assemble(work, answers, turn.started)
        self._assistant = assistants[answers]
        if turn.started is None:
            self._until = latest_message
            await self._append(
                ReplyStarted(
                    attempt=self._attempt,
                    assistant=answers,
                    model=self._model.name,
                    context_until=str(latest_message),
                    configured={name: each.configured for name, each in assistants.items()},
                )
            )
        else:
            self._until = Position.parse(turn.started.context_until)
            self._attempt, self._shown = turn.attempt + 1, turn.text
            await self._append(ReplyRestarted(attempt=self._attempt, text=turn.text))
        self._tools = Tools(Team(work, self._model, assistants, self._events, self._attempt), self._assistant)
        await self._read_history()

    async def _call_model(self, call: CallModel) -> StepDone | None:
        """The finished step: recorded if the turn goes on, else returned, because the answer's end records it."""
        request = self._request(call)
        deltas = Deltas(self._store_delta, self._index)
        done: StepDone
        done, _ = await together(self._stream(request, call.text, deltas), deltas.write())
        self._index = deltas.index
        self._shown += deltas.text
        if not call.may_use_tools or not (done.calls or done.stop_reason == PAUSED):
            if not (call.text + deltas.text).strip():
                raise TryAgain("the model ended without a word")
            return done._replace(text=deltas.text, calls=())
        step = ReplyStepped(
            attempt=self._attempt,
            step=call.step,
            usage=done.usage,
            text=deltas.text,
            calls=list(done.calls),
            blocks=list(done.blocks) or None,
        )
        await self._append(step)
        return None

    async def _read_history(self) -> None:
        """The last messages, and what is remembered of those before them; both within one budget."""
        work, conversation = self._work, self._work.item.conversation
        assert conversation is not None
        after = Position(max(0, work.item.position.ms - HISTORY_MS), 0)
        history = await work.log.read_conversation(work.org, conversation, after)
        self._memory_due = memory.due(history, conversation)
        messages = context.messages(history, self._until)
        remembered = await (await work.services.engine.level(work.org, MEMORY)).get(conversation)
        self._notes = memory.notes(remembered, memory.question_of(messages), work.services.now_ms())
        self._history = prompt.fit(messages, prompt.TOKEN_BUDGET - prompt.text_tokens(self._notes))

    def _request(self, call: CallModel) -> ModelRequest:
        return ModelRequest(
            system=prompt.system(self._assistant, self._work.org, self._message.channel),
            messages=[*self._history, *call.exchanges],
            tools=self._tools.specs,
            may_use_tools=call.may_use_tools,
            model=self._assistant.model,
            step=call.step,
            attempt=self._attempt,
            sender=self._message.sender,
            notes=self._notes,
        )

    async def _stream(self, request: ModelRequest, before: str, deltas: Deltas) -> StepDone:
        began, first = asyncio.get_running_loop().time(), True
        stream = cast("AsyncGenerator[TextDelta | StepDone]", self._model.stream(request))
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                match piece:
                    case TextDelta(text=text):
                        if first:
                            FIRST_TOKEN_SECONDS.observe(asyncio.get_running_loop().time() - began)
                            text, first = joint(before, text) + text, False
                        deltas.add(text)
                    case StepDone():
                        deltas.close()
                        return piece
        raise TryAgain("the model's stream ended before its end was announced")

    async def _store_delta(self, index: int, text: str) -> None:
        delta = Event(ReplyDelta(attempt=self._attempt, index=index, text=text), self._actor)
        await self._work.delta(delta, epoch=self._work.epoch)

    async def _append(self, body: Body) -> None:
        await self._work.append(Event(body, self._actor), epoch=self._work.epoch)
        self._events.append(body)

    def _done(self, finish: Finish, model: str) -> Done:
        new_id = self._work.services.new_id
        completed = ReplyCompleted(
            message_id=new_id(),
            attempt=self._attempt,
            model=model,
            stop_reason=finish.stop_reason,
            usage=finish.usage,
            deltas_digest=sha256(self._shown.encode()).hexdigest(),
            text=finish.text,
        )
        events = [Event(completed, self._actor)]
        if (sms := self._text_message(completed)) is not None:
            events.append(Event(sms, self._actor, lane=f"send:{self._work.item.conversation}"))
        return Done([*events, *self._memory_due], self._work.epoch)

    def _text_message(self, completed: ReplyCompleted) -> SmsRequested | None:
        message = self._message
        if message.channel not in TEXT_CHANNELS or message.sender is None or not completed.text.strip():
            return None
        prefix = "whatsapp:" if message.channel == "whatsapp" else ""
        return SmsRequested(
            intent_id=self._work.services.new_id(),
            message_id=completed.message_id,
            sent_by="assistant",
            from_number=prefix + message.to if message.to else None,
            epoch=self._work.epoch,
            to=prefix + message.sender,
            text=completed.text,
        )

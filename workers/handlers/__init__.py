"""What workers do, by the type of the event that asks for it."""

from workers.handlers import call, callback, delivery, email, handback, memory, person, reply, session, sms, tool
from workers.work import Handler

HANDLERS: tuple[Handler, ...] = (
    reply.HANDLER,
    person.HANDLER,
    handback.HANDLER,
    tool.HANDLER,
    sms.HANDLER,
    call.HANDLER,
    email.HANDLER,
    delivery.HANDLER,
    callback.HANDLER,
    session.HANDLER,
    memory.HANDLER,
)

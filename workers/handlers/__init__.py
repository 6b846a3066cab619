"""What workers do, by the type of the event that asks for it."""

from workers.handlers import email, handback, reply, sms, tool
from workers.work import Handler

HANDLERS: tuple[Handler, ...] = (reply.HANDLER, handback.HANDLER, tool.HANDLER, sms.HANDLER, email.HANDLER)

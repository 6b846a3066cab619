"""Tools that write to customers: each records an intent, and the conversation's send lane carries it out."""

from __future__ import annotations

from eventstore.events.emails import EmailRequested
from eventstore.events.sms import SmsRequested
from eventstore.schema import Body, Event
from projections import phones
from projections.contacts import Contact
from projections.tool_arguments import SendEmail, SendSms
from workers.tool_call import Answered, Refusal
from workers.tools.call import ToolContext


async def send_sms(arguments: SendSms, context: ToolContext) -> Answered:
    phone = arguments.phone or (await _contact(arguments.contact_id, context)).phone
    if not phone:
        raise Refusal("NO_PHONE", "The contact has no phone number", 422)
    if not await context.accepts_sms(phone):
        raise Refusal("OPTED_OUT", "The recipient has opted out of text messages", 409)
    address = phones.address(phone)
    intent = SmsRequested(
        intent_id=context.new_id("intent"),
        message_id=context.new_id("msg"),
        sent_by="tool",
        epoch=await _epoch(address, context),
        to=phone,
        text=arguments.message,
    )
    return _queued(intent, intent.message_id, address, context)


async def send_email(arguments: SendEmail, context: ToolContext) -> Answered:
    """An address is a conversation of its own (`mailto:`), because a contact need not have a phone number, nor an
    address a contact."""
    email = arguments.email or (await _contact(arguments.contact_id, context)).email
    if not email:
        raise Refusal("NO_EMAIL", "The contact has no email address", 422)
    address = f"mailto:{email}"
    intent = EmailRequested(
        intent_id=context.new_id("intent"),
        message_id=context.new_id("msg"),
        epoch=await _epoch(address, context),
        to=email,
        subject=arguments.subject,
        text=arguments.message,
        html=arguments.html,
    )
    return _queued(intent, intent.message_id, address, context)


async def _contact(contact_id: str | None, context: ToolContext) -> Contact:
    contact = await context.crm.by_id(context.org, contact_id or "")
    if contact is None:
        raise Refusal("NOT_FOUND", "Contact not found", 404)
    return contact


async def _epoch(address: str, context: ToolContext) -> int:
    """The control epoch of the recipient's conversation, which the intent carries: once a person takes it over,
    nothing that was asked for before may leave."""
    control = await context.control_of(context.conversation_of(address))
    if control.agent:
        raise Refusal("HUMAN_CONTROL", "A person is speaking in this conversation", 409)
    return control.epoch


def _queued(intent: Body, message_id: str, address: str, context: ToolContext) -> Answered:
    conversation = context.conversation_of(address)
    event = Event(intent, context.actor, conversation, context.run, context.cause, f"send:{conversation}")
    return Answered({"messageId": message_id, "status": "queued"}, [event], {conversation: address})

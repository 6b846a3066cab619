"""Tools that write to customers."""

from __future__ import annotations

from eventstore.events.sms import SmsRequested
from eventstore.schema import Event
from projections import phones
from projections.tool_catalog import SendSms
from workers.tools.call import ToolContext, ToolError, ToolOutcome


async def send_sms(arguments: SendSms, context: ToolContext) -> ToolOutcome:
    """Records the intent; the conversation's send lane carries it out.

    The intent carries the control epoch of the recipient's conversation: once a person takes it over, nothing that
    was asked for before may leave.
    """
    phone = arguments.phone or await _phone_of(arguments.contact_id or "", context)
    if not await context.crm.accepts_sms(context.org, phone):
        raise ToolError("OPTED_OUT", "The recipient has opted out of text messages", 409)
    address = phones.address(phone)
    conversation = context.conversation_of(address)
    control = await context.control_of(conversation)
    if control.agent:
        raise ToolError("HUMAN_CONTROL", "A person is speaking in this conversation", 409)
    message_id = context.new_id("msg")
    intent = SmsRequested(
        intent_id=context.new_id("intent"),
        message_id=message_id,
        sent_by="tool",
        epoch=control.epoch,
        to=phone,
        text=arguments.message,
    )
    event = Event(intent, context.actor, conversation, context.run, context.cause, f"send:{conversation}")
    return ToolOutcome({"messageId": message_id, "status": "queued"}, [event], {conversation: address})


async def _phone_of(contact_id: str, context: ToolContext) -> str:
    contact = await context.crm.by_id(context.org, contact_id)
    if contact is None:
        raise ToolError("NOT_FOUND", "Contact not found", 404)
    if not contact.phone:
        raise ToolError("NO_PHONE", "The contact has no phone number", 422)
    return contact.phone

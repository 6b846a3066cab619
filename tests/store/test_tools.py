"""Tools on the embedded CRM: what they answer, what they record, and what happens when they run twice or at once."""

from __future__ import annotations

import asyncio

import pytest

from eventstore import codec
from eventstore.events.contacts import ContactCreated, ContactOptedOut, ContactUpdated
from eventstore.events.emails import EmailRequested
from eventstore.events.sms import SmsRequested
from eventstore.events.tools import ToolRequested
from eventstore.organizations import Organizations, conversation_id
from eventstore.read_models import ReadModels
from eventstore.schema import ORIGIN, Event, OrgId
from projections import control
from projections.control import Release, Take
from projections.engine import Engine
from projections.tool_arguments import CreateContact
from projections.tool_catalog import TOOL_SPECS
from tests.support.store import ACME, ANN, Store
from tests.support.tool_context import PEPPER, context_of, refused
from workers import tools
from workers.crm.backend import Location, Origin
from workers.crm.demo import DEMO_CONTACTS, seed_demo
from workers.crm.embedded import CONTACTS_STREAM, EmbeddedCrm
from workers.tool_call import Answered, Call, Refusal
from workers.toolbox import CrmToolbox
from workers.tools.call import ToolContext, id_factory

CONTACT_FIELDS = ["id", "firstName", "lastName", "name", "phone", "email", "tags", "createdAt", "updatedAt"]


@pytest.fixture
async def context(store: Store, crm: EmbeddedCrm) -> ToolContext:
    await seed_demo(store.log, ACME)
    return context_of(store, crm, "call_1")


async def created_contacts(store: Store) -> int:
    facts = await store.log.read(ACME, ORIGIN, deltas=False)
    return sum(fact.type == "contact.created" for fact in facts)


async def test_the_demo_contacts_are_there_once(store: Store, crm: EmbeddedCrm) -> None:
    assert sorted(await asyncio.gather(*(seed_demo(store.log, ACME) for _ in range(4)))) == [False, False, False, True]
    john = await crm.by_id(ACME, "contact_123")
    assert john is not None
    assert (john.name, john.phone) == ("John Doe", "+1234567890")
    assert await created_contacts(store) == len(DEMO_CONTACTS)


async def test_a_contact_on_the_wire_has_exactly_the_agreed_fields(context: ToolContext) -> None:
    found = await tools.run("search_contacts", {"query": "john"}, context)
    assert found.data["total"] == 1
    (john,) = found.data["contacts"]
    assert list(john) == CONTACT_FIELDS
    assert john["createdAt"] == john["updatedAt"] == "2025-10-09T08:53:20.000Z"


async def test_search_takes_filters_and_a_limit_from_a_query_string(context: ToolContext) -> None:
    found = await tools.run("search_contacts", {"tags": "vip", "limit": "1"}, context)
    assert (len(found.data["contacts"]), found.data["total"]) == (1, 2)
    found = await tools.run("search_contacts", {"phone": " 1234567890"}, context)
    assert [contact["id"] for contact in found.data["contacts"]] == ["contact_123"]


async def test_a_contact_is_looked_up_by_phone(context: ToolContext) -> None:
    outcome = await tools.run("get_contact_by_phone", {"phone": "whatsapp:+1234567890"}, context)
    assert outcome.data["id"] == "contact_123"
    missing = await refused("get_contact_by_phone", {"phone": "+19995550000"}, context)
    assert missing == ("NOT_FOUND", 404, "Contact not found")


async def test_an_existing_contact_is_returned_not_doubled(store: Store, context: ToolContext) -> None:
    outcome = await tools.run("create_contact", {"name": "Johnny", "phone": "+1234567890"}, context)
    assert (outcome.data["new"], outcome.data["name"]) == (False, "John Doe")
    outcome = await tools.run("create_contact", {"name": "Johnny", "email": "JOHN@example.com"}, context)
    assert (outcome.data["new"], outcome.data["id"]) == (False, "contact_123")
    assert await created_contacts(store) == len(DEMO_CONTACTS)


async def test_a_retry_of_the_same_call_finds_its_own_contact(store: Store, context: ToolContext) -> None:
    raw = {"firstName": "Ann", "phone": "+14155550001", "tags": "new"}
    first = await tools.run("create_contact", raw, context)
    assert [*CONTACT_FIELDS, "new"] == list(first.data)
    assert first.data["new"]
    assert await tools.run("create_contact", raw, context) == first
    assert await created_contacts(store) == len(DEMO_CONTACTS) + 1


async def test_concurrent_creations_of_one_phone_or_email_make_one_contact(store: Store, crm: EmbeddedCrm) -> None:
    identities = [("+14155550001", None), (None, "ann@example.com"), ("+14155550001", "ann@example.com")] * 5
    created = await asyncio.gather(
        *(
            crm.create(ACME, CreateContact(phone=phone, email=email), Origin(f"c{number}", "tool:test"))
            for number, (phone, email) in enumerate(identities)
        )
    )
    facts = [codec.decode(each) for each in await store.log.read(ACME, ORIGIN, deltas=False)]
    made = [each for each in facts if isinstance(each, ContactCreated)]
    for identity in ([each.phone for each in made if each.phone], [each.email for each in made if each.email]):
        assert len(identity) == len(set(identity)), made
    assert sum(each.new for each in created) == len(made)
    for each, (phone, email) in zip(created, identities, strict=True):
        assert (phone and each.contact.phone == phone) or (email and each.contact.email == email)


async def test_a_number_that_moved_on_can_be_created_again(store: Store, crm: EmbeddedCrm) -> None:
    first = await crm.create(ACME, CreateContact(phone="+14155550001"), Origin("c1", "tool:test"))
    moved = ContactUpdated(contact_id="c1", phone="+14155550002")
    await store.write(Event(moved, "agent:7", CONTACTS_STREAM))
    second = await crm.create(ACME, CreateContact(phone="+14155550001"), Origin("c2", "tool:test"))
    assert (first.new, second.new) == (True, True)
    assert second.contact.id == "c2"


async def test_send_sms_records_an_intent_on_the_send_lane_of_the_numbers_conversation(context: ToolContext) -> None:
    outcome = await tools.run("send_sms", {"contactId": "contact_123", "message": "Hello"}, context)
    (event,) = outcome.events
    intent = event.body
    assert isinstance(intent, SmsRequested)
    conversation = conversation_id(PEPPER, "tel:+1234567890")
    assert (event.conversation, event.lane) == (conversation, f"send:{conversation}")
    assert (intent.to, intent.text, intent.sent_by, intent.epoch) == ("+1234567890", "Hello", "tool", 0)
    assert outcome.data == {"messageId": intent.message_id, "status": "queued"}
    assert outcome.addresses == {conversation: "tel:+1234567890"}


async def test_a_retry_makes_the_same_ids_and_another_call_others(
    store: Store, crm: EmbeddedCrm, context: ToolContext
) -> None:
    async def send(context: ToolContext) -> Answered:
        return await tools.run("send_sms", {"phone": "+14155550001", "message": "Hello"}, context)

    first = await send(context)
    assert await send(context) == first
    other = await send(context_of(store, crm, "call_2"))
    assert other.data != first.data


async def test_nobody_who_opted_out_is_texted(store: Store, context: ToolContext) -> None:
    await store.write(Event(ContactOptedOut(phone="+1234567890"), "customer"))
    code, status, _ = await refused("send_sms", {"phone": "+1234567890", "message": "Hello"}, context)
    assert (code, status) == ("OPTED_OUT", 409)


async def test_no_tool_speaks_while_a_person_does(store: Store, context: ToolContext) -> None:
    conversation = conversation_id(PEPPER, "tel:+1234567890")
    await control.take(store.log, ACME, conversation, Take("7", "Ann"))
    code, status, _ = await refused("send_sms", {"phone": "+1234567890", "message": "Hello"}, context)
    assert (code, status) == ("HUMAN_CONTROL", 409)
    await control.release(store.log, ACME, conversation, Release("7"))
    outcome = await tools.run("send_sms", {"phone": "+1234567890", "message": "Hello"}, context)
    intent = outcome.events[0].body
    assert isinstance(intent, SmsRequested)
    assert intent.epoch == 2, "what was asked for now is fenced by the next takeover"


async def test_send_sms_needs_somebody_with_a_phone(crm: EmbeddedCrm, context: ToolContext) -> None:
    await crm.create(ACME, CreateContact(email="mail@example.com"), Origin("c9", "tool:test"))
    assert (await refused("send_sms", {"contactId": "c9", "message": "Hi"}, context))[:2] == ("NO_PHONE", 422)
    assert (await refused("send_sms", {"contactId": "c0", "message": "Hi"}, context))[:2] == ("NOT_FOUND", 404)


async def test_send_email_records_an_intent_in_the_conversation_of_the_address(context: ToolContext) -> None:
    raw = {"contactId": "contact_123", "subject": "Your\r\nBcc: all@example.com test  ride", "html": "<p>Hi</p>"}
    outcome = await tools.run("send_email", raw, context)
    (event,) = outcome.events
    intent = event.body
    assert isinstance(intent, EmailRequested)
    conversation = conversation_id(PEPPER, "mailto:john@example.com")
    assert (event.conversation, event.lane) == (conversation, f"send:{conversation}")
    assert (intent.to, intent.text, intent.html, intent.epoch) == ("john@example.com", None, "<p>Hi</p>", 0)
    assert intent.subject == "Your Bcc: all@example.com test ride", "a header has one line"
    assert outcome.data == {"messageId": intent.message_id, "status": "queued"}
    assert outcome.addresses == {conversation: "mailto:john@example.com"}


async def test_send_email_needs_somebody_with_an_address(crm: EmbeddedCrm, context: ToolContext) -> None:
    await crm.create(ACME, CreateContact(phone="+14155550001"), Origin("c9", "tool:test"))
    mail = {"subject": "Hi", "message": "Hello"}
    assert (await refused("send_email", {**mail, "contactId": "c9"}, context))[:2] == ("NO_EMAIL", 422)
    assert (await refused("send_email", {**mail, "contactId": "c0"}, context))[:2] == ("NOT_FOUND", 404)
    assert (await refused("send_email", {**mail, "email": "a b@c.d"}, context))[:2] == ("INVALID_ARGUMENTS", 422)
    missing = await refused("send_email", {"email": "ann@example.org", "subject": "Hi"}, context)
    assert missing == ("INVALID_ARGUMENTS", 422, "message or html is required")


async def test_the_location_is_the_organizations(store: Store, context: ToolContext) -> None:
    assert (await tools.run("get_location", {}, context)).data["name"] == ACME

    async def locate(org: OrgId) -> Location:
        return Location(f"loc_{org}", "Acme Bikes", "Europe/Berlin", postal_code="10115")

    crm = EmbeddedCrm(store.log, Engine(store.log, ReadModels(store.pipe)), locate)
    outcome = await tools.run("get_location", {}, context_of(store, crm, "call_1"))
    assert (outcome.data["timezone"], outcome.data["postalCode"]) == ("Europe/Berlin", "10115")


async def test_bad_arguments_and_unknown_tools_are_refused(context: ToolContext) -> None:
    code, status, message = await refused("send_sms", {"phone": "hello", "message": "Hi"}, context)
    assert (code, status, message) == ("INVALID_ARGUMENTS", 422, "phone: not a phone number, got 'hello'")
    assert (await refused("format_disk", {}, context))[:2] == ("TOOL_NOT_FOUND", 404)


async def test_the_toolbox_runs_a_call_in_its_run(store: Store, crm: EmbeddedCrm) -> None:
    organizations = Organizations(store.pipe)
    organization = await organizations.ensure("acme", "Acme")
    await seed_demo(store.log, ACME)
    request = ToolRequested(tool="send_sms", arguments={})
    await store.write(Event(request, "customer", ANN))
    item = (await store.log.read_conversation(ACME, ANN))[0]
    box = CrmToolbox(store.log, crm, organizations)
    assert [spec.name for spec in box.specs] == [spec.name for spec in TOOL_SPECS]

    answered = await box.run(Call(ACME, item, "send_sms", {"phone": "+1234567890", "message": "Hi"}, "x"))
    conversation = conversation_id(organization.pepper, "tel:+1234567890")
    assert answered.events[0].conversation == conversation
    assert answered.addresses == {conversation: "tel:+1234567890"}
    assert answered.data["messageId"] == id_factory(ACME, item.run, "x")("msg")
    with pytest.raises(Refusal, match="Contact not found"):
        await box.run(Call(ACME, item, "get_contact_by_phone", {"phone": "+19995550000"}))

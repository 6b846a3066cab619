"""GoHighLevel behind the tools: the same answers as from the embedded CRM, and its failures told in plain words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from eventstore.events.contacts import ContactOptedOut
from eventstore.provider_settings import ProviderSettings
from eventstore.schema import Event, OrgId
from tests.support.gohighlevel_api import CALENDAR, LOCATION, PIPELINE, TOKEN, GoHighLevelApi, gohighlevel_api, sample
from tests.support.store import ACME, Store
from tests.support.tool_context import context_of, embedded, refused
from workers import tools
from workers.clients.gohighlevel import GoHighLevel, backend
from workers.clients.leadconnector import Account, Connections, LeadConnector
from workers.crm.backend import Origin
from workers.tools.call import ToolContext

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MARIA = "seD4PfOuKoVMLkEZqohJ"
CONTACT_FIELDS = ["id", "firstName", "lastName", "name", "phone", "email", "tags", "createdAt", "updatedAt"]
BOOKING = {"contactId": MARIA, "startTime": "2026-11-21T10:00:00-08:00", "title": "Test ride"}
IN_ZONE = {**BOOKING, "timezone": "America/Los_Angeles"}
"""Without a time zone its location is asked for one first."""


@pytest.fixture
async def api() -> AsyncIterator[GoHighLevelApi]:
    async with gohighlevel_api() as api:
        yield api


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections()
    yield connections
    await connections.close()


@pytest.fixture
def crm(api: GoHighLevelApi, connections: Connections) -> GoHighLevel:
    return GoHighLevel(LeadConnector(Account(TOKEN, LOCATION, CALENDAR, PIPELINE, api.url), connections))


@pytest.fixture
def context(store: Store, crm: GoHighLevel) -> ToolContext:
    return context_of(
        store, embedded(store), backend=crm, now=NOW, accepts_sms=lambda phone: crm.accepts_sms(ACME, phone)
    )


async def run(context: ToolContext, tool: str, **raw: Any) -> Any:
    return (await tools.run(tool, raw, context)).data


async def test_contacts_are_searched_with_its_own_filters(api: GoHighLevelApi, context: ToolContext) -> None:
    found = await run(context, "search_contacts", query="maria", phone="+14155552671", tags="bike", limit=5)
    [maria] = found["contacts"]
    assert list(maria) == CONTACT_FIELDS
    assert (maria["id"], maria["name"], maria["tags"], found["total"]) == (MARIA, "maria ruiz", ["bike"], 1)
    assert api.asked("POST", "/contacts/search") == [
        {
            "locationId": LOCATION, "page": 1, "pageLimit": 5, "query": "maria",
            "filters": [
                {"field": "phone", "operator": "eq", "value": "+14155552671"},
                {"field": "tags", "operator": "contains", "value": "bike"},
            ],
        }
    ]  # fmt: skip


async def test_a_long_query_is_cut_to_what_it_takes(api: GoHighLevelApi, context: ToolContext) -> None:
    await run(context, "search_contacts", query="x" * 200, limit=500)
    assert api.asked("POST", "/contacts/search")[0]["query"] == "x" * 75


async def test_a_contact_is_looked_up_by_phone(context: ToolContext) -> None:
    assert (await run(context, "get_contact_by_phone", phone="(415) 555-2671"))["id"] == MARIA
    assert (await refused("get_contact_by_phone", {"phone": "+15550009999"}, context))[0] == "NOT_FOUND"


async def test_a_contact_is_created_once(api: GoHighLevelApi, context: ToolContext) -> None:
    raw = {"name": "Ann Lee", "email": "ann@example.org", "tags": "new"}
    made = await run(context, "create_contact", **raw)
    assert ([*CONTACT_FIELDS, "new"], made["new"], made["name"]) == (list(made), True, "Ann Lee")
    again = await run(context, "create_contact", **raw)
    assert (again["id"], again["new"]) == (made["id"], False)
    assert api.asked("POST", "/contacts/upsert")[0] == {
        "locationId": LOCATION, "firstName": "Ann", "lastName": "Lee", "email": "ann@example.org", "tags": ["new"],
    }  # fmt: skip


async def test_a_duplicate_is_the_contact_that_it_names(api: GoHighLevelApi, context: ToolContext) -> None:
    api.refuses_duplicates_of = MARIA
    made = await run(context, "create_contact", email="maria@example.com")
    assert (made["id"], made["new"]) == (MARIA, False)


async def test_free_slots_are_its_days_and_nothing_beside_them(api: GoHighLevelApi, context: ToolContext) -> None:
    days = {"startDate": "2026-11-21", "endDate": "2026-11-22"}
    found = await run(context, "get_free_slots", **days)
    assert found == {
        "2026-11-21": {"slots": ["2026-11-21T10:00:00-08:00", "2026-11-21T10:30:00-08:00"]},
        "2026-11-22": {"slots": []},
    }
    [asked] = api.asked("GET", f"/calendars/{CALENDAR}/free-slots")
    midnight = datetime.fromisoformat("2026-11-21T00:00:00-08:00")
    assert asked == {
        "startDate": str(int(midnight.timestamp() * 1_000)),
        "endDate": str(int(midnight.timestamp() * 1_000) + 2 * 86_400_000),
        "timezone": "America/Los_Angeles",
    }
    await run(context, "get_free_slots", **days, timezone="Europe/Berlin")
    assert api.asked("GET", f"/calendars/{CALENDAR}/free-slots")[1]["timezone"] == "Europe/Berlin"


async def test_days_that_have_passed_are_not_asked_for(api: GoHighLevelApi, context: ToolContext) -> None:
    found = await run(context, "get_free_slots", startDate="2026-11-18", endDate="2026-11-19", timezone="UTC")
    assert found == {"2026-11-18": {"slots": []}, "2026-11-19": {"slots": []}}
    assert api.requests == []


async def test_an_appointment_is_made_and_a_taken_slot_refused(api: GoHighLevelApi, context: ToolContext) -> None:
    made = await run(context, "create_appointment", **BOOKING)
    assert made == {
        "id": "apt0", "calendarId": CALENDAR, "contactId": MARIA, "startTime": "2026-11-21T10:00:00-08:00",
        "endTime": "2026-11-21T10:30:00-08:00", "title": "Test ride", "appointmentStatus": "confirmed",
    }  # fmt: skip
    assert (await refused("create_appointment", BOOKING, context))[:2] == ("SLOT_TAKEN", 409)


async def test_deals_are_made_and_closed(api: GoHighLevelApi, context: ToolContext) -> None:
    made = await run(context, "create_opportunity", contactId=MARIA, name="Gravel bike", monetaryValue=2200)
    assert (made["id"], made["pipelineId"], made["status"], made["monetaryValue"]) == ("opp0", PIPELINE, "open", 2200.0)
    lost = await run(context, "update_opportunity_status", opportunityId="opp0", status="lost", lostReason="r1")
    assert (lost["status"], lost["lostReason"], lost["id"]) == ("lost", "r1", "opp0")
    raw = {"opportunityId": "nope", "status": "won"}
    assert (await refused("update_opportunity_status", raw, context))[:2] == ("NOT_FOUND", 404)


async def test_the_location_is_its_location(context: ToolContext) -> None:
    found = await run(context, "get_location")
    assert (found["id"], found["timezone"], found["postalCode"]) == (LOCATION, "America/Los_Angeles", "94105")


async def test_who_is_not_to_be_disturbed_is_not_texted(api: GoHighLevelApi, context: ToolContext) -> None:
    hello = {"contactId": MARIA, "message": "Hello"}
    assert (await tools.run("send_sms", hello, context)).events, "by Twilio, not by GoHighLevel"
    assert not [path for _, path, _ in api.requests if "conversations" in path]
    api.contacts[MARIA]["dndSettings"]["SMS"]["status"] = "active"
    assert (await refused("send_sms", hello, context))[0] == "OPTED_OUT"
    api.contacts[MARIA] |= {"dndSettings": {}, "dnd": True}
    assert (await refused("send_sms", hello, context))[0] == "OPTED_OUT"


@pytest.mark.parametrize("contact", ["nobody", "../locations/x", "a b?c#d"])
async def test_an_id_that_it_never_made_is_nobody(context: ToolContext, contact: str) -> None:
    assert (await refused("send_sms", {"contactId": contact, "message": "Hi"}, context))[0] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("tool", "raw", "path", "name"),
    [
        (
            "search_contacts", {"query": "maria", "phone": "+14155552671"}, "/contacts/search",
            "contacts_search_request",
        ),
        (
            "create_appointment", {**BOOKING, "endTime": "2026-11-21T18:30:00Z"}, "/calendars/events/appointments",
            "appointment_create_request",
        ),
        (
            "create_opportunity",
            {
                "contactId": MARIA, "name": "Maria Ruiz - gravel bike", "monetaryValue": 2200,
                "stageId": "7915dedc-8f18-44d5-8bc3-77c04e994a10",
            },
            "/opportunities/", "opportunity_create_request",
        ),
    ],
)  # fmt: skip
async def test_requests_say_what_its_documented_samples_say(
    api: GoHighLevelApi, context: ToolContext, tool: str, raw: dict[str, Any], path: str, name: str
) -> None:
    await run(context, tool, **raw)
    [sent] = api.asked("POST", path)
    assert sent.items() <= sample(name).items()


# What goes wrong


async def test_a_call_waits_for_the_limit_to_open_again(api: GoHighLevelApi, context: ToolContext) -> None:
    api.next("too_many", "too_many")
    assert (await run(context, "get_contact_by_phone", phone="+14155552671"))["id"] == MARIA
    assert len(api.requests) == 3


async def test_a_limit_that_stays_shut_is_told(api: GoHighLevelApi, context: ToolContext) -> None:
    api.interval_ms = 16_000
    api.next("too_many")
    assert (await refused("get_location", {}, context))[:2] == ("RATE_LIMITED", 429)
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "code", "status", "says"),
    [
        ("unavailable", "UPSTREAM_ERROR", 502, "status 503"),
        ("not_json", "UPSTREAM_ERROR", 502, "status 200"),
        ("drop", "UPSTREAM_ERROR", 502, "unknown whether"),
        ("bad_request", "UPSTREAM_REJECTED", 422, "GoHighLevel: Bad Request by …"),
        ("invalid", "UPSTREAM_REJECTED", 422, "name must be a string; email must be an email"),
    ],
)
async def test_failures_are_told_without_secrets_and_not_repeated(
    api: GoHighLevelApi, context: ToolContext, behaviour: Any, code: str, status: int, says: str
) -> None:
    api.next(behaviour)
    raw = {"contactId": MARIA, "name": "Gravel bike"}
    found, found_status, message = await refused("create_opportunity", raw, context)
    assert (found, found_status) == (code, status)
    assert says in message
    assert TOKEN not in message
    assert len(api.requests) == 1


async def test_a_wrong_token_is_the_organizations_mistake_not_the_callers(
    store: Store, api: GoHighLevelApi, connections: Connections
) -> None:
    stranger = GoHighLevel(LeadConnector(Account("pit-wrong", LOCATION, base_url=api.url), connections))
    context = context_of(store, embedded(store), backend=stranger)
    code, status, message = await refused("get_location", {}, context)
    assert (code, status) == ("UPSTREAM_UNAUTHORIZED", 502)
    assert "pit-wrong" not in message


async def test_nobody_there_and_nobody_answering(store: Store, api: GoHighLevelApi, connections: Connections) -> None:
    nobody = GoHighLevel(LeadConnector(Account(TOKEN, LOCATION, base_url="http://127.0.0.1:1"), connections))
    context = context_of(store, embedded(store), backend=nobody)
    assert (await refused("get_location", {}, context))[0] == "UPSTREAM_UNREACHABLE"
    hasty = Connections(timeout_s=0.2)
    silent = GoHighLevel(LeadConnector(Account(TOKEN, LOCATION, base_url=api.url), hasty))
    api.next("hang")
    slow = await refused("get_location", {}, context_of(store, embedded(store), backend=silent))
    await hasty.close()
    assert slow == ("UPSTREAM_TIMEOUT", 504, "GoHighLevel did not answer in time")


@pytest.mark.parametrize(
    ("tool", "raw", "count"),
    [
        ("create_appointment", IN_ZONE, lambda api: len(api.appointments)),
        ("create_opportunity", {"contactId": MARIA, "name": "Gravel bike"}, lambda api: len(api.opportunities)),
    ],
)
async def test_what_a_lost_attempt_made_is_found_by_the_next(
    store: Store, api: GoHighLevelApi, crm: GoHighLevel, tool: str, raw: dict[str, Any], count: Callable[[Any], int]
) -> None:
    context = context_of(store, embedded(store), backend=crm, now=NOW)
    lost = "/calendars/events/appointments" if tool == "create_appointment" else "/opportunities/"
    api.next("take_and_drop")
    assert (await refused(tool, raw, context))[0] == "UPSTREAM_ERROR"
    again = context_of(store, embedded(store), backend=crm, now=NOW, is_repeated=True)
    assert again.origin("x") == Origin(again.new_id("x"), "tool:test", again.run, again.cause, True)
    assert (await run(again, tool, **raw))["contactId"] == MARIA
    assert (count(api), len(api.asked("POST", lost))) == (1, 1)


async def test_ids_that_nobody_configured_are_asked_for(
    store: Store, api: GoHighLevelApi, connections: Connections
) -> None:
    bare = GoHighLevel(LeadConnector(Account(TOKEN, LOCATION, base_url=api.url), connections))
    context = context_of(store, embedded(store), backend=bare, now=NOW)
    days = {"startDate": "2026-11-21", "endDate": "2026-11-22"}
    assert "calendarId is required" in (await refused("get_free_slots", days, context))[2]
    assert (
        "pipelineId is required" in (await refused("create_opportunity", {"contactId": "x", "name": "y"}, context))[2]
    )
    assert len(await run(context, "get_free_slots", **days, calendarId=CALENDAR)) == 2


async def test_each_organization_has_the_backend_that_its_settings_name(
    store: Store, api: GoHighLevelApi, connections: Connections
) -> None:
    settings = {
        "acme": ProviderSettings(ghl_api_token=TOKEN, ghl_location_id=LOCATION, ghl_base_url=api.url),
        "half": ProviderSettings(ghl_api_token=TOKEN),
        "none": ProviderSettings(),
    }

    async def providers(org: OrgId) -> ProviderSettings:
        return settings[org]

    choose = backend(providers, connections)
    chosen = [await choose(OrgId(name)) for name in settings]
    assert [crm is not None for crm in chosen] == [True, False, False]
    assert chosen[0] is not None
    assert (await chosen[0].location(ACME)).id == LOCATION


async def test_stop_counts_whatever_the_backend_knows(store: Store, api: GoHighLevelApi, crm: GoHighLevel) -> None:
    own = embedded(store)
    await store.write(Event(ContactOptedOut(phone="+14155552671"), "customer"))
    context = context_of(store, own, backend=crm)
    assert (await refused("send_sms", {"contactId": MARIA, "message": "Hi"}, context))[0] == "OPTED_OUT"

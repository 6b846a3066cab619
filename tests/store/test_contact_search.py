"""Contacts are found the way people look for them."""

from __future__ import annotations

import pytest

from eventstore.events.contacts import ContactCreated, ContactOptedIn, ContactOptedOut, ContactUpdated
from eventstore.read_models import ReadModels
from eventstore.schema import Event
from projections import contacts
from projections.contact_search import CANDIDATES, ContactQuery, Found, search
from projections.contacts import CONTACTS
from projections.engine import Engine
from tests.support.store import ACME, Store

PEOPLE = (
    ContactCreated(
        contact_id="john", first_name="John", last_name="Doe", phone="+1234567890", email="john@example.com",
        tags=["vip", "lead"],
    ),
    ContactCreated(
        contact_id="jonas", first_name="Jonas", last_name="Weber", phone="+4930901820", email="jw@example.org",
        tags=["lead"],
    ),
    ContactCreated(
        contact_id="jose", first_name="José", last_name="van der Meer", phone="+31201234567", tags=["Big Customer"],
    ),
    ContactCreated(contact_id="maria", first_name="Maria", last_name="Ruiz", email="maria.ruiz@shop.example.net"),
    ContactCreated(contact_id="john2", first_name="Johnathan", last_name="Dorsey", phone="+14155552671"),
)  # fmt: skip


@pytest.fixture
async def engine(store: Store) -> Engine:
    for body in PEOPLE:
        store.clock.advance(1_000)
        await store.write(Event(body, "system:test"))
    return Engine(store.log, ReadModels(store.pipe))


async def find(engine: Engine, query: ContactQuery) -> Found:
    return await search(await engine.level(ACME, CONTACTS), query)


async def ids(engine: Engine, text: str = "", *, tags: tuple[str, ...] = (), limit: int = 20) -> list[str]:
    found = await find(engine, ContactQuery(text=text, tags=tags, limit=limit))
    return [contact.id for contact in found.contacts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("john", ["john", "john2"]),  # the whole word before its beginning
        ("JOHN doe", ["john"]),
        ("doe, john", ["john"]),
        ("joh", ["john", "john2"]),
        ("do", ["john", "john2"]),
        ("jose", ["jose"]),
        ("JOSÉ", ["jose"]),
        ("vandermeer", ["jose"]),
        ("josevandermeer", ["jose"]),
        ("meer", ["jose"]),
        ("john@example.com", ["john"]),
        ("example.net", ["maria"]),
        ("ruiz@", ["maria"]),
        ("shop", ["maria"]),
        ("vip", ["john"]),
        ("big customer", ["jose"]),
        ("zzzz", []),
        ("...", []),
        (" ", ["john", "jonas", "jose", "maria", "john2"]),
    ],
)
async def test_words_are_found_by_their_beginning(engine: Engine, text: str, expected: list[str]) -> None:
    assert await ids(engine, text) == expected


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("jonh", "john"),
        ("jhon", "john"),
        ("ojhn", "john"),
        ("jonh doe", "john"),
        ("jonh deo", "john"),
        ("johm", "john"),
        ("wbeer", "jonas"),
        ("marai", "maria"),
        ("johnatan", "john2"),
        ("jonathan", "john2"),
    ],
)
async def test_typos_are_forgiven(engine: Engine, text: str, first: str) -> None:
    assert (await ids(engine, text))[0] == first


async def test_a_typo_does_not_make_everybody_similar(engine: Engine) -> None:
    assert "maria" not in await ids(engine, "jonh")
    assert await ids(engine, "xy") == []


@pytest.mark.parametrize("text", ["+14155552671", "(415) 555-2671", "5552671", "2671", "1 415 555", "0014155552671"])
async def test_a_phone_number_is_found_by_any_of_its_ends(engine: Engine, text: str) -> None:
    assert await ids(engine, text) == ["john2"]


async def test_a_wrong_digit_is_another_number(engine: Engine) -> None:
    assert await ids(engine, "4155552672") == []


async def test_filters_are_exact_and_must_all_hold(engine: Engine) -> None:
    assert await ids(engine, tags=("lead",)) == ["john", "jonas"]
    assert await ids(engine, tags=("lead", "VIP")) == ["john"]
    assert await ids(engine, tags=("le",)) == []
    assert await ids(engine, "jonas", tags=("vip",)) == []
    found = await find(engine, ContactQuery(phone="+1234567890"))
    assert [contact.id for contact in found.contacts] == ["john"]
    found = await find(engine, ContactQuery(email="John@Example.com", phone="+1234567890"))
    assert found.total == 1
    assert (await find(engine, ContactQuery(email="jw@example.org", phone="+1234567890"))).total == 0


async def test_total_counts_what_the_limit_leaves_out(engine: Engine) -> None:
    everybody = await find(engine, ContactQuery(limit=2))
    assert ([contact.id for contact in everybody.contacts], everybody.total) == (["john", "jonas"], 5)
    some = await find(engine, ContactQuery(text="jo", limit=1))
    assert (len(some.contacts), some.total) == (1, 4)


async def test_a_changed_contact_is_found_by_what_it_is_now(store: Store, engine: Engine) -> None:
    changed = ContactUpdated(contact_id="john", first_name="Juan", phone="+14155550000", tags=["gone"])
    await store.write(Event(changed, "agent:7"))
    assert await ids(engine, "john doe") == ["john"], "the email still says so"
    assert await ids(engine, "juan") == ["john"]
    assert await ids(engine, tags=("vip",)) == []
    model = await engine.level(ACME, CONTACTS)
    assert await contacts.by_phone(model, "+1234567890") is None
    moved = await contacts.by_phone(model, "+14155550000")
    assert moved is not None
    assert (moved.id, moved.last_name) == ("john", "Doe")
    assert moved.updated_at > moved.created_at


async def test_of_two_contacts_with_one_number_the_older_is_meant(store: Store, engine: Engine) -> None:
    await store.write(Event(ContactUpdated(contact_id="maria", phone="+1234567890"), "agent:7"))
    contact = await contacts.by_phone(await engine.level(ACME, CONTACTS), "+1234567890")
    assert contact is not None
    assert contact.id == "john"


async def test_a_number_can_opt_out_and_in_again(store: Store, engine: Engine) -> None:
    phone = "+19995550000"
    await store.write(Event(ContactOptedOut(phone=phone), "customer"))
    assert await contacts.is_opted_out(await engine.level(ACME, CONTACTS), phone)
    assert await ids(engine, "9995550000") == [], "an opt-out is no contact"
    await store.write(Event(ContactOptedIn(phone=phone), "customer"))
    assert not await contacts.is_opted_out(await engine.level(ACME, CONTACTS), phone)


async def test_a_typo_is_found_among_thousands(store: Store, engine: Engine) -> None:
    syllables = ["ja", "jo", "ju", "mar", "ben", "tol", "rik", "san", "del", "wen"]
    crowd = [
        ContactCreated(
            contact_id=f"p{a}{b}{c}",
            first_name=syllables[a] + syllables[b],
            last_name=syllables[c] + "son",
            tags=["crowd", "crowded"],
        )
        for a in range(10)
        for b in range(10)
        for c in range(10)
    ]
    for start in range(0, len(crowd), 500):
        await store.write(*(Event(body, "system:test") for body in crowd[start : start + 500]))
    assert (await ids(engine, "jonh doe"))[0] == "john"
    assert (await ids(engine, "mraia ruiz"))[0] == "maria"
    found = await find(engine, ContactQuery(text="cro", limit=500))
    assert (len(found.contacts), found.total) == (CANDIDATES, 1_000)
    assert await ids(engine, "cro ruiz") == [], "Maria is not in the crowd"
    await store.write(Event(ContactUpdated(contact_id="maria", tags=["crowd"]), "agent:7"))
    assert await ids(engine, "cro ruiz") == ["maria"], "one word of the query matches more than is read"

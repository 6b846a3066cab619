"""The tools that can be called, as edges and workers both know them: names, effects, and what arguments they take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails, core_schema

from projections import phones

MAX_SMS = 1_600
"""Twilio's limit of one message."""
MAX_RESULTS = 500

_EMAIL = re.compile(r"[^@\s\0]+@[^@\s\0]+\.[^@\s\0]+")


def _phone(text: str, info: ValidationInfo) -> str:
    region = (info.context or {}).get("region", phones.DEFAULT_REGION)
    try:
        return phones.e164(text, region)
    except ValueError:
        raise ValueError("not a phone number") from None


def _email(text: str) -> str:
    email = text.strip().lower()
    if not _EMAIL.fullmatch(email):
        raise ValueError("not an email address")
    return email


def _split_tags(value: Any) -> Any:
    """`a,b`, `["a", "b"]`, or a parameter given twice, with `a,b` in either."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(tag, str) for tag in given):
        return value
    return list(dict.fromkeys(tag.strip() for text in given for tag in text.split(",") if tag.strip()))


PhoneNumber = Annotated[str, Field(max_length=64), AfterValidator(_phone)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_email)]
Name = Annotated[str, Field(max_length=100), AfterValidator(str.strip)]
Tags = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=50), BeforeValidator(_split_tags)]


class Arguments(BaseModel):
    """Arguments by their camelCase names, from JSON or a query string: numbers may be text and the other way round,
    empty means absent, and what no tool knows is ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, coerce_numbers_to_str=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, raw: Any) -> Any:
        return {name: v for name, v in raw.items() if v not in ("", None)} if isinstance(raw, Mapping) else raw


class SearchContacts(Arguments):
    query: str = Field("", max_length=200, description="Part of a name, email, phone number or tag; typos are forgiven")
    phone: PhoneNumber | None = Field(None, description="Exact phone number")
    email: Email | None = Field(None, description="Exact email address")
    tags: Tags = Field([], description="Tags that the contact must all have")
    limit: int = Field(20, ge=1, le=MAX_RESULTS, description="How many contacts to return at most")


class GetContactByPhone(Arguments):
    phone: PhoneNumber = Field(description="Phone number, best in international form: +14155552671")


class CreateContact(Arguments):
    first_name: Name = ""
    last_name: Name = ""
    name: Annotated[str, Field(max_length=200), AfterValidator(str.strip)] = Field(
        "", description="Full name, where first and last name are not known apart"
    )
    phone: PhoneNumber | None = Field(None, description="Phone number; phone or email is required")
    email: Email | None = Field(None, description="Email address; phone or email is required")
    tags: Tags = []
    source: str | None = Field(None, max_length=100, description="Where the contact came from")

    @model_validator(mode="after")
    def _can_be_reached(self) -> CreateContact:
        if not self.phone and not self.email:
            raise ValueError("phone or email is required")
        return self

    @property
    def names(self) -> tuple[str, str]:
        """First and last name; a full name is divided at its first space."""
        if self.first_name or self.last_name:
            return self.first_name, self.last_name
        first, _, last = self.name.partition(" ")
        return first, last.strip()


class SendSms(Arguments):
    contact_id: str | None = Field(None, max_length=100, description="Whom to text; contactId or phone is required")
    phone: PhoneNumber | None = Field(None, description="The number to text; goes before contactId")
    message: str = Field(min_length=1, max_length=MAX_SMS, description="The text of the message")

    @model_validator(mode="after")
    def _has_a_recipient(self) -> SendSms:
        if not self.phone and not self.contact_id:
            raise ValueError("contactId or phone is required")
        if not self.message.strip():
            raise ValueError("message is empty")
        return self


class GetLocation(Arguments):
    """None."""


class ToolSpec(NamedTuple):
    """`effect` write: repeating a call may be seen by a customer."""

    name: str
    description: str
    effect: Literal["read", "write"]
    arguments: type[Arguments]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments, as models and clients are told."""
        schema = self.arguments.model_json_schema(schema_generator=_PlainSchema)
        return {name: value for name, value in schema.items() if name not in ("title", "description")}


SEARCH_CONTACTS = ToolSpec(
    "search_contacts", "Find contacts by part of a name, phone number, email or tag", "read", SearchContacts
)
GET_CONTACT_BY_PHONE = ToolSpec("get_contact_by_phone", "Look up a contact by phone number", "read", GetContactByPhone)
CREATE_CONTACT = ToolSpec(
    "create_contact",
    "Create a contact; one that exists with the same phone number or email is returned instead",
    "write",
    CreateContact,
)
SEND_SMS = ToolSpec("send_sms", "Send a text message to a contact or a phone number", "write", SendSms)
GET_LOCATION = ToolSpec("get_location", "Tell the business's name, address, time zone and phone", "read", GetLocation)

TOOL_SPECS: tuple[ToolSpec, ...] = (SEARCH_CONTACTS, GET_CONTACT_BY_PHONE, CREATE_CONTACT, SEND_SMS, GET_LOCATION)


def find(name: str) -> ToolSpec | None:
    return next((spec for spec in TOOL_SPECS if spec.name == name), None)


class Faulty(NamedTuple):
    """What is wrong with arguments, one sentence each, for people."""

    faults: list[str]


def parse(spec: ToolSpec, raw: Mapping[str, Any], region: str = phones.DEFAULT_REGION) -> Arguments | Faulty:
    """The checked arguments. Phone numbers without + are national numbers of `region`."""
    try:
        return spec.arguments.model_validate(raw, context={"region": region})
    except ValidationError as error:
        return Faulty([_fault(raw, fault) for fault in error.errors(include_url=False)])


def validate(spec: ToolSpec, raw: Mapping[str, Any], region: str = phones.DEFAULT_REGION) -> list[str]:
    """What is wrong with the arguments; nothing if they can be used."""
    checked = parse(spec, raw, region)
    return checked.faults if isinstance(checked, Faulty) else []


def _fault(raw: Mapping[str, Any], fault: ErrorDetails) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{place} is required"
    message = fault["msg"].removeprefix("Value error, ")
    if not place:
        return message
    return f"{place}: {message}, got {str(raw.get(str(fault['loc'][0])))[:80]!r}"


class _PlainSchema(GenerateJsonSchema):
    """Without titles and without null: an optional argument is one that may be left out."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") in (None, "", []):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

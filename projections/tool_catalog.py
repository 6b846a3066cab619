"""The tools that can be called, as edges and workers both know them: names, effects, and what arguments they take."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails, core_schema

from projections import phones
from projections.tool_arguments import (
    Arguments,
    Borrower,
    CreateAppointment,
    CreateContact,
    CreateOpportunity,
    GetContactByPhone,
    GetFreeSlots,
    GetLocation,
    SearchContacts,
    SendEmail,
    SendSms,
    UnderwriteLoan,
    UpdateOpportunityStatus,
    VerifyKyc,
)


class ToolSpec(NamedTuple):
    """`effect` write: repeating a call may be seen by a customer."""

    name: str
    description: str
    effect: Literal["read", "write"]
    arguments: type[Arguments]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments, as models and clients are told; not to be changed."""
        return _schema_of(self.arguments)


@cache
def _schema_of(arguments: type[Arguments]) -> dict[str, Any]:
    """Once: making one takes as long as a hundred tokens of an answer."""
    schema = arguments.model_json_schema(schema_generator=_PlainSchema)
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


TOOL_SPECS = (
    ToolSpec("search_contacts", "Find contacts by part of a name, phone number, email or tag", "read", SearchContacts),
    ToolSpec("get_contact_by_phone", "Look up a contact by phone number", "read", GetContactByPhone),
    ToolSpec(
        "create_contact",
        "Create a contact; one that exists with the same phone number or email is returned instead",
        "write",
        CreateContact,
    ),
    ToolSpec("send_sms", "Send a text message to a contact or a phone number", "write", SendSms),
    ToolSpec("send_email", "Send an email to a contact or an address", "write", SendEmail),
    ToolSpec("get_free_slots", "List the free slots of a calendar, day by day", "read", GetFreeSlots),
    ToolSpec("create_appointment", "Book a free slot for a contact", "write", CreateAppointment),
    ToolSpec("create_opportunity", "Create a sales opportunity for a contact", "write", CreateOpportunity),
    ToolSpec("update_opportunity_status", "Say what became of a sales opportunity", "write", UpdateOpportunityStatus),
    ToolSpec("get_location", "Tell the business's name, address, time zone and phone", "read", GetLocation),
    ToolSpec(
        "fetch_preapproved_offer", "Tell up to what amount a loan is pre-approved for a contact", "read", Borrower
    ),
    ToolSpec(
        "verify_kyc", "Check a contact's identity record, and what the customer states against it", "write", VerifyKyc
    ),
    ToolSpec(
        "get_credit_score", "Compute a contact's credit score (300-900) from the recorded history", "read", Borrower
    ),
    ToolSpec("underwrite_loan", "Decide on a loan by the lending rules", "write", UnderwriteLoan),
    ToolSpec("generate_sanction_letter", "Write the sanction letter for a contact's approved loan", "write", Borrower),
)


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

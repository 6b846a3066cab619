"""What arguments each tool takes: checked alike before a call is accepted and when it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel

from eventstore.events.opportunities import Status
from projections import moments, phones

MAX_SMS = 1_600
"""Twilio's limit of one message."""
MAX_RESULTS = 500
MAX_EMAIL = 200_000
"""Characters of one body: more is an attachment in disguise."""
MAX_LOAN = 10_000_000
MAX_TENURE_MONTHS = 84

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


def _moment(text: str) -> str:
    moments.parse(text)
    return text


def _zone(name: str) -> str:
    return moments.zone(name).key


def _iso_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("not a date (expected YYYY-MM-DD)") from None


def _one_line(text: str) -> str:
    """A subject is a header: a line break in it would begin another one."""
    return " ".join(text.split())


PhoneNumber = Annotated[str, Field(max_length=64), AfterValidator(_phone)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_email)]
Name = Annotated[str, Field(max_length=100), AfterValidator(str.strip)]
Id = Annotated[str, Field(max_length=100)]
Moment = Annotated[str, Field(max_length=40), AfterValidator(_moment)]
TimeZone = Annotated[str, Field(max_length=64), AfterValidator(_zone)]
Tags = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=50), BeforeValidator(_split_tags)]


class Arguments(BaseModel):
    """Arguments by their camelCase names, from JSON or a query string: numbers may be text and the other way round,
    empty means absent, and what no tool knows is ignored."""

    model_config = ConfigDict(
        defer_build=True,  # fifteen models: a tenth of a second of every start
        alias_generator=to_camel,
        coerce_numbers_to_str=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
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


class SendEmail(Arguments):
    contact_id: Id | None = Field(None, description="Whom to write to; contactId or email is required")
    email: Email | None = Field(None, description="The address to write to; goes before contactId")
    subject: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_one_line)
    ]
    message: str | None = Field(None, max_length=MAX_EMAIL, description="Plain text; message or html is required")
    html: str | None = Field(
        None, max_length=MAX_EMAIL, description="HTML; sent beside the plain text, if both are given"
    )

    @model_validator(mode="after")
    def _is_complete(self) -> SendEmail:
        if not self.email and not self.contact_id:
            raise ValueError("contactId or email is required")
        if not (self.message or "").strip() and not (self.html or "").strip():
            raise ValueError("message or html is required")
        return self


_WHEN = "an ISO date, an RFC 3339 time or epoch milliseconds"


class GetFreeSlots(Arguments):
    calendar_id: Id | None = Field(None, description="Which calendar; the default one if left out")
    start_date: Moment = Field(description=f"The first day or time: {_WHEN}")
    end_date: Moment = Field(description=f"The last day, or the time until which: {_WHEN}; at most 31 days later")
    timezone: TimeZone | None = Field(None, description="Time zone of the answer, like Europe/Berlin")


class CreateAppointment(Arguments):
    contact_id: Id
    start_time: Moment = Field(description="RFC 3339 time, best one that get_free_slots gave, or epoch milliseconds")
    end_time: Moment | None = Field(None, description="One slot later if left out")
    calendar_id: Id | None = Field(None, description="Which calendar; the default one if left out")
    title: Annotated[str, Field(max_length=200), AfterValidator(str.strip)] = ""
    timezone: TimeZone | None = Field(None, description="Time zone of times without offset, and of the answer")


class CreateOpportunity(Arguments):
    contact_id: Id
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    pipeline_id: Id | None = Field(None, description="Which pipeline; the default one if left out")
    stage_id: Id | None = Field(None, description="Which stage; the first one if left out")
    monetary_value: float = Field(0.0, ge=0, le=1e12, allow_inf_nan=False)


class UpdateOpportunityStatus(Arguments):
    opportunity_id: Id
    status: Status
    lost_reason: str | None = Field(
        None, max_length=200, description="Why it was lost; with GoHighLevel the id of one of its lost reasons"
    )


class Borrower(Arguments):
    """Whose loan it is about."""

    contact_id: Id | None = Field(None, description="The contact; contactId or phone is required")
    phone: PhoneNumber | None = Field(None, description="The contact's phone number; goes before contactId")

    @model_validator(mode="after")
    def _is_somebody(self) -> Self:
        if not self.phone and not self.contact_id:
            raise ValueError("contactId or phone is required")
        return self


class VerifyKyc(Borrower):
    date_of_birth: Annotated[str, Field(max_length=10), AfterValidator(_iso_date)] | None = Field(
        None, description="As the customer states it, YYYY-MM-DD"
    )
    id_number: str | None = Field(
        None, max_length=64, description="Of the identity document, as the customer states it"
    )


class UnderwriteLoan(Borrower):
    amount: float = Field(gt=0, le=MAX_LOAN, allow_inf_nan=False)
    tenure_months: int = Field(ge=6, le=MAX_TENURE_MONTHS, description="Monthly instalments")
    monthly_income: float | None = Field(
        None, gt=0, le=MAX_LOAN, allow_inf_nan=False, description="As a salary slip proves it, if the customer sent one"
    )


class GetLocation(Arguments):
    """None."""

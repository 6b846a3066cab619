"""Phone numbers as people and providers write them, as E.164.

Normalised, not judged: the documents' own example +1234567890 is not a possible number, and a number that a carrier
delivered must not be lost because a table does not know it.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

DEFAULT_REGION = "US"

Channel = Literal["sms", "whatsapp"]
_CHANNELS: tuple[Channel, ...] = ("sms", "whatsapp")
_INTERNATIONAL = re.compile(r"\+[\d\s().\-]+")
_SHORTEST, _LONGEST = 7, 15


class Phone(NamedTuple):
    """`channel` is the prefix the number came with (`whatsapp:+1…`), None without one."""

    e164: str
    channel: Channel | None = None


def parse(text: str, region: str = DEFAULT_REGION) -> Phone:
    """Reads a number; one without + is a national number of `region` (ISO 3166, two letters).

    A leading space gets its + back: `?phone=+1555` arrives as ` 1555`. Raises ValueError, with the text, for what
    holds no number at all.
    """
    prefix, colon, rest = text.lstrip().partition(":")
    channel = next((known for known in _CHANNELS if colon and prefix.lower() == known), None)
    return Phone(_e164(rest if channel else text, region), channel)


def e164(text: str, region: str = DEFAULT_REGION) -> str:
    """The number alone, whatever channel it came by."""
    return parse(text, region).e164


def address(number: str) -> str:
    """The address of a customer's conversation: SMS, WhatsApp and voice of one number are one conversation."""
    return f"tel:{number}"


def _e164(text: str, region: str) -> str:
    import phonenumbers  # its tables are only read by who has a number

    number = text.strip()
    if text[:1] == " " and number[:1].isdigit():
        number = f"+{number}"
    if number.startswith("00") and not phonenumbers.is_possible_number_string(number, region):
        number = f"+{number[2:]}"  # how most of the world calls abroad
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        digits = re.sub(r"\D", "", number)
        if _INTERNATIONAL.fullmatch(number) and _SHORTEST <= len(digits) <= _LONGEST:
            return f"+{digits}"  # a country code the library does not know
        raise ValueError(f"not a phone number: {text[:40]!r}") from None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)

"""Phone numbers are normalised however they are written, and refused only if they are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections import phones
from projections.phones import Phone


@pytest.mark.parametrize(
    ("text", "e164"),
    [
        ("+14155552671", "+14155552671"),
        ("(415) 555-2671", "+14155552671"),
        ("415.555.2671", "+14155552671"),
        ("+1 415 555 2671 ext. 5", "+14155552671"),
        ("tel:+14155552671", "+14155552671"),
        ("1-800-FLOWERS", "+18003569377"),
        ("+49 (0)30 901820", "+4930901820"),
        ("+390612345678", "+390612345678"),
        ("0044 20 7946 0958", "+442079460958"),
        ("011 44 20 7946 0958", "+442079460958"),
    ],
)
def test_every_way_to_write_a_number_gives_the_same_e164(text: str, e164: str) -> None:
    assert phones.parse(text) == Phone(e164)


def test_a_plus_that_a_query_string_turned_into_a_space_comes_back() -> None:
    assert phones.e164(" 14155552671") == "+14155552671"
    assert phones.e164(" 442079460958") == "+442079460958"
    assert phones.parse("whatsapp: 14155552671") == Phone("+14155552671", "whatsapp")


@pytest.mark.parametrize("text", ["+1234567890", "+15005550006", "+1555", "+999123456789"])
def test_implausible_numbers_are_normalised_not_refused(text: str) -> None:
    assert phones.e164(text) == text


def test_numbers_of_an_unknown_country_lose_their_punctuation() -> None:
    assert phones.e164("+999 (12) 345-6789") == "+999123456789"


@pytest.mark.parametrize(("prefix", "channel"), [("whatsapp:", "whatsapp"), ("sms:", "sms"), ("WhatsApp:", "whatsapp")])
def test_the_channel_is_split_off(prefix: str, channel: phones.Channel) -> None:
    assert phones.parse(f"{prefix}+14155552671") == Phone("+14155552671", channel)


def test_a_number_without_plus_belongs_to_the_region() -> None:
    assert phones.e164("030 901820", "DE") == "+4930901820"
    assert phones.e164("020 7946 0958", "GB") == "+442079460958"


@pytest.mark.parametrize("text", ["", " ", "+", "hello", "client:anna", "sip:anna@example.com", "+99", "9" * 300])
def test_what_holds_no_number_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="not a phone number") as caught:
        phones.parse(text)
    assert repr(text[:40]) in str(caught.value)


@given(st.text(alphabet="+0123456789 ()-.x:swmhatp", max_size=24))
def test_what_is_accepted_is_plus_and_digits(text: str) -> None:
    try:
        number = phones.e164(text)
    except ValueError:
        return
    assert number[0] == "+"
    assert number[1:].isdigit()


def test_one_number_has_one_address() -> None:
    assert phones.address(phones.e164("whatsapp:+14155552671")) == phones.address(phones.e164("(415) 555-2671"))

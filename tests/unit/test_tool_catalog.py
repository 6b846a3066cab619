"""Tools are declared once, checked the same everywhere, and each has exactly one function."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import msgspec
import pytest

import workers.tools
from projections import tool_catalog
from projections.tool_arguments import Arguments, CreateContact, SearchContacts, SendSms
from projections.tool_catalog import TOOL_SPECS, Faulty, ToolSpec
from workers.tools import TOOLS, Run

SPECS = {spec.name: spec for spec in TOOL_SPECS}
SEARCH_CONTACTS, GET_CONTACT_BY_PHONE = SPECS["search_contacts"], SPECS["get_contact_by_phone"]
CREATE_CONTACT, CREATE_OPPORTUNITY = SPECS["create_contact"], SPECS["create_opportunity"]
SEND_SMS, SEND_EMAIL = SPECS["send_sms"], SPECS["send_email"]


def accepted(spec: ToolSpec, raw: dict[str, Any]) -> Arguments:
    checked = tool_catalog.parse(spec, raw)
    assert not isinstance(checked, Faulty), checked
    return checked


def test_every_declared_tool_has_a_function_and_the_other_way_round() -> None:
    assert [run.__name__ for run in TOOLS] == [spec.name for spec in TOOL_SPECS]
    assert len({spec.name for spec in TOOL_SPECS}) == len(TOOL_SPECS)


def test_no_function_in_the_tools_folder_is_missing_from_the_tuple() -> None:
    modules = [importlib.import_module(f"workers.tools.{module.name}") for module in _modules()]
    functions = {
        function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert functions == set(TOOLS)


def _modules() -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(workers.tools.__path__))


@pytest.mark.parametrize("run", TOOLS, ids=lambda run: run.__name__)
def test_a_function_takes_the_arguments_that_its_spec_declares(run: Run) -> None:
    first = next(iter(inspect.signature(run, eval_str=True).parameters.values()))
    assert first.annotation is SPECS[run.__name__].arguments


def test_arguments_of_a_query_string_are_text() -> None:
    arguments = accepted(SEARCH_CONTACTS, {"query": "john", "phone": " 14155552671", "tags": "vip, lead", "limit": "5"})
    assert arguments == SearchContacts(query="john", phone="+14155552671", tags=["vip", "lead"], limit=5)


def test_tags_may_be_repeated_or_a_list() -> None:
    assert accepted(SEARCH_CONTACTS, {"tags": ["a,b", "c", "a"]}) == SearchContacts(tags=["a", "b", "c"])


def test_empty_and_unknown_arguments_are_ignored() -> None:
    raw = {"query": "", "phone": "", "email": None, "tags": "", "limit": "", "colour": "red"}
    assert accepted(SEARCH_CONTACTS, raw) == SearchContacts()


def test_names_are_camel_case_and_a_phone_may_be_a_json_number() -> None:
    arguments = accepted(CREATE_CONTACT, {"firstName": "Ann", "lastName": "Lee", "phone": 14155552671})
    assert isinstance(arguments, CreateContact)
    assert (arguments.names, arguments.phone) == (("Ann", "Lee"), "+14155552671")


def test_a_full_name_is_divided_at_its_first_space() -> None:
    arguments = accepted(CREATE_CONTACT, {"name": " Ludwig van Beethoven ", "email": " Ludwig@Example.com "})
    assert isinstance(arguments, CreateContact)
    assert (arguments.names, arguments.email) == (("Ludwig", "van Beethoven"), "ludwig@example.com")


def test_phone_numbers_without_plus_are_of_the_given_region() -> None:
    checked = tool_catalog.parse(SEND_SMS, {"phone": "030 901820", "message": "Hallo"}, region="DE")
    assert isinstance(checked, SendSms)
    assert checked.phone == "+4930901820"


@pytest.mark.parametrize(
    ("spec", "raw", "fault"),
    [
        (SEARCH_CONTACTS, {"limit": "abc"}, "limit: .*got 'abc'"),
        (SEARCH_CONTACTS, {"limit": 0}, "limit: .*greater than or equal to 1, got '0'"),
        (SEARCH_CONTACTS, {"tags": 7}, "tags: .*got '7'"),
        (SEARCH_CONTACTS, {"phone": "hello"}, "phone: not a phone number, got 'hello'"),
        (GET_CONTACT_BY_PHONE, {}, "phone is required"),
        (CREATE_CONTACT, {"name": "Ann"}, "phone or email is required"),
        (CREATE_CONTACT, {"email": "nobody"}, "email: not an email address, got 'nobody'"),
        (SEND_SMS, {"message": "hi"}, "contactId or phone is required"),
        (SEND_SMS, {"phone": "+14155552671"}, "message is required"),
        (SEND_SMS, {"phone": "+14155552671", "message": "  "}, "message is empty"),
        (SEND_EMAIL, {"email": "a@b.cd", "subject": " \r\n ", "message": "hi"}, "subject: .*at least 1 character"),
        (CREATE_OPPORTUNITY, {"contactId": "c", "name": "  "}, "name: .*at least 1 character"),
        (SEND_SMS, {"phone": "+14155552671", "message": "x" * 1_601}, "message: .*1600 characters, got 'x{80}'$"),
    ],
)
def test_a_fault_names_the_wrong_value(spec: ToolSpec, raw: dict[str, Any], fault: str) -> None:
    faults = tool_catalog.validate(spec, raw)
    assert len(faults) == 1
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(faults[0])


def test_all_faults_are_reported_at_once() -> None:
    assert len(tool_catalog.validate(SEARCH_CONTACTS, {"limit": "x", "phone": "y", "email": "z"})) == 3


def test_good_arguments_have_no_faults() -> None:
    assert tool_catalog.validate(SEARCH_CONTACTS, {"query": "john"}) == []


@pytest.mark.parametrize("spec", TOOL_SPECS, ids=lambda spec: spec.name)
def test_a_schema_is_plain_json_schema(spec: ToolSpec) -> None:
    schema = spec.schema
    assert schema["type"] == "object"
    assert b'"anyOf"' not in msgspec.json.encode(schema)
    assert b'"null"' not in msgspec.json.encode(schema)


def test_a_schema_uses_the_names_on_the_wire() -> None:
    assert set(SEND_SMS.schema["properties"]) == {"contactId", "phone", "message"}
    assert SEND_SMS.schema["required"] == ["message"]


def test_an_unknown_tool_is_not_found() -> None:
    assert tool_catalog.find("send_sms") is SEND_SMS
    assert tool_catalog.find("rm") is None

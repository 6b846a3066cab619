"""Calendars and pipelines of the embedded CRM: listed, read, replaced as a whole, and used by the tools at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.stack import Stack

EVENINGS: dict[str, Any] = {
    "name": "Evenings",
    "timezone": "Europe/Berlin",
    "slot_minutes": 45,
    "hours": [{"weekdays": [0, 1, 2, 3, 4, 5, 6], "opens": "18:00", "closes": "20:00"}],
}
LOANS: dict[str, Any] = {"name": "Loans", "stages": [{"id": "asked", "name": "Asked"}, {"id": "paid", "name": "Paid"}]}


async def test_a_calendar_is_used_by_the_tools_as_soon_as_it_is_configured(stack: Stack) -> None:
    async with stack.http() as http:
        put = await http.put("/v1/calendars/evenings", json=EVENINGS)
        assert put.status_code == 200, put.text
        assert put.json() == {"id": "evenings", **EVENINGS} == (await http.get("/v1/calendars/evenings")).json()
        assert (await http.put("/v1/calendars/evenings", json=put.json())).json() == put.json()
        listed = (await http.get("/v1/calendars")).json()["calendars"]
        assert [each["id"] for each in listed] == ["default", "evenings"]
        asked = {
            "calendarId": "evenings",
            "startDate": "2030-01-15",
            "endDate": "2030-01-15",
            "timezone": "Europe/Berlin",
        }
        free = (await http.post("/api/ai/get_free_slots", json=asked)).json()["data"]
        assert free == {"2030-01-15": {"slots": ["2030-01-15T18:00:00+01:00", "2030-01-15T18:45:00+01:00"]}}


async def test_a_pipeline_is_used_by_the_tools_as_soon_as_it_is_configured(stack: Stack) -> None:
    async with stack.http() as http:
        assert (await http.put("/v1/pipelines/loans", json=LOANS)).json() == {"id": "loans", **LOANS}
        assert [each["id"] for each in (await http.get("/v1/pipelines")).json()["pipelines"]] == ["default", "loans"]
        deal = {"contactId": "contact_123", "name": "A loan", "pipelineId": "loans"}
        made = (await http.post("/api/ai/create_opportunity", json=deal)).json()["data"]
        assert (made["pipelineId"], made["pipelineStageId"]) == ("loans", "asked")


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("calendars/x", {**EVENINGS, "timezone": "Mars/Olympus"}, 422, "not a time zone"),
        ("calendars/x", {**EVENINGS, "slot_minutes": 1}, 422, "got 1 minutes"),
        ("calendars/x", {**EVENINGS, "hours": [{"weekdays": [7], "opens": "09:00", "closes": "10:00"}]}, 422, "[7]"),
        ("calendars/x", {"name": "X"}, 422, "hours"),
        ("calendars/x", {**EVENINGS, "id": "y"}, 422, "'x' as in the path, got 'y'"),
        ("calendars/-x", EVENINGS, 422, "'-x'"),
        ("pipelines/x", {"name": "X", "stages": []}, 422, "stages"),
        ("pipelines/x", {**LOANS, "stages": [LOANS["stages"][0]] * 2}, 422, "['asked', 'asked']"),
    ],
)
async def test_a_configuration_that_makes_no_sense_changes_nothing(
    stack: Stack, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    async with stack.http() as http:
        refused = await http.put(f"/v1/{path}", json=body)
        assert (refused.status_code, refused.headers["Content-Type"]) == (status, "application/problem+json")
        assert says in refused.json()["detail"]
        assert (await http.get("/v1/calendars/x")).status_code == 404
        assert (await http.get("/v1/pipelines/x")).status_code == 404

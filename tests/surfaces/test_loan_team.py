"""The loan assistant's team without a key (CONTRACT 5): real tools over the embedded CRM, members in the stream."""

from __future__ import annotations

from tests.support.stack import Stack
from tests.support.stream_client import Frame


async def ask(stack: Stack, message: str) -> list[Frame]:
    async with stack.http() as http:
        url = http.build_request("GET", "/chat/stream", params={"message": message, "session_id": "ann"}).url
    async with stack.open(url.raw_path.decode()) as stream:
        return await stream.rest()


def tools(frames: list[Frame]) -> set[tuple[str, str | None, str]]:
    kinds = ("tool_start", "tool_complete", "member_tool_start", "member_tool_complete")
    return {(frame.type, frame.data.get("member"), frame.data["tool"]) for frame in frames if frame.type in kinds}


def text(frames: list[Frame]) -> str:
    return "".join(frame.data["data"] for frame in frames if frame.type == "content")


async def test_the_documents_message_leads_to_an_offer_by_the_leader_and_by_a_member(stack: Stack) -> None:
    frames = await ask(stack, "I want to apply for a loan")
    types = [frame.type for frame in frames]
    assert types[:2] == ["content_start", "content"]
    assert types[-2:] == ["content", "done"]
    assert tools(frames) == {
        ("tool_start", None, "fetch_preapproved_offer"),
        ("tool_complete", None, "fetch_preapproved_offer"),
        ("tool_start", None, "delegate"),
        ("tool_complete", None, "delegate"),
        ("member_tool_start", "sales", "fetch_preapproved_offer"),
        ("member_tool_complete", "sales", "fetch_preapproved_offer"),
    }


async def test_an_application_is_decided_by_the_team(stack: Stack) -> None:
    frames = await ask(stack, "I want to borrow 12000 over 3 years, my number is +1234567890")
    done = {(member, tool) for kind, member, tool in tools(frames) if kind == "member_tool_complete"}
    assert done == {
        ("sales", "fetch_preapproved_offer"),
        ("verification", "verify_kyc"),
        ("underwriting", "get_credit_score"),
        ("underwriting", "underwrite_loan"),
    }
    assert "is approved" in text(frames)
    assert "Dear John Doe" in text(await ask(stack, "Yes, please"))
    assert {"kyc.checked", "loan.decided", "loan.sanctioned"} <= {event.type for event in await stack.events()}

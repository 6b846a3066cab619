"""The test page of document 002 in a real browser: every part of it works, by the product's own routes."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.support.product import Up

pytestmark = pytest.mark.browser


def opened(page: Page, product: Up, phone: str) -> None:
    page.goto(f"{product.url}/test-streaming.html")
    page.fill("#phone", phone)
    page.click("#connect")
    expect(page.locator("#state")).to_have_text("live")


def said(page: Page, by: str) -> list[str]:
    return [each.strip() for each in page.locator(f".said.{by} p").all_inner_texts()]


def test_a_text_comes_in_and_the_answer_appears_word_by_word(page: Page, product: Up) -> None:
    opened(page, product, "+15550120001")
    page.click("#sms button")
    expect(page.locator(".said.user p")).to_have_text("What are your opening hours?")
    growing = page.locator(".said.agent.open p")
    expect(growing).to_contain_text("This")
    part = growing.inner_text()
    expect(page.locator(".said.agent small")).to_contain_text("sent")
    expect(page.locator(".said.open")).to_have_count(0)
    [whole] = said(page, "agent")
    assert whole.startswith(part.strip())
    assert len(part) < len(whole)


def test_an_agent_takes_over_writes_and_leaves(page: Page, product: Up) -> None:
    opened(page, product, "+15550120002")
    page.click("#join")
    expect(page.locator("#speaker")).to_have_text("Berta speaks")
    page.click("#sms button")
    expect(page.locator(".said.user")).to_have_count(1)
    page.fill("#message", "At nine.")
    page.click("#send button")
    expect(page.locator(".said.human_agent")).to_contain_text("At nine.")
    expect(page.locator(".said.human_agent small")).to_contain_text("sent")
    page.click("#leave")
    expect(page.locator("#speaker")).to_have_text("the assistant speaks")
    assert said(page, "agent") == []


def test_calls_are_seen(page: Page, product: Up) -> None:
    opened(page, product, "+15550120003")
    page.click("#ring")
    expect(page.locator(".note")).to_have_text(["A call begins (inbound)."])
    page.click("#hangup")
    expect(page.locator(".note").nth(1)).to_contain_text("completed, 42 s")


def test_what_was_said_is_there_again_after_a_reload_and_once_after_a_cut(page: Page, product: Up) -> None:
    opened(page, product, "+15550120004")
    page.click("#three")
    expect(page.locator(".said.agent small")).to_contain_text("sent")
    before = said(page, "user"), said(page, "agent")
    page.click("#cut")
    expect(page.locator("#state")).to_have_text("live")
    page.click("#sms button")
    expect(page.locator(".said.agent small").nth(1)).to_contain_text("sent")
    assert (said(page, "user")[:3], said(page, "agent")[:1]) == before
    opened(page, product, "+15550120004")
    expect(page.locator(".said.user")).to_have_count(4)
    assert (said(page, "user")[:3], said(page, "agent")[:1]) == before


def test_a_refusal_is_shown_with_its_reason(page: Page, product: Up) -> None:
    opened(page, product, "+15550120005")
    page.click("#leave")
    expect(page.locator("#answer.failed")).to_contain_text("nobody holds")

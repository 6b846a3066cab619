"""A product in development mode, and Chromium to look at it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support.product import Up

ARGUMENTS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync", *(["--no-sandbox"] if os.geteuid() == 0 else [])]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """With a profile of its own, which is thrown away. Not for the whole session: playwright's loop runs in this
    thread for so long, and no other can."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up") / "data", env={"TRUNKLINE_OFFLINE_DELAY_MS": "60"})
    yield up
    assert up.stop() == 0, up.stderr


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """What the page complains of fails the test; that a request was refused is for the test to judge."""
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    page = browser.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", heard)
    yield page
    page.close()
    assert complaints == []

"""Debian's Chromium, driven by Playwright; skipped without either, except where all is required."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser.fake import FakeDaemon

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WINDOW = {"width": 1440, "height": 900}
TIMEOUT_MS = 20000  # a loaded machine is slow, not wrong


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if importlib.util.find_spec("playwright") is None or not Path(CHROMIUM).exists():
        why = f"needs playwright (pip) and {CHROMIUM} (apt-get install chromium)"
        if os.environ.get("EDGE_REQUIRE_ALL") == "1":
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDaemon]:
    """One for a module: making a 12-megapixel frame takes a while."""
    daemon = FakeDaemon(tmp_path_factory.mktemp("fake"))
    yield daemon
    daemon.stop()


@pytest.fixture
def daemon(pictures: FakeDaemon) -> Iterator[FakeDaemon]:
    """As new for each test."""
    before = list(pictures.verdicts)
    pictures.reviews.clear()
    pictures.asked.clear()
    yield pictures
    pictures.verdicts, pictures.refuse_reviews, pictures.no_original = before, "", False
    pictures.gone.clear()
    pictures.busy.clear()


class Faults(list[str]):
    """What no page may do: errors on the console, requests to elsewhere. `expected` texts are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[str] = []

    def unexpected(self) -> list[str]:
        return [fault for fault in self if not any(text in fault for text in self.expected)]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def page(browser: Any, daemon: FakeDaemon, faults: Faults) -> Iterator[Any]:
    """A page of the fake daemon; the test fails if it did what no page may do."""
    context = browser.new_context(viewport=WINDOW, color_scheme="light", has_touch=True)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))

    def requested(request: Any) -> None:
        if not request.url.startswith((daemon.url, "data:")):
            faults.append(f"elsewhere: {request.url}")

    page.on("request", requested)
    page.goto(daemon.url)
    yield page
    context.close()
    assert not faults.unexpected()

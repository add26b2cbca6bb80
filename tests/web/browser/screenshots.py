"""The pictures of docs/screenshots: the page over a real demonstration.

python -m tests.web.browser.screenshots        # about two minutes; needs chromium and the extras demo and dev
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx

from tests.web.browser.conftest import ARGUMENTS, CHROMIUM

OUT = Path(__file__).resolve().parents[3] / "docs/screenshots"
DESK = {"width": 1440, "height": 900}
TABLET = {"width": 1024, "height": 768}
FRAMES = 300
RATE = 8.0
PNG_LEVEL = 9
START_S = 180.0


@contextmanager
def demonstration(folder: Path) -> Iterator[str]:
    """`edge demo`, with so many verdicts that there is something to see."""
    command = [sys.executable, "-m", "edge", "demo", str(folder), "--rate", str(RATE)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end_s = time.monotonic() + START_S
        while counted(address(folder)) < FRAMES:
            assert process.poll() is None, "the demonstration ended by itself"
            assert time.monotonic() < end_s, "too few verdicts"
            time.sleep(1.0)
        yield address(folder)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def address(folder: Path) -> str:
    """Of the page, as the site's configuration says; empty before it was written."""
    config = folder / "config.toml"
    return f"http://{tomllib.loads(config.read_text())['http']['listen']}" if config.exists() else ""


def counted(url: str) -> int:
    """Frames with a verdict."""
    if not url:
        return 0
    try:
        counts: dict[str, int] = httpx.get(f"{url}/api/v1/status", trust_env=False).json()["verdicts"][
            "frame"
        ]
    except (httpx.HTTPError, KeyError):
        return 0
    return sum(counts.values())


def newest(url: str, **wanted: str) -> dict[str, Any]:
    """The newest verdict of a kind."""
    found: list[dict[str, Any]] = httpx.get(f"{url}/api/v1/verdicts", params=wanted, trust_env=False).json()
    return found[0]


def take(browser: Any, url: str) -> None:
    """All pictures, into docs/screenshots."""
    frame = newest(url, type="frame", evaluation="NotOK", reason="score_above_threshold")
    part = f"{frame['recipeId']}/{frame['batchId']}/{frame['partId']}"
    verdict = f"#/verdict/{frame['resultId']}"
    views = {
        "live": "#/",
        "part": f"#/part/{part}",
        "viewer": verdict,
        "charts": "#/charts",
        "thresholds": "#/thresholds",
    }
    review_some(url)
    for name, route in views.items():
        shoot(browser, url + "/" + route, name, DESK, "light")
    shoot(browser, f"{url}/{verdict}", "tablet-dark", TABLET, "dark")


def review_some(url: str) -> None:
    """What a person would have said, so that the explorer has something to count."""
    for evaluation in ("NotOK", "OK"):
        query = {"type": "frame", "evaluation": evaluation, "limit": "150"}
        for one in httpx.get(f"{url}/api/v1/verdicts", params=query, trust_env=False).json():
            review = {
                "resultId": one["resultId"],
                "evaluation": evaluation,
                "reason": "",
                "reviewer": "A. Demo",
            }
            httpx.post(f"{url}/api/v1/reviews", json=review, trust_env=False)


def shoot(browser: Any, url: str, name: str, window: dict[str, int], theme: str) -> None:
    """One picture, of as many colours as it needs."""
    context = browser.new_context(viewport=window, color_scheme=theme)
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(2500)  # pictures, charts and what arrives meanwhile
    if "verdict" in url:
        page.keyboard.press("n")
        page.wait_for_timeout(1500)
    page.screenshot(path=OUT / f"{name}.png")
    context.close()
    picture = cv2.imread(str(OUT / f"{name}.png"))
    assert picture is not None
    cv2.imwrite(str(OUT / f"{name}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])


def main() -> None:
    from playwright.sync_api import sync_playwright

    OUT.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        demonstration(Path(folder) / "site") as url,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        take(browser, url)
        browser.close()


if __name__ == "__main__":
    main()

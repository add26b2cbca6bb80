"""The operator page over a real daemon, from a frame that arrives to a review that is stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.testing import write_frame
from tests.brokers import Mosquitto, require_mosquitto, until
from tests.sites import DaemonProcess, free_port, make_recipe, write_config
from tests.web.browser.conftest import TIMEOUT_MS, WINDOW

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]

LARGE = (4248, 2832)
READ = """() => {
  const canvas = document.querySelector("canvas.stage");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const grey = Array.from(data.filter((_, at) => at % 4 === 0));
  return { width: canvas.width, height: canvas.height, grey };
}"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    require_mosquitto()
    folder = tmp_path_factory.mktemp("site")
    make_recipe(folder)
    broker = Mosquitto(folder / "broker").start()
    port = free_port()
    daemon = DaemonProcess(write_config(folder, broker.port, port), port).ready()
    yield daemon
    daemon.kill()
    broker.stop()


@pytest.fixture
def page(browser: Any, daemon: DaemonProcess) -> Iterator[Any]:
    context = browser.new_context(viewport=WINDOW)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.goto(f"http://127.0.0.1:{daemon.http_port}/")
    yield page
    context.close()
    assert faults == []


def arrive(daemon: DaemonProcess, made: Path, name: str) -> Path:
    target = daemon.config.parent / "incoming/B1" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, target)
    return target


def result_of(daemon: DaemonProcess, part: str) -> str:
    def found() -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = json.loads(daemon.get(f"/api/v1/verdicts?type=frame&part={part}")[1])
        return answer

    until(found, f"a verdict on {part}")
    return str(found()[0]["resultId"])


def test_a_frame_arrives_is_seen_to_its_pixels_and_is_overruled(page: Any, daemon: DaemonProcess) -> None:
    folder = daemon.config.parent
    file = arrive(daemon, write_frame(folder / "one.png", defect=True, seed=3), "P1_01.png")
    result = result_of(daemon, "P1")
    page.wait_for_selector(f"#verdicts tr[data-id='{result}']")  # it came by itself
    page.goto(f"http://127.0.0.1:{daemon.http_port}/#/verdict/{result}")
    page.wait_for_selector("canvas.stage[data-sharp=true]")
    assert "above the threshold" in page.locator("main").inner_text()
    page.get_by_label("Opacity of the map over the picture").fill("0")
    page.keyboard.press("z")
    until(lambda: page.locator(".readout").inner_text().startswith("100 %"), "1:1")
    page.wait_for_selector("canvas.stage[data-sharp=true]")
    shown = page.evaluate(READ)
    grey = np.array(shown["grey"], np.float32).reshape(shown["height"], shown["width"])
    pixels = np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), np.float32)
    found = cv2.matchTemplate(grey, pixels[:8], cv2.TM_SQDIFF).min()  # rows above the box around the defect
    assert np.sqrt(found / pixels[:8].size) < 3  # grey values; a tile is a JPEG
    page.keyboard.press("x")
    page.keyboard.type("reflection")
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.name") != "reviewer":
        page.keyboard.press("Tab")
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.get_by_text("Stored.").wait_for()
    words = ["review", "--history", result, "--config", str(daemon.config), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edge", *words],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert '"reflection"' in done.stdout
    assert '"Ada"' in done.stdout
    (kept,) = (folder / "var/reviewed").glob("*.png")
    assert kept.read_bytes() == file.read_bytes()


def test_twelve_megapixels_of_sixteen_bits_are_there_at_once(page: Any, daemon: DaemonProcess) -> None:
    made = daemon.config.parent / "large.png"
    rng = np.random.default_rng(0)
    pixels = (rng.random((LARGE[1] // 8, LARGE[0] // 8)) * 60000).astype(np.uint16)
    assert cv2.imwrite(str(made), cv2.resize(pixels, LARGE, interpolation=cv2.INTER_NEAREST))
    arrive(daemon, made, "P2_01.png")
    result = result_of(daemon, "P2")
    page.goto(f"http://127.0.0.1:{daemon.http_port}/?large#/verdict/{result}")
    page.wait_for_selector("canvas.stage[data-first]")
    first_ms = int(page.locator("canvas.stage").get_attribute("data-first"))
    page.wait_for_selector("canvas.stage[data-sharp=true]")
    began = page.evaluate("performance.now()")
    page.locator("canvas.stage").focus()
    page.keyboard.press("z")
    until(lambda: page.locator(".readout").inner_text().startswith("100 %"), "1:1")
    page.wait_for_selector("canvas.stage[data-sharp=true]")
    sharp_ms = page.evaluate("performance.now()") - began
    print(f"first picture {first_ms} ms, sharp at 1:1 after {sharp_ms:.0f} ms")
    assert first_ms < 10_000
    assert sharp_ms < 10_000

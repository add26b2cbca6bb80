"""The operator page in a browser, over a made-up daemon."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.brokers import until
from tests.web.browser.conftest import Faults
from tests.web.browser.fake import DEFECT, HEIGHT, WIDTH, FakeDaemon, verdict

pytestmark = pytest.mark.slow

REFUSED = "the database is read-only"
Z = 1.959963984540054


def rows(page: Any) -> list[str]:
    texts: list[str] = page.locator("#verdicts tbody tr[data-id]").evaluate_all(
        "rows => rows.map(row => row.dataset.id)"
    )
    return texts


def wait_sharp(page: Any) -> None:
    page.wait_for_selector("canvas.stage[data-sharp=true]")


def one_to_one(page: Any) -> None:
    page.locator("canvas.stage").focus()
    page.keyboard.press("z")
    until(lambda: page.locator(".readout").inner_text().startswith("100 %"))
    wait_sharp(page)


def open_verdict(page: Any, daemon: FakeDaemon, result_id: str) -> None:
    page.goto(f"{daemon.url}/#/verdict/{result_id}")
    page.wait_for_selector("canvas.stage[data-first]")
    wait_sharp(page)


def test_a_verdict_appears_as_it_arrives(page: Any, daemon: FakeDaemon) -> None:
    page.wait_for_selector("#verdicts tr[data-id=F0200]")
    daemon.arrives(verdict(304))
    page.wait_for_selector("#verdicts tr[data-id=F0304]")
    assert rows(page)[0] == "F0304"
    assert "OK" in page.locator(".latest .verdict").inner_text()
    size = page.locator(".latest .verdict").evaluate("node => parseFloat(getComputedStyle(node).fontSize)")
    assert size >= 48  # read at two metres: a capital of 9 mm on a 24" screen


def test_a_bad_verdict_is_said_aloud_and_a_good_one_is_not(page: Any, daemon: FakeDaemon) -> None:
    page.wait_for_selector("#verdicts tr[data-id=F0200]")
    daemon.arrives(verdict(308, resultEvaluation="NotOK", score=2.0))
    page.wait_for_selector("#verdicts tr[data-id=F0308]")
    assert page.locator("#said").inner_text().startswith("Not OK: P102")
    daemon.arrives(verdict(309))
    page.wait_for_selector("#verdicts tr[data-id=F0309]")
    assert page.locator("#said").inner_text().startswith("Not OK: P102")


def test_filters_combine_and_can_be_cleared(page: Any, daemon: FakeDaemon) -> None:
    page.wait_for_selector("#verdicts tr[data-id]")
    page.keyboard.press("f")
    page.get_by_role("combobox", name="Evaluation", exact=True).select_option("NotOK")
    page.get_by_role("combobox", name="View", exact=True).select_option("01")
    until(lambda: len(rows(page)) < 10)
    wanted = [
        one["resultId"]
        for one in reversed(daemon.verdicts)
        if one["resultEvaluation"] == "NotOK" and one.get("view") == "01"
    ]
    assert rows(page) == wanted[:50] != []
    page.get_by_role("button", name="Clear").click()
    until(lambda: len(rows(page)) == 50)


def test_the_past_is_paged_into_while_news_wait(page: Any, daemon: FakeDaemon) -> None:
    page.wait_for_selector("#verdicts tr[data-id=F0200]")
    page.get_by_role("button", name="Older").click()
    until(lambda: len(rows(page)) == 100)
    daemon.arrives(verdict(312))
    page.get_by_text("1 new since").wait_for()
    assert "F0312" not in rows(page)
    page.keyboard.press("Escape")
    page.wait_for_selector("#verdicts tr[data-id=F0312]")


def test_keys_alone_lead_to_a_part_and_back(page: Any, daemon: FakeDaemon) -> None:
    page.wait_for_selector("#verdicts tr[data-id=F0200]")
    for _ in range(2):
        page.keyboard.press("j")
    assert page.locator("tr.selected").get_attribute("data-id") == "WP039"
    page.keyboard.press("Enter")
    page.wait_for_selector(".view.gone")
    assert page.locator(".view").count() == 3  # two came, one is missing
    assert "03" in page.locator(".view.gone").inner_text()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("canvas.stage[data-first]")
    assert "#/verdict/F01" in page.url
    page.keyboard.press("Escape")
    page.wait_for_selector(".view.gone")
    page.keyboard.press("Escape")
    page.wait_for_selector("#verdicts tr[data-id]")


def test_one_to_one_shows_the_frame_pixel_by_pixel(page: Any, daemon: FakeDaemon) -> None:
    open_verdict(page, daemon, "F0003")
    page.get_by_label("Opacity of the map over the picture").fill("0")
    one_to_one(page)
    shown = page.evaluate(
        """() => {
          const canvas = document.querySelector("canvas.stage");
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const grey = Array.from(data.filter((_, at) => at % 4 === 0));
          return { width: canvas.width, height: canvas.height, grey };
        }"""
    )
    x, y, w, h = DEFECT
    left = round(shown["width"] / 2 - (x + w / 2))
    top = round(shown["height"] / 2 - (y + h / 2))
    original = daemon.pictures["original"]
    compared = 0
    for row in range(0, shown["height"], 37):
        for column in range(0, shown["width"], 41):
            fx, fy = column - left, row - top
            near_box = x - 9 <= fx <= x + w + 9 and y - 9 <= fy <= y + h + 9
            if 0 <= fx < WIDTH and 0 <= fy < HEIGHT and not near_box:
                assert shown["grey"][row * shown["width"] + column] == original[fy, fx], (fx, fy)
                compared += 1
    assert compared > 200


def test_a_tile_that_the_daemon_was_too_busy_for_is_asked_for_again(
    page: Any, daemon: FakeDaemon, faults: Faults
) -> None:
    faults.expected.append("503")
    for x in range(9):
        for y in range(6):
            daemon.busy[f"/api/v1/verdicts/F0003/tile/original/0/{x}/{y}"] = 1
    open_verdict(page, daemon, "F0003")
    one_to_one(page)  # waits until all of it is sharp
    assert 0 in daemon.busy.values()
    assert page.locator(".broken").is_hidden()


def test_pictures_that_never_come_are_said(page: Any, daemon: FakeDaemon, faults: Faults) -> None:
    faults.expected.append("503")
    daemon.busy["/api/v1/verdicts/F0003/picture/original"] = 99
    page.goto(f"{daemon.url}/#/verdict/F0003")
    page.get_by_text("The picture cannot be loaded.").wait_for()


def test_opacity_changes_what_is_seen_at_the_defect_only(page: Any, daemon: FakeDaemon) -> None:
    open_verdict(page, daemon, "F0003")

    def centre() -> list[int]:
        found: list[int] = page.evaluate(
            """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
              const c = document.querySelector("canvas.stage");
              const at = (x, y) => [...c.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
              done([...at(c.width >> 1, c.height >> 1), ...at(8, 8)]);
            })))"""
        )
        return found

    slider = page.get_by_label("Opacity of the map over the picture")
    one_to_one(page)
    slider.fill("0")
    without = centre()
    slider.fill("1")
    with_map = centre()
    assert without[0] == without[1] == without[2]  # a grey picture
    assert with_map[0] > with_map[2] + 60  # the map is red there
    assert with_map[3:] == without[3:]


def test_layers_are_chosen_by_keys_and_differ(page: Any, daemon: FakeDaemon) -> None:
    open_verdict(page, daemon, "F0003")
    seen = []
    for key, name in (("1", "original"), ("2", "preprocessed"), ("3", "reconstruction"), ("4", "map")):
        page.keyboard.press(key)
        page.wait_for_selector(f"button[aria-pressed=true]:has-text('{name}')")
        page.wait_for_selector(f"canvas.stage[data-layer={name}][data-sharp=true]")
        seen.append(page.evaluate("document.querySelector('canvas.stage').toDataURL()"))
    assert len(set(seen)) == 4
    page.keyboard.press("s")
    assert page.locator("canvas.stage").count() == 2


def test_review_with_keys_only(page: Any, daemon: FakeDaemon) -> None:
    open_verdict(page, daemon, "F0003")
    page.keyboard.press("x")
    page.get_by_role("heading", name="Overrule: Not OK → OK").wait_for()
    page.keyboard.press("Enter")
    assert daemon.reviews == []  # overruling needs a reason, and nobody's name is known yet
    page.keyboard.type("dust")
    page.keyboard.press("Enter")
    assert daemon.reviews == []
    for _ in range(12):
        if page.evaluate("document.activeElement.name") == "reviewer":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.get_by_text("Stored.").wait_for()
    assert [(r["evaluation"], r["reason"], r["reviewer"]) for r in daemon.reviews] == [("OK", "dust", "Ada")]
    page.keyboard.press("c")  # the name is remembered
    page.get_by_role("heading", name="Confirm: Not OK").wait_for()
    page.keyboard.press("Enter")
    until(lambda: page.locator(".history li").count() == 2)
    assert daemon.reviews[1]["agrees"]
    assert "overruled by Ada" in page.locator(".history li").first.inner_text()


def test_a_review_that_was_not_stored_is_not_shown_as_stored(
    page: Any, daemon: FakeDaemon, faults: Faults
) -> None:
    faults.expected.append("503")
    daemon.refuse_reviews = REFUSED
    open_verdict(page, daemon, "F0003")
    page.keyboard.press("c")
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.get_by_text(f"Not stored: {REFUSED}").wait_for()
    assert page.locator(".history li").count() == 0
    assert page.get_by_text("Stored.", exact=True).count() == 0
    assert page.get_by_label("Your name").input_value() == "Ada", "what was typed is still there"
    daemon.refuse_reviews = ""
    page.keyboard.press("Enter")
    page.get_by_text("Stored.").wait_for()
    assert page.locator("dialog[open]").count() == 0


def wilson(found: int, of: int) -> tuple[float, float]:
    share = found / of
    spread = Z * math.sqrt(share * (1 - share) / of + Z * Z / (4 * of * of))
    middle, whole = share + Z * Z / (2 * of), 1 + Z * Z / of
    return (0 if found == 0 else (middle - spread) / whole), (1 if found == of else (middle + spread) / whole)


@pytest.mark.parametrize("threshold", [1.0, 0.8, 1.25, 0.0])
def test_explorer_counts_as_the_daemon_would(page: Any, daemon: FakeDaemon, threshold: float) -> None:
    page.goto(f"{daemon.url}/#/thresholds")
    number = page.get_by_label("Threshold as a number")
    number.fill(str(threshold))
    number.press("Tab")
    frames, calibration = daemon.explorer["frames"], daemon.explorer["calibration"]
    good = [one["score"] for one in frames if one["truth"] == "OK"]
    bad = [one["score"] for one in frames if one["truth"] == "NotOK"]
    wanted = {
        "calibration": (sum(score > threshold for score in calibration), len(calibration)),
        "falseRejects": (sum(score > threshold for score in good), len(good)),
        "escapes": (sum(score <= threshold for score in bad), len(bad)),
    }
    for name, (found, of) in wanted.items():
        cells = page.locator(f"#outcome tr[data-name={name}] td").all_inner_texts()
        assert cells[0].startswith(f"{found} of {of} ")
        told = [float(text) for text in re.findall(r"[\d.]+", cells[1])]
        assert told == pytest.approx([100 * side for side in wilson(found, of)], abs=0.0501)


def test_explorer_is_moved_by_keys_and_by_dragging(page: Any, daemon: FakeDaemon) -> None:
    page.goto(f"{daemon.url}/#/thresholds")
    number = page.get_by_label("Threshold as a number")
    number.wait_for()
    page.locator("main").focus()
    page.keyboard.press("ArrowLeft")
    assert float(number.input_value()) == 0.99
    box = page.locator(".explorer svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 50)
    page.mouse.up()
    assert 0.2 < float(number.input_value()) < 0.99
    assert page.get_by_text("Nothing is changed from here").is_visible()


def test_hostile_names_stay_text(page: Any, daemon: FakeDaemon) -> None:
    page.wait_for_selector("#verdicts tr[data-id=F0200]")
    assert "<img src=x" in page.locator("tr[data-id=F0200] .name").inner_text()
    open_verdict(page, daemon, "F0200")
    assert "<img src=x" in page.locator(".bar h2").inner_text()
    page.get_by_role("link", name="all views").click()
    page.wait_for_selector(".view")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0


def test_colours_follow_the_system_or_the_switch_which_is_remembered(page: Any) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert dark != light
    page.get_by_role("button", name="Colours").click()
    assert ground() == light  # the switch wins over the system
    page.reload()
    page.get_by_role("button", name="Colours: light").wait_for()
    assert ground() == light


PAIRS = [
    ("ink", "ground"),
    ("ink", "card"),
    ("faint", "ground"),
    ("faint", "card"),
    ("on-accent", "accent"),
    ("ok", "ok-ground"),
    ("bad", "bad-ground"),
    ("unsure", "unsure-ground"),
    ("ok", "card"),
    ("bad", "card"),
    ("unsure", "card"),
]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(page: Any, theme: str) -> None:
    page.emulate_media(color_scheme=theme)
    for ink, ground in PAIRS:
        first, second = (
            str(
                page.evaluate(
                    f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"
                )
            )
            for name in (ink, ground)
        )
        bright, dim = sorted((luminance(first), luminance(second)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, ground)


ROUTES = ["/", "/charts", "/thresholds", "/health", "/replays", "/verdict/F0003", "/part/bracket/B1/P039"]


@pytest.mark.parametrize("route", ROUTES)
def test_every_control_has_a_name(page: Any, daemon: FakeDaemon, route: str) -> None:
    page.goto(f"{daemon.url}/#{route}")
    until(lambda: page.evaluate("document.querySelectorAll('main *').length") > 10)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, [role=img], img, meter")]
          .filter((one) => one.checkVisibility() && !one.ariaHidden && !(one.ariaLabel
            || one.textContent.trim() || one.labels?.length || one.alt || one.querySelector("[alt]")))
          .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_daemon_that_stops_is_missed_and_found_again(page: Any, daemon: FakeDaemon, faults: Faults) -> None:
    faults.expected += [
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED",
        "Failed to load resource",
        "ERR_CONNECTION_RESET",
    ]
    page.wait_for_selector("#verdicts tr[data-id]")
    daemon.stop()
    page.wait_for_selector("#offline:not([hidden])")
    assert "does not answer" in page.locator("#offline").inner_text()
    assert rows(page)  # what was there stays
    daemon.start()
    page.wait_for_selector("#offline", state="hidden")
    daemon.verdicts.append(verdict(320))
    page.wait_for_selector("#verdicts tr[data-id=F0320]")


@pytest.mark.parametrize(
    ("route", "shown"),
    [
        ("/verdict/F0003", "canvas.stage[data-first]"),
        ("/part/bracket/B0/P001", ".view"),
        ("/thresholds", "#outcome"),
        ("/charts", ".chart"),
        ("/replays", "select[name=recipe] option"),
    ],
)
def test_what_could_not_be_shown_is_shown_once_the_daemon_is_back(
    page: Any, daemon: FakeDaemon, faults: Faults, route: str, shown: str
) -> None:
    faults.expected += [
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED",
        "Failed to load",
        "ERR_CONNECTION_RESET",
    ]
    page.wait_for_selector("#verdicts tr[data-id]")
    daemon.stop()
    page.evaluate("route => { location.hash = route; }", f"#{route}")
    page.wait_for_selector("#offline:not([hidden])")
    assert page.locator(shown).count() == 0
    daemon.start()
    page.wait_for_selector(shown, state="attached")


def test_what_was_kept_is_shown_where_the_frame_is_gone(page: Any, daemon: FakeDaemon) -> None:
    daemon.no_original = True
    open_verdict(page, daemon, "F0003")
    page.get_by_text("The frame cannot be shown").wait_for()
    assert page.locator("canvas.stage").get_attribute("data-layer") == "preprocessed"
    percent = int(page.locator("output.readout").inner_text().rstrip(" %"))
    assert 1 < percent < 100, "the plane is drawn at the frame's size"


def test_a_part_grows_while_its_views_arrive(page: Any, daemon: FakeDaemon) -> None:
    page.goto(f"{daemon.url}/#/part/bracket/B2/P999")
    page.get_by_text("no verdict of it is stored").wait_for()
    until(lambda: daemon.listeners)
    for number in (399, 400):
        daemon.arrives(verdict(number, partId="P999", batchId="B2"))
    until(lambda: page.locator(".view").count() == 2)
    whole = {**daemon.verdicts[-1], "resultId": "W", "resultType": "part"}
    daemon.arrives(
        {**whole, "reasons": ["views_missing"], "missingViews": ["07"], "resultEvaluation": "NotDecidable"}
    )
    page.get_by_text("Views of this part did not come in time.").wait_for()


def test_a_review_made_elsewhere_is_seen_and_marks_the_part(page: Any, daemon: FakeDaemon) -> None:
    open_verdict(page, daemon, "F0003")
    page.get_by_text("Nobody has reviewed this verdict.").wait_for()
    until(lambda: daemon.listeners)
    page.keyboard.press("x")
    said = {"resultId": "F0003", "evaluation": "NotDecidable", "reason": "blurred", "reviewer": "Anna"}
    httpx.post(f"{daemon.url}/api/v1/reviews", json=said, trust_env=False).raise_for_status()
    page.get_by_text("Meanwhile Anna said Not decidable").wait_for()
    page.keyboard.press("Escape")
    assert "overruled by Anna" in page.locator(".history li").inner_text()
    assert page.get_by_text("Nobody has reviewed this verdict.").count() == 0


def test_filters_are_in_the_address_and_the_newest_verdict_is_the_newest(
    page: Any, daemon: FakeDaemon
) -> None:
    page.wait_for_selector("#verdicts tr[data-id]")
    page.keyboard.press("f")
    page.get_by_label("Evaluation").select_option("NotOK")
    until(lambda: all(verdict_of(daemon, one)["resultEvaluation"] == "NotOK" for one in rows(page)))
    assert page.url.endswith("#/?evaluation=NotOK")
    assert "Not OK" not in page.locator("section.latest").inner_text(), "the newest of all is not"
    page.reload()
    page.wait_for_selector("#verdicts tr[data-id]")
    assert all(verdict_of(daemon, one)["resultEvaluation"] == "NotOK" for one in rows(page))
    assert page.get_by_label("Evaluation").input_value() == "NotOK"
    until(lambda: daemon.listeners)
    daemon.arrives(verdict(401, batchId="B77"))
    page.locator("option[value=B77]").wait_for(state="attached")


def verdict_of(daemon: FakeDaemon, result_id: str) -> dict[str, Any]:
    return next(one for one in daemon.verdicts if one["resultId"] == result_id)


@pytest.mark.parametrize("route", ["/", "/charts", "/thresholds", "/health", "/replays"])
def test_what_a_daemon_does_not_offer_is_said(
    page: Any, daemon: FakeDaemon, faults: Faults, route: str
) -> None:
    faults.expected.append("404")
    daemon.gone = {"/api/v1/"}
    page.goto(f"{daemon.url}/?again#{route}")
    page.get_by_text(re.compile("not offered")).locator("visible=true").first.wait_for()


def test_twelve_megapixels_are_there_at_once(
    page: Any, daemon: FakeDaemon, record_property: Callable[[str, object], None]
) -> None:
    page.goto(f"{daemon.url}/?again#/verdict/F0010")
    page.wait_for_selector("canvas.stage[data-first]")
    first_ms = int(page.locator("canvas.stage").get_attribute("data-first"))
    wait_sharp(page)
    began = page.evaluate("performance.now()")
    one_to_one(page)
    sharp_ms = page.evaluate("performance.now()") - began
    record_property("first_picture_ms", first_ms)
    record_property("sharp_one_to_one_ms", round(sharp_ms))
    print(f"first picture {first_ms} ms, sharp at 1:1 after {sharp_ms:.0f} ms")
    assert first_ms < 3000
    assert sharp_ms < 3000
    originals = [path for path in daemon.asked if "/tile/original/0/" in path]
    assert 0 < len(originals) < 30  # only what is looked at: the whole frame has 54

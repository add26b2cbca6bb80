"""Replays over HTTP: started one at a time, listed after a restart, their reports shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from edge.web import replays
from edge.web.replays import KEPT, STOPPED, Replays
from tests.brokers import until
from tests.web.sites import Site

# stands for `edge replay`: does what its recipe's name says
SCRIPT = """
import json, os, pathlib, sys, time
options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
out = pathlib.Path(options["out"])
if options["recipe"] == "waits":
    (out.parent / "nice").write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))
    time.sleep(60)
if options["recipe"] == "fails":
    print("replay 5%\\nedge: no stored verdict\\n  fix: widen --since", file=sys.stderr)
    sys.exit(66)
out.mkdir()
document = {"recipe": options["recipe"], "frames": 7, "flips": 2, "all": options}
(out / "replay.json").write_text(json.dumps(document))
(out / "report.html").write_text("<h1>report</h1>")
sys.exit(1)
"""


class Page:
    """A served site with replays."""

    def __init__(self, folder: Path) -> None:
        script = folder / "replay.py"
        script.write_text(SCRIPT)
        self.root = folder / "replays"
        self.replays = Replays(self.root, [sys.executable, str(script)])
        self.site = Site(folder, more=replays.routes(self.replays))

    def close(self) -> None:
        self.replays.stop()
        self.site.close()

    def post(self, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        answer = self.site.client.post("/api/v1/replays", json=body, headers=headers)
        return answer.status_code, answer.json()

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.client.get("/api/v1/replays").json()["replays"]
        return found

    def ended(self, name: str) -> dict[str, Any]:
        """What is listed of a replay once it is over."""
        until(lambda: self._of(name)["state"] != "running", f"end of replay {name}", 20)
        return self._of(name)

    def _of(self, name: str) -> dict[str, Any]:
        return next(one for one in self.listed() if one["id"] == name)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path)
    yield page
    page.close()


def test_a_replay_runs_and_its_report_is_shown_with_its_own_policy(page: Page) -> None:
    assert page.listed() == []
    wanted = {
        "recipe": "bracket",
        "since": "2026-11-20T10:15:00Z",
        "until": None,
        "limit": 50,
        "engine": "new",
    }
    code, answer = page.post(wanted)
    assert code == 202
    found = page.ended(answer["id"])
    assert found == {
        "id": answer["id"], "recipe": "bracket", "createdAt": found["createdAt"], "state": "done",
        "frames": 7, "flips": 2, "error": None,
    }  # fmt: skip
    assert found["createdAt"].endswith("Z")
    said = json.loads((page.root / answer["id"] / "replay.json").read_text())["all"]
    assert said.pop("out") == str(page.root / answer["id"])
    assert said == {"recipe": "bracket", "since": "2026-11-20T10:15:00Z", "last": "50", "engine": "new"}
    report = page.site.client.get(f"/replays/{answer['id']}/report.html")
    assert report.text == "<h1>report</h1>"
    assert "style-src 'unsafe-inline'" in report.headers["content-security-policy"]
    assert "script" not in report.headers["content-security-policy"]
    assert report.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in page.site.client.get("/").headers["content-security-policy"]


def test_one_runs_at_a_time_with_the_lowest_priority_and_ends_with_the_daemon(page: Page) -> None:
    code, first = page.post({"recipe": "waits"})
    assert code == 202
    code, answer = page.post({"recipe": "bracket"})
    assert code == 409
    assert first["id"] in answer["error"]
    until((page.root / "nice").is_file, "the process to begin", 20)
    until(lambda: (page.root / "nice").read_text() != "", "its priority", 5)
    assert (page.root / "nice").read_text() == "19"
    assert page.listed()[0]["state"] == "running"
    process = page.replays._running[1]  # type: ignore[index]
    page.replays.stop()
    assert process.returncode is not None
    found = page.listed()[0]
    assert (found["state"], found["error"]) == ("failed", STOPPED)
    assert page.post({"recipe": "bracket"})[0] == 202  # the next one may begin


def test_why_one_failed_is_said(page: Page) -> None:
    _, answer = page.post({"recipe": "fails"})
    found = page.ended(answer["id"])
    assert (found["state"], found["frames"]) == ("failed", None)
    assert found["error"] == "no stored verdict fix: widen --since"


def test_what_was_there_before_a_restart_is_listed(page: Page, tmp_path: Path) -> None:
    name = page.post({"recipe": "bracket"})[1]["id"]
    page.ended(name)
    broken = str(ULID.from_timestamp(1.0))  # older
    (page.root / f"{broken}.json").write_text('{"recipe": "bracket", "state": "running", "error": null}')
    (page.root / "foreign").mkdir()
    again = Replays(page.root, ["false"])
    states = [(one["id"], one["state"], one["error"]) for one in again.documents()]
    assert states == [(name, "done", None), (broken, "failed", STOPPED)]


def test_notes_do_not_pile_up(page: Page) -> None:
    page.root.mkdir()
    for second in range(1, KEPT + 6):
        note = page.root / f"{ULID.from_timestamp(float(second))}.json"
        note.write_text('{"recipe": "a", "state": "failed", "error": "x"}')
    page.ended(page.post({"recipe": "bracket"})[1]["id"])
    assert len(list(page.root.glob("*.json"))) == KEPT
    assert len(page.listed()) == KEPT


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({}, "recipe"),
        ([], "body"),
        ({"recipe": "../x"}, "recipe"),
        ({"recipe": "a\n"}, "recipe"),
        ({"recipe": "--help"}, "recipe"),
        ({"recipe": "a", "engine": "/etc"}, "engine"),
        ({"recipe": "a", "calibration": 3}, "calibration"),
        ({"recipe": "a", "since": "yesterday"}, "since"),
        ({"recipe": "a", "until": 5}, "until"),
        ({"recipe": "a", "limit": 0}, "limit"),
        ({"recipe": "a", "limit": True}, "limit"),
        ({"recipe": "a", "limit": "5"}, "limit"),
        ({"recipe": "a", "out": "/tmp"}, "out"),
        ({"recipe": "a" * 5000}, "body"),
    ],
)
def test_a_bad_request_says_what_is_wrong_and_starts_nothing(page: Page, body: Any, what: str) -> None:
    code, answer = page.post(body)
    assert code == 400
    assert answer["error"].startswith(f"{what}:")
    assert page.listed() == []


def test_only_json_of_our_own_page_starts_one(page: Page) -> None:
    client = page.site.client
    assert client.post("/api/v1/replays", data={"recipe": "a"}).status_code == 400
    assert page.post({"recipe": "a"}, **{"sec-fetch-site": "cross-site"})[0] == 403
    assert client.post("/api/v1/replays", content=b"[" * 3000, headers=JSON).status_code == 400
    assert page.listed() == []


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("name", ["nothing", "..", "%2e%2e", "..%2f..", str(ULID.from_timestamp(1.0))])
def test_no_report_is_found_outside(page: Page, name: str) -> None:
    page.root.mkdir()
    (page.root.parent / "report.html").write_text("secret")
    assert page.site.client.get(f"/replays/{name}/report.html").status_code == 404


def test_a_folder_that_cannot_be_written_is_said(page: Page) -> None:
    page.root.write_text("a file in its place, into which not even root can put folders")
    assert page.post({"recipe": "a"})[0] == 503

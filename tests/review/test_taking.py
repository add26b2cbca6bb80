"""Reviews are taken over HTTP, frames are kept to learn from, and thresholds are proposed, never just set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from edge import app
from edge.artifacts import sha256_of
from edge.config import Settings
from edge.record.store import Store
from edge.review.taking import Reviewing
from edge.types import KINDS
from edge.web import reviews
from edge.web.server import HttpServer
from tests.replay.sites import frame_of, make_site


@dataclass
class Site:
    """A site with good and defect frames that were judged, and its reviews over HTTP."""

    folder: Path
    settings: Settings
    store: Store
    client: httpx.Client
    told: list[tuple[str, Any]] = field(default_factory=list)

    def ids(self, evaluation: str) -> list[str]:
        """Oldest first."""
        found = [one for one in self.store.latest(100) if one["resultEvaluation"] == evaluation]
        return [one["resultId"] for one in reversed(found)]

    def review(
        self, result_id: str, evaluation: str, reason: str = "seen", who: str = "Ada"
    ) -> httpx.Response:
        body = {"resultId": result_id, "evaluation": evaluation, "reason": reason, "reviewer": "Ada"}
        return self.client.post("/api/v1/reviews", json=body)


JSON = {"content-type": "application/json"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = make_site(tmp_path, good=4, defects=3)
    store = Store(settings.paths.state / app.DATABASE, {"mqtt": KINDS})
    told: list[tuple[str, Any]] = []
    view = Reviewing(store, settings, announce=lambda event, data: told.append((event, data)))
    server = HttpServer(Starlette(routes=reviews.routes(view)), "127.0.0.1", 0)
    server.start()
    host, port = server.address
    with httpx.Client(base_url=f"http://{host}:{port}", trust_env=False) as client:
        yield Site(tmp_path, settings, store, client, told)
    server.stop(5.0)
    store.close()


def test_a_review_is_answered_announced_and_listed(site: Site) -> None:
    (one, *_) = site.ids("NotOK")
    answer = site.review(one, "OK", "dust")
    assert answer.status_code == 201
    said = answer.json()
    assert (said["agrees"], said["reason"], said["reviewer"], said["frameKept"]) == (
        False,
        "dust",
        "Ada",
        True,
    )
    assert site.told == [("review", {key: said[key] for key in said if not key.startswith("frame")})]
    listed = site.client.get("/api/v1/reviews").json()["reviews"]
    assert [one["reviewId"] for one in listed] == [said["reviewId"]]
    assert site.client.get("/api/v1/reviews?since=2100-01-01").json() == {"reviews": []}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"[]", "body"), (b"{", "body"), (b'{"resultId":"R","evaluation":"OK","reviewer":"A","x":1}', "x"),
        (b'{"resultId":1,"evaluation":"OK","reviewer":"A"}', "resultId"), (b"[" * 100_000, "body"),
        (b'{"resultId":"R","evaluation":"OK"}', "reviewer"), (b'{"a":"' + b"x" * 20_000 + b'"}', "body"),
        (b'{"resultId":"R","evaluation":"good","reviewer":"A"}', "evaluation"),
        (b'{"resultId":"R","evaluation":"OK","reviewer":"A\\u0007"}', "reviewer"),
        (b'{"resultId":"R\\u0000","evaluation":"OK","reviewer":"A"}', "resultId"),
    ],
)  # fmt: skip
def test_a_bad_body_is_refused_and_named(site: Site, body: bytes, named: str) -> None:
    answer = site.client.post("/api/v1/reviews", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{named}:")
    assert site.store.latest_reviews(10) == []


def test_a_body_that_does_not_say_that_it_is_json_is_refused(site: Site) -> None:
    body = b'{"resultId":"R1","evaluation":"OK","reviewer":"A"}'  # as a form of another page could send it
    answer = site.client.post("/api/v1/reviews", content=body, headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]) == (400, "content-type: application/json")


def test_overruling_wants_a_reason_and_an_unknown_verdict_is_404(site: Site) -> None:
    (one, *_) = site.ids("NotOK")
    assert site.review(one, "OK", "").status_code == 400
    assert site.review(one, "NotOK", "").status_code == 201
    assert site.review("01JNONE", "OK").status_code == 404


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=x", "?since=yesterday", "/proposal", "/proposal?recipe="]
)
def test_bad_queries_are_400(site: Site, query: str) -> None:
    assert site.client.get(f"/api/v1/reviews{query}").status_code == 400


def test_an_overruled_frame_is_kept_as_it_was_judged(site: Site) -> None:
    one = site.ids("NotOK")[0]
    original = frame_of(site.folder, 4)
    sha256, bytes_ = sha256_of(original), original.read_bytes()
    site.review(one, "OK")
    kept = site.settings.paths.state / "reviewed" / f"{sha256}.png"
    assert kept.read_bytes() == bytes_
    assert original.read_bytes() == bytes_
    original.unlink()
    assert site.review(one, "OK", "again").json()["frameKept"] is True


def test_a_frame_that_changed_or_went_is_said_and_nothing_is_kept(site: Site) -> None:
    first, second, third = site.ids("NotOK")
    frame_of(site.folder, 4).write_bytes(b"another picture")
    frame_of(site.folder, 5).unlink()
    assert "other content" in site.review(first, "OK").json()["frameWhy"]
    assert "gone" in site.review(second, "OK").json()["frameWhy"]
    assert not (site.settings.paths.state / "reviewed").exists()
    assert site.review(third, "NotOK", "").json()["frameKept"] is True  # a confirmed defect


def test_what_took_the_place_of_a_frame_is_never_waited_for(site: Site) -> None:
    frame_of(site.folder, 4).unlink()
    os.mkfifo(frame_of(site.folder, 4))
    assert site.review(site.ids("NotOK")[0], "OK").json()["frameKept"] is False


def test_a_full_disk_costs_the_copy_and_not_the_review(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.record.evidence.free_bytes", lambda root: 1000)
    one = site.ids("NotOK")[0]
    assert "room" in site.review(one, "OK").json()["frameWhy"]
    assert len(site.store.reviews_of([one])[one]) == 1


def test_a_good_frame_that_is_confirmed_is_not_kept(site: Site) -> None:
    answer = site.review(site.ids("OK")[0], "OK", "").json()
    assert (answer["frameKept"], "frameWhy" in answer) == (False, False)


def test_the_proposal_says_why_there_is_none_and_what_it_would_change(site: Site) -> None:
    path = "/api/v1/reviews/proposal?recipe=blur"
    assert "review" in site.client.get(path).json()["why"]
    assert site.client.get("/api/v1/reviews/proposal?recipe=other").status_code == 404
    before = (site.settings.paths.calibration / "blur.json").read_bytes()
    site.review(site.ids("NotOK")[0], "OK", "dust")
    said = site.client.get(path).json()
    view = next(view for view in said["views"] if view["view"] == "01")
    assert view["thresholdAfter"] > view["thresholdBefore"]
    assert view["falseRejectBound"] == view["falseRejectBoundBefore"]
    assert (site.settings.paths.calibration / "blur.json").read_bytes() == before
    assert json.dumps(said, allow_nan=False)

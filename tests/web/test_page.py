"""The page's questions to a real daemon: its verdicts, their pictures, its numbers and its health."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from edge.testing import write_frame
from tests.brokers import free_port, until
from tests.sites import DaemonProcess, make_recipe, write_config

pytestmark = pytest.mark.slow


class Site:
    """A daemon without a broker, that has judged a good part and a bad one."""

    def __init__(self, folder: Path) -> None:
        self.folder, port = folder, free_port()
        make_recipe(folder)
        config = write_config(folder, 1, port)
        text = config.read_text().replace("[mqtt]", "[mqtt]\nenabled = false")
        config.write_text(text + '[evidence]\nkeep_ok_ratio = 0.0\nkeep_frames = "not_ok"\n')
        self.daemon = DaemonProcess(config, port)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)

    def arrive(self, name: str, *, defect: bool = False, seed: int = 0) -> Path:
        scratch = write_frame(self.folder / "scratch.png", defect=defect, seed=seed)
        target = self.folder / "incoming" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch, target)
        return target

    def json(self, path: str, status: int = 200, **query: Any) -> Any:
        answer = self.client.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer.json()

    def verdict(self, part: str, view: str) -> dict[str, Any]:
        found: dict[str, Any]
        (found,) = self.json("/api/v1/verdicts", part=part, view=view, type="frame")
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("page"))
    site.daemon.ready()
    for number, (part, defect) in enumerate((("P1", False), ("P2", True))):
        for view in ("01", "02"):
            site.arrive(f"B1/{part}_{view}.png", defect=defect and view == "02", seed=number)
    until(lambda: len(site.json("/api/v1/verdicts", type="part")) == 2, "parts", 30)
    yield site
    site.client.close()
    site.daemon.stop()


def decoded(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture


def test_a_verdict_comes_with_its_part_limits_and_pictures(site: Site) -> None:
    bad = site.verdict("P2", "02")
    assert (bad["resultEvaluation"], bad["review"]) == ("NotOK", None)
    found = site.json(f"/api/v1/verdicts/{bad['resultId']}")
    assert found["verdict"] == {key: value for key, value in bad.items() if key != "review"}
    assert found["reviews"] == []
    assert [view["resultEvaluation"] for view in found["part"]["views"]] == ["OK", "NotOK"]
    assert found["part"]["missingViews"] == []
    assert found["limits"]["frames"] == 20
    assert found["limits"]["threshold"] == bad["thresholdRaw"]
    assert found["planeToFrame"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert found["isScaled"] is True
    layers = found["pictures"]
    for layer in ("original", "preprocessed", "reconstruction", "map"):
        assert layers[layer]["why"] is None, layer
        assert (layers[layer]["width"], layers[layer]["height"], layers[layer]["levels"]) == (64, 48, 1)
    assert layers["classes"]["why"] == "this model knows no classes"
    part = site.json(f"/api/v1/verdicts/{found['part']['resultId']}")
    assert part["part"]["views"] == found["part"]["views"]
    assert all(layer["why"] for layer in part["pictures"].values())


def test_pictures_are_what_they_say(site: Site) -> None:
    bad = site.verdict("P2", "02")
    frame = cv2.imread(str(site.folder / "incoming" / bad["image"]["path"]), cv2.IMREAD_UNCHANGED)
    assert frame is not None
    get = f"/api/v1/verdicts/{bad['resultId']}"
    original = decoded(site.client.get(f"{get}/picture/original"))
    assert np.abs(original.astype(int) - frame).mean() < 3  # JPEG
    assert np.abs(decoded(site.client.get(f"{get}/picture/preprocessed")).astype(int) - frame).mean() < 3
    blurred = cv2.blur(frame, (9, 9), borderType=cv2.BORDER_REPLICATE).astype(int)
    reconstruction = decoded(site.client.get(f"{get}/picture/reconstruction")).astype(int)
    assert np.abs(reconstruction - blurred)[8:24, 8:24].mean() < 6
    heat = decoded(site.client.get(f"{get}/tile/map/0/0/0"))
    assert heat[12:20, 22:30].max() > 128 > np.median(heat)  # 128 is the threshold
    assert decoded(site.client.get(f"{get}/picture/original?max=32")).shape == (24, 32)


def test_an_ok_frame_is_shown_from_its_file_and_says_what_it_has_not(site: Site) -> None:
    good = site.verdict("P1", "01")
    assert good["evidence"] is None
    layers = site.json(f"/api/v1/verdicts/{good['resultId']}")["pictures"]
    assert (layers["original"]["why"], layers["preprocessed"]["why"]) == (None, None)
    assert "not OK" in layers["map"]["why"]
    get = f"/api/v1/verdicts/{good['resultId']}"
    for layer in ("original", "preprocessed"):
        assert decoded(site.client.get(f"{get}/picture/{layer}")).shape == (48, 64)
    answer = site.client.get(f"{get}/picture/map")
    assert (answer.status_code, "not OK" in answer.json()["error"]) == (404, True)


def test_pictures_are_kept_by_browsers_behind_the_security_headers(site: Site) -> None:
    tile = f"/api/v1/verdicts/{site.verdict('P2', '02')['resultId']}/tile/preprocessed/0/0/0"
    first = site.client.get(tile)
    assert first.headers["cache-control"].startswith("private, max-age")
    assert "default-src 'none'" in first.headers["content-security-policy"]
    again = site.client.get(tile, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert site.client.get(tile, headers={"if-none-match": '"other"'}).status_code == 200


def test_a_bad_frame_is_kept_and_shown_when_its_file_went(site: Site) -> None:
    file = site.arrive("B8/P8_01.png", defect=True, seed=8)
    until(lambda: site.json("/api/v1/verdicts", part="P8"), "P8")
    bad = site.verdict("P8", "01")
    kept = site.folder / "var" / "evidence" / bad["evidence"] / "frame.png"
    until(kept.exists, "the copy")
    file.unlink()
    shown = decoded(site.client.get(f"/api/v1/verdicts/{bad['resultId']}/picture/original"))
    assert np.abs(shown.astype(int) - cv2.imread(str(kept), cv2.IMREAD_UNCHANGED)).mean() < 3


def test_a_frame_that_changed_or_went_is_not_shown_as_the_one_that_was_judged(site: Site) -> None:
    file = site.arrive("B9/P9_01.png", seed=9)
    until(lambda: site.json("/api/v1/verdicts", part="P9"), "P9")
    first = site.verdict("P9", "01")
    get = f"/api/v1/verdicts/{first['resultId']}"
    site.arrive("B9/P9_01.png", seed=10)
    answer = site.client.get(f"{get}/picture/original")
    assert (answer.status_code, "changed" in answer.json()["error"]) == (404, True)
    until(lambda: len(site.json("/api/v1/verdicts", part="P9", type="frame")) == 2, "judged again")
    second = site.json("/api/v1/verdicts", part="P9", type="frame")[0]
    file.unlink()
    answer = site.client.get(f"/api/v1/verdicts/{second['resultId']}/picture/original")
    assert (answer.status_code, "no longer there" in answer.json()["error"]) == (404, True)
    assert (
        "no longer there"
        in site.json(f"/api/v1/verdicts/{second['resultId']}")["pictures"]["original"]["why"]
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nothing", 404), ("../../../etc/passwd", 404), ("%2e%2e%2fstatus", 404),
        ("R1/picture/original", 404),
        ("ID/picture/secret", 400), ("ID/picture/..%2f..%2fconfig.toml", 404), ("ID/picture/map?max=0", 400),
        ("ID/picture/map?max=9999999999", 400), ("ID/tile/map/0/1/0", 404), ("ID/tile/map/9/0/0", 404),
        ("ID/tile/map/0/-1/0", 404), ("ID/tile/map/0/" + "9" * 400 + "/0", 404), ("ID/tile/map/1e3/0/0", 404),
        ("ID/picture/original%00.png", 400), ("%ff%fe", 404), ("ID'--", 404),
    ],
)  # fmt: skip
def test_a_path_that_is_none_finds_nothing(site: Site, path: str, status: int) -> None:
    asked = path.replace("ID", site.verdict("P2", "02")["resultId"])
    answer = site.client.get(f"/api/v1/verdicts/{asked}")
    assert answer.status_code == status
    assert "root:" not in answer.text
    assert "[station]" not in answer.text


def test_events_tell_of_each_verdict(site: Site) -> None:
    with site.client.stream("GET", "/api/v1/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: status"
        site.arrive("B7/P7_01.png", seed=7)
        assert "event: verdict" in lines  # reads up to it
        told = json.loads(next(lines).removeprefix("data: "))
    assert {name: told[name] for name in ("resultType", "batchId", "partId", "view")} == {
        "resultType": "frame", "batchId": "B7", "partId": "P7", "view": "01",
    }  # fmt: skip
    assert set(told) == {
        "resultId", "resultType", "resultEvaluation", "recipeId", "batchId", "partId", "view",
    }  # fmt: skip
    assert site.json(f"/api/v1/verdicts/{told['resultId']}")["verdict"]["partId"] == "P7"


def test_numbers_behind_the_charts(site: Site) -> None:
    scores = site.json("/api/v1/scores", recipe="blur", view="02")
    assert {"OK", "NotOK"} <= {point["evaluation"] for point in scores["points"]}
    assert scores["points"] == sorted(scores["points"], key=lambda point: point["time"])
    flow = site.json("/api/v1/throughput", minutes=10)
    assert (flow["stepS"], len(flow["buckets"])) == (60, 10)
    assert sum(bucket["NotOK"] for bucket in flow["buckets"]) >= 1
    assert max(bucket["latencyP99_s"] or 0 for bucket in flow["buckets"]) > 0
    explored = site.json("/api/v1/explorer", recipe="blur", view="02")
    assert len(explored["calibration"]) == 20
    assert max(explored["calibration"]) <= 1.0
    by_id = {one["resultId"]: one for one in explored["frames"]}
    bad = site.verdict("P2", "02")
    assert by_id[bad["resultId"]]["score"] == pytest.approx(bad["score"], rel=1e-4)
    site.json("/api/v1/explorer", 404, recipe="nothing")
    site.json("/api/v1/explorer", 400)
    site.json("/api/v1/throughput", 400, minutes=0)
    assert site.json("/api/v1/facets")["views"] == {"blur": ["01", "02"]}


def test_health_says_what_is_wrong_and_what_to_do(site: Site) -> None:
    found = site.json("/api/v1/health")
    assert found["ready"] is True
    assert {check["state"] for check in found["checks"]} == {"ok"}
    moved = site.folder / "elsewhere"
    (site.folder / "incoming").rename(moved)
    try:
        until(lambda: not site.json("/api/v1/health")["ready"], "the folder is missed")
        first = site.json("/api/v1/health")["checks"][0]
        assert (first["name"], first["state"]) == ("source:scanner", "fault")
        assert "incoming" in first["what"]
        assert "network drive" in first["fix"]
    finally:
        moved.rename(site.folder / "incoming")
    until(lambda: site.json("/api/v1/health")["ready"], "it is back")

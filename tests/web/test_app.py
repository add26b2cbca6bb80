"""What the HTTP application answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.web.app import STATIC
from tests.web.sites import Site


def test_metrics_are_those_of_the_registry(site: Site) -> None:
    site.metrics.frames.labels("ct", "bracket", "OK").inc(7)
    answer = site.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'edge_frames_total{evaluation="OK",recipe="bracket",source="ct"} 7.0' in answer.text


def test_alive_as_long_as_every_loop_beats(site: Site) -> None:
    site.health.expect("intake", 5.0, 0.0)
    assert site.client.get("/healthz").status_code == 200
    site.now_s = 6.0
    answer = site.client.get("/healthz")
    assert answer.status_code == 503
    assert list(answer.json()["reasons"]) == ["intake"]


def test_ready_or_503_with_the_reasons(site: Site) -> None:
    site.health.set("source:ct", False, "no such folder")
    answer = site.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": {"source:ct": "no such folder"}}
    site.health.set("source:ct", True)
    answer = site.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": {}})


def test_status_is_passed_on(site: Site) -> None:
    assert site.client.get("/api/v1/status").json() == {"station": "ct-1", "frames": 3}


def test_verdicts_as_many_as_asked_for(site: Site) -> None:
    assert len(site.client.get("/api/v1/verdicts").json()) == 50
    assert site.client.get("/api/v1/verdicts?limit=2").json() == [{"resultId": "R0"}, {"resultId": "R1"}]


@pytest.mark.parametrize(
    "limit", ["0", "-1", "1001", "ten", "", "٣", "9" * 5000, "0000000501234", "1" + "0" * 5000]
)
def test_limit_that_is_none_is_refused(site: Site, limit: str) -> None:
    answer = site.client.get("/api/v1/verdicts", params={"limit": limit})
    assert answer.status_code == 400
    assert "1000" in answer.json()["error"]


def test_control_charts_of_all_or_of_one_view(site: Site) -> None:
    assert [c["view"] for c in site.client.get("/api/v1/spc").json()["charts"]] == ["01", "02"]
    answer = site.client.get("/api/v1/spc", params={"recipe": "bracket", "view": "02", "last": 7})
    assert answer.json() == {"charts": [{"recipe": "bracket", "view": "02"}]}
    assert site.client.get("/api/v1/spc", params={"view": ""}).json() == {"charts": []}
    assert site.charts.asked == [(None, None, 50), ("bracket", "02", 7), (None, "", 50)]


def test_a_control_chart_is_drawn_or_not_found(site: Site) -> None:
    answer = site.client.get("/api/v1/spc.svg", params={"recipe": "bracket", "view": "01"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    assert answer.text == "<svg/>"
    assert site.client.get("/api/v1/spc.svg", params={"recipe": "bracket"}).status_code == 404


@pytest.mark.parametrize("path", ["/api/v1/spc", "/api/v1/spc.svg"])
@pytest.mark.parametrize("last", ["0", "1001", "ten"])
def test_a_number_of_batches_that_is_none_is_refused(site: Site, path: str, last: str) -> None:
    answer = site.client.get(path, params={"last": last})
    assert (answer.status_code, answer.json()) == (400, {"error": "last: a number from 1 to 1000"})


def test_evidence_is_served_from_its_folder_and_from_nowhere_else(site: Site, tmp_path: Path) -> None:
    (site.evidence / "a").mkdir(parents=True)
    (site.evidence / "a" / "overlay.png").write_bytes(b"picture")
    (tmp_path / "secret").write_text("secret")
    (site.evidence / "link").symlink_to(tmp_path / "secret")
    answer = site.client.get("/evidence/a/overlay.png")
    assert (answer.content, answer.headers["content-type"]) == (b"picture", "image/png")
    for path in ("../secret", "%2e%2e/secret", "a/..%2f..%2fsecret", "link", "a", "", "%00"):
        assert site.client.get(f"/evidence/{path}").status_code in (404, 405), path


def test_evidence_folder_that_is_not_there_yet_is_not_found(site: Site) -> None:
    assert site.client.get("/evidence/a/overlay.png").status_code == 404


@pytest.mark.parametrize("path", ["/", "/metrics", "/readyz", "/static/page.js", "/nowhere"])
def test_every_answer_has_security_headers(site: Site, path: str) -> None:
    headers = site.client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/api/v1/status", "/api/v1/verdicts", "/api/v1/spc", "/evidence/x"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(site: Site, path: str, method: str) -> None:
    assert site.client.request(method, path).status_code == 405


def test_page_needs_nothing_from_elsewhere(site: Site) -> None:
    page = site.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert '<html lang="en">' in page.text
    texts = [page.text]
    assert "static/page.css" in page.text
    assert "static/page.js" in page.text
    for part in [path.name for path in STATIC.iterdir() if path.suffix in (".css", ".js")]:
        answer = site.client.get(f"/static/{part}")
        assert answer.status_code == 200
        texts.append(answer.text)
    assert len(texts) > 10
    assert not any("http://" in text or "https://" in text for text in texts)
    for hole in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style="):
        assert not any(hole in text for text in texts), hole

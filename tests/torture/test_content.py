"""Content that lies, through the whole daemon: a recorded reason, never OK, and the next frame is judged."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge.testing import write_frame
from tests.brokers import until
from tests.decode import bombs
from tests.decode import builders as make
from tests.decode.test_lies import holes_are_told
from tests.e2e.conftest import Site, recipe, site

__all__ = ["recipe", "site"]  # fixtures


def verdicts(site: Site) -> dict[str, dict[str, Any]]:
    """The last verdict of each frame, by its name."""
    found = [json.loads(body) for body in site.subscriber.bodies("result/frame")]
    return {verdict["image"]["path"].removeprefix("B1/"): verdict for verdict in found}


def said(site: Site, name: str) -> tuple[str, list[str]]:
    verdict = verdicts(site)[name]
    return verdict["resultEvaluation"], verdict["reasons"]


def width(site: Site, name: str) -> int:
    """Of the frame as it was decoded; 0 while it was not."""
    return int(verdicts(site)[name]["image"]["width"]) if name in verdicts(site) else 0


def checksum_beside(file: Path, digest: str) -> Path:
    beside = file.with_name(f"{file.name}.sha256")
    beside.write_text(f"{digest}  {file.name}\n")
    return beside


@pytest.mark.mosquitto
def test_frames_are_held_against_the_checksums_beside_them(site: Site) -> None:
    site.configure(checksum=".sha256", include=["*"], incomplete_after_s=5.0)
    incoming = site.folder / "incoming/B1"
    incoming.mkdir()
    right = write_frame(incoming / "right_01.png", seed=1)
    wrong = write_frame(incoming / "wrong_01.png", seed=2)
    late = write_frame(incoming / "late_01.png", seed=3)
    write_frame(incoming / "without_01.png", seed=4)
    checksum_beside(right, hashlib.sha256(right.read_bytes()).hexdigest())
    checksum_beside(wrong, hashlib.sha256(right.read_bytes()).hexdigest())
    daemon = site.start()
    until(lambda: "right_01.png" in verdicts(site), "the first verdict")
    assert "late_01.png" not in verdicts(site)
    checksum_beside(late, hashlib.sha256(late.read_bytes()).hexdigest())
    until(lambda: len(verdicts(site)) == 3, "three verdicts")
    assert said(site, "right_01.png") == ("OK", [])
    assert said(site, "late_01.png") == ("OK", [])
    assert said(site, "wrong_01.png") == ("NotDecidable", ["checksum_mismatch"])
    assert "without_01.png" not in verdicts(site)  # it is waited for, like a marker, and counted
    until(lambda: daemon.status()["backlog"]["scanner"]["waiting"] == 1, "one is waited for")
    assert daemon.stop()[0] == 0
    assert len(verdicts(site)) == 3  # checksum files are no frames


@pytest.mark.mosquitto
def test_a_copy_whose_space_was_reserved_first_is_judged_when_it_is_filled(site: Site) -> None:
    site.configure(include=["*"])
    incoming = site.folder / "incoming/B1"
    incoming.mkdir()
    if not holes_are_told(incoming):
        assert os.environ.get("EDGE_REQUIRE_ALL") != "1", "needs a file system that tells of holes"
        pytest.skip("this file system does not tell of holes")
    (incoming / "probe").unlink()
    whole = make.tiff(make.grey(height=480, width=640))
    for name in ("never_01.tif", "later_01.tif"):
        bombs.sparse(incoming / name, whole[: len(whole) // 2], len(whole))
    site.start()
    until(lambda: "never_01.tif" in verdicts(site), "a verdict on what was never filled")
    assert said(site, "never_01.tif") == ("NotDecidable", ["has_holes"])
    (incoming / "later_01.tif").write_bytes(whole)
    until(lambda: width(site, "later_01.tif") == 640, "the filled one is decoded")


@pytest.mark.mosquitto
def test_colour_is_not_called_ok_where_the_recipe_knows_grey(site: Site) -> None:
    incoming = site.folder / "incoming/B1"
    incoming.mkdir()
    grey = cv2.imread(str(write_frame(site.folder / "scratch.png")), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    cv2.imwrite(str(incoming / "grey_01.png"), grey)
    cv2.imwrite(str(incoming / "colour_01.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    site.start()
    until(lambda: len(verdicts(site)) == 2, "two verdicts")
    assert said(site, "grey_01.png") == ("OK", [])
    assert said(site, "colour_01.png") == ("NotDecidable", ["colour_outside_calibration"])


@pytest.mark.mosquitto
def test_bombs_are_recorded_as_too_large_and_cost_nothing_else(site: Site) -> None:
    site.configure(include=["*"])
    incoming = site.folder / "incoming/B1"
    incoming.mkdir()
    for kind, build in bombs.HEADS.items():
        bombs.sparse(incoming / f"{kind}_header", build(bombs.HUGE_PX), 0)
        bombs.sparse(incoming / f"{kind}_whole", build(bombs.WIDE_PX), 2 * bombs.WIDE_PX**2)
    write_frame(incoming / "frame_01.png")
    daemon = site.start()
    until(lambda: len(verdicts(site)) == 2 * len(bombs.HEADS) + 1, "a verdict each")
    assert said(site, "frame_01.png") == ("OK", [])
    for name in verdicts(site).keys() - {"frame_01.png"}:
        assert said(site, name) == ("NotDecidable", ["too_large"])
    assert "edge_worker_restarts_total 0.0" in daemon.get("/metrics")[1]
    assert daemon.stop()[0] == 0

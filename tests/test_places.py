"""Where frames that were judged are found again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from edge.config import Settings, load
from edge.places import CHANGED, NEVER_READ, NO_FILE, NO_SOURCE, Places
from tests.sites import write_config

DATA = b"the bytes of a frame"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(write_config(tmp_path, 1, 2))


def payload(path: str = "B1/P1_01.PNG", evidence: str | None = None, sha256: str = SHA256) -> dict[str, Any]:
    return {"image": {"path": path, "sha256": sha256}, "evidence": evidence}


def put(file: Path, data: bytes = DATA) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_a_frame_is_found_where_it_came_from_kept_by_a_review_or_with_its_evidence(
    settings: Settings,
) -> None:
    places, state = Places(settings), settings.paths.state
    came = put(settings.source[0].directory / "B1/P1_01.PNG")
    assert places.find(payload(), "scanner") == (came, "")
    came.unlink()
    assert places.find(payload(), "scanner") == (None, NO_FILE)
    reviewed = put(places.reviewed(SHA256, "B1/P1_01.PNG"))
    assert reviewed == state / "reviewed" / f"{SHA256}.PNG"
    assert places.find(payload(), "scanner") == (reviewed, "")
    reviewed.unlink()
    kept = put(state / "evidence/2026-11-28/R1/frame.png")
    assert places.find(payload(evidence="2026-11-28/R1"), "gone") == (kept, "")


def test_other_content_is_never_taken_for_it(settings: Settings) -> None:
    put(settings.source[0].directory / "B1/P1_01.PNG", b"another frame")
    assert Places(settings).find(payload(), "scanner") == (None, CHANGED)


def test_what_was_never_read_and_what_has_no_source_is_said(settings: Settings) -> None:
    assert Places(settings).find(payload(sha256=""), "scanner") == (None, NEVER_READ)
    assert Places(settings).find(payload(), "another") == (None, NO_SOURCE)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret"])
def test_a_path_that_leads_out_of_its_source_is_not_followed(settings: Settings, path: str) -> None:
    put(settings.source[0].directory.parent / "secret")
    found = list(Places(settings).candidates(payload(path), "scanner"))
    assert found == [Places(settings).reviewed(SHA256, path)]


@pytest.mark.parametrize("evidence", ["..", "../..", "/etc", "", None, "2026-11-28/none"])
def test_evidence_is_only_looked_for_below_its_root(settings: Settings, evidence: str | None) -> None:
    put(settings.paths.state / "frame.png")
    assert Places(settings).find(payload(evidence=evidence), "scanner") == (None, NO_FILE)


@pytest.mark.parametrize(
    ("path", "suffix"), [("a.tar.gz", ".tar.gz"), ("a", ""), ("a.b c", ""), ("v1.2.dcm", ".2.dcm")]
)
def test_a_copy_has_the_suffix_that_decoders_know_it_by(settings: Settings, path: str, suffix: str) -> None:
    assert Places(settings).reviewed(SHA256, path).name == f"{SHA256}{suffix}"

"""Sets: copies are one part, and what cannot be measured is refused at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge.accuracy.frame_sets import read_sets
from edge.errors import DataError, MissingInputError
from tests.accuracy.frames import write_set


def test_copies_of_a_frame_are_of_one_part(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    shutil.copy(tmp_path / "set" / "g0.png", tmp_path / "set" / "copy.png")
    shutil.copy(tmp_path / "set" / "g7.png", tmp_path / "set" / "copy2.png")
    with manifest.open("a") as stream:
        stream.write("copy.png,good,,,other,,\ncopy2.png,good,,,other,,\n")
    (frames,) = read_sets([manifest])
    groups = {r.sample.path: r.group for r in frames.rows}
    one = ("g0.png", "g1.png", "copy.png", "copy2.png", "g6.png", "g7.png")
    assert len({groups[name] for name in one}) == 1
    assert groups["g2.png"] == "part p1"


def test_names_are_of_the_folder_and_never_twice(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_set(tmp_path / folder / "tiles")
    named = shutil.copy(tmp_path / "a" / "tiles" / "manifest.csv", tmp_path / "a" / "tiles" / "other.csv")
    sets = read_sets([tmp_path / "a/tiles/manifest.csv", tmp_path / "b/tiles/manifest.csv", Path(named)])
    assert [s.name for s in sets] == ["tiles", "tiles-2", "other"]
    assert len({s.sha256 for s in sets}) == 1, "the same frames"


def test_the_digest_changes_with_frames_masks_and_labels(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    seen = {read_sets([manifest])[0].sha256}
    shutil.copy(tmp_path / "set" / "m0.png", tmp_path / "set" / "kept")
    for name in ("g0.png", "m0.png"):
        with (tmp_path / "set" / name).open("ab") as stream:
            stream.write(b"x")
        seen.add(read_sets([manifest])[0].sha256)
    manifest.write_text(manifest.read_text().replace("g1.png,good,,,p0", "g1.png,good,,,p1"))
    seen.add(read_sets([manifest])[0].sha256)
    assert len(seen) == 4


def test_sets_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such manifest"):
        read_sets([tmp_path / "none.csv"])
    manifest = write_set(tmp_path / "set")
    with pytest.raises(MissingInputError, match="a folder"):
        read_sets([tmp_path / "set"])
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join(r for r in rows if ",good," not in r))
    with pytest.raises(DataError, match="no good frame"):
        read_sets([manifest])
    manifest.write_text("\n".join(r for r in rows if ",defect," not in r or r.startswith("path")))
    with pytest.raises(DataError, match="no defect frame"):
        read_sets([manifest])

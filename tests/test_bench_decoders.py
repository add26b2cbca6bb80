"""The bench that compares decoders: what it may claim, and that it says what it leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import decoders
from bench.context import Context


def test_it_runs_without_images_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DATA", str(tmp_path))
    section = decoders.run(Context(tmp_path, quick=True, say=lambda text: None))
    assert "Left out: data absent" in "\n".join(section.lines)
    shipped = [timing for timing in section.facts["timings"] if timing[2] == decoders.SHIPPED]
    assert {timing[0] for timing in shipped} == {"PNG", "TIFF", "DICOM"}
    assert all(ms > 0 and not trouble for *_, ms, trouble in shipped)


PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)


def failing() -> np.ndarray:
    raise ValueError


@pytest.mark.parametrize(
    ("read", "lossy", "trouble"),
    [
        (lambda: PIXELS[..., None], False, ""),
        (lambda: PIXELS + 1, False, "gives other pixels"),
        (lambda: PIXELS + 1, True, ""),
        (lambda: PIXELS + 5, True, "gives other pixels"),
        (lambda: PIXELS[:2], False, "gives (2, 4) uint16"),
        (failing, False, "fails: ValueError"),
    ],
)
def test_a_reader_of_other_pixels_has_no_figure(read: decoders.Read, lossy: bool, trouble: str) -> None:
    assert decoders._trouble(read, PIXELS, lossy) == trouble

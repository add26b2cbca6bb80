"""Sites with stored verdicts, and candidates that judge otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge import app
from edge import config as configuration
from edge.cli import _run
from edge.config import Settings
from edge.decode import Limits
from edge.inspect import verdicts
from edge.intake.naming import compile_naming
from edge.judge.calibration import Calibration, load_calibration, save_calibration
from edge.pipeline import Inspector, PrepareJob
from edge.publish.payload import encode
from edge.recipes import open_recipe
from edge.record import evidence
from edge.record.store import Store
from edge.testing import write_frame
from edge.types import Identity, Verdict
from tests.sites import make_recipe, write_config

NAMING = compile_naming("{batch}/{part}_{view}")


def make_site(folder: Path, good: int = 3, defects: int = 2) -> Settings:
    """A site whose frames in incoming/B1 have stored verdicts: good ones OK, defects NotOK."""
    make_recipe(folder)
    settings = configuration.load(write_config(folder, 1, 0))
    for number in range(good + defects):
        write_frame(frame_of(folder, number), defect=number >= good, seed=number)
    remember(settings, sorted((folder / "incoming").rglob("*.png")))
    return settings


def frame_of(folder: Path, number: int) -> Path:
    return folder / "incoming" / "B1" / f"P{number}_01.png"


def remember(settings: Settings, files: list[Path], **image: Any) -> None:
    """Judge files by the current recipe, and store the verdicts as the daemon does."""
    inspector = open_recipe(settings, "blur")
    store = Store(settings.paths.state / app.DATABASE)
    root = settings.source[0].directory
    jobs = [
        PrepareJob(
            file, file.relative_to(root).as_posix(), None, inspector.bundle.manifest.preprocess,
            Limits(10**8, 8), assets=inspector.bundle.folder, naming=NAMING,
            named=file.relative_to(root).as_posix(),
        )
        for file in files
    ]  # fmt: skip
    created = 1_790_000_000.0
    with store.transaction():
        for _, payload, found in verdicts(jobs, inspector, station="st", recipe="blur"):
            created += 1
            if found is not None and payload["resultEvaluation"] == "NotOK":
                pictures = evidence.pictures(found.frame, found.score, found.judgement)
                payload["evidence"] = evidence.save(
                    settings.paths.state / app.EVIDENCE, payload["resultId"], created, pictures
                )
            who = Identity(payload["partId"], payload["view"], payload["batchId"])
            verdict = Verdict(
                payload["resultId"], "frame", "blur", payload["resultEvaluation"], who, created, payload
            )
            store.add_verdict(verdict, encode(payload), "scanner")
    store.close()


def scaled_calibration(settings: Settings, name: str, factor: float) -> Calibration:
    """calibration/NAME.json with all thresholds of the current recipe times `factor`."""
    inspector: Inspector = open_recipe(settings, "blur")
    current = load_calibration(settings.paths.calibration / "blur.json", inspector.bundle.digest)
    views = {
        view: limits.model_copy(
            update={
                "threshold": limits.threshold * factor,
                "pixel_threshold": limits.pixel_threshold * factor,
                "plane_mean": (0.0, 1.0),  # any frame looks as good ones do: only the score decides
                "plane_std": (0.0, 1.0),
                "sharpness": None,
            }
        )
        for view, limits in current.views.items()
    }
    changed = current.model_copy(update={"views": views})
    save_calibration(settings.paths.calibration / f"{name}.json", changed)
    return changed


def replay(
    settings: Settings, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, dict[str, Any]]:
    """(exit code, what --json printed)."""
    capsys.readouterr()
    command = ["replay", "--config", str(settings.file), "--recipe", "blur", "--json", *arguments]
    code = _run(command)
    printed = capsys.readouterr()
    assert printed.out, printed.err
    document: dict[str, Any] = json.loads(printed.out)
    return code, document

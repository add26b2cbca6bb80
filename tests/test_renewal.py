"""A recipe's files are replaced as one: a crash between any two steps leaves a pair that loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge import config
from edge.artifacts import write_signed_json
from edge.errors import BundleError, CannotWriteError, ConfigError
from edge.infer.bundle import MANIFEST, load_bundle
from edge.judge.calibration import load_calibration, save_calibration
from edge.recipes import find_recipe
from edge.renewal import Renewal, calibration_to_load, engine_to_load
from tests.sites import make_recipe

STEPS = ["rename", "rename", "replace", "rename", "replace"]  # of a swap, in its order


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def renewal(tmp_path: Path) -> Renewal:
    """A recipe, and its finished successor beside it."""
    wanted = Renewal(tmp_path / "engines" / "blur", tmp_path / "calibration" / "blur.json")
    make_recipe(tmp_path)
    old = load_bundle(wanted.engine).manifest
    make_recipe(tmp_path / "later")
    new = Renewal(tmp_path / "later/engines/blur", tmp_path / "later/calibration/blur.json")
    relearned(new, old.created.replace("20", "19", 1))
    new.engine.rename(wanted.new_engine)
    new.calibration.rename(wanted.new_calibration)
    return wanted


def relearned(renewal: Renewal, created: str) -> None:
    """As if it had been learned at another time: a bundle of its own, and a calibration that fits."""
    bundle = load_bundle(renewal.engine)
    calibration = load_calibration(renewal.calibration, bundle.digest)
    write_signed_json(renewal.engine / MANIFEST, bundle.manifest.model_copy(update={"created": created}))
    digest = load_bundle(renewal.engine).digest
    save_calibration(renewal.calibration, calibration.model_copy(update={"bundle_sha256": digest}))


def loaded(renewal: Renewal) -> str:
    """The digest of the bundle that loads, with a calibration that fits it."""
    digest = load_bundle(engine_to_load(renewal.engine)).digest
    assert calibration_to_load(renewal.calibration, digest).bundle_sha256 == digest
    return digest


def left(renewal: Renewal) -> set[str]:
    return {
        file.name
        for folder in (renewal.engine.parent, renewal.calibration.parent)
        for file in folder.iterdir()
    }


def test_a_swap_puts_the_new_pair_in_and_keeps_the_old_one(renewal: Renewal) -> None:
    old, new = loaded(renewal), load_bundle(renewal.new_engine).digest
    assert old != new
    assert renewal.swap()
    assert loaded(renewal) == new
    assert left(renewal) == {"blur", "blur.json", ".blur.previous", ".blur.previous.json"}
    assert load_bundle(renewal.previous_engine).digest == old
    load_calibration(renewal.previous_calibration, old)


def test_only_the_last_pair_is_kept(renewal: Renewal) -> None:
    for _ in range(2):
        before = loaded(renewal)
        if not renewal.new_engine.exists():
            shutil.copytree(renewal.engine, renewal.new_engine)
            shutil.copy(renewal.calibration, renewal.new_calibration)
        renewal.swap()
        assert load_bundle(renewal.previous_engine).digest == before
    load_calibration(renewal.previous_calibration, before)
    assert left(renewal) == {"blur", "blur.json", ".blur.previous", ".blur.previous.json"}


def test_a_first_engine_replaces_none(renewal: Renewal) -> None:
    shutil.rmtree(renewal.engine)
    renewal.calibration.unlink()
    assert not renewal.swap()
    assert left(renewal) == {"blur", "blur.json"}


@pytest.mark.parametrize("steps", range(len(STEPS)))
@pytest.mark.parametrize("error", [Crash, OSError])
def test_a_crash_at_any_step_leaves_a_pair_that_loads_and_is_cleared(
    renewal: Renewal, monkeypatch: pytest.MonkeyPatch, steps: int, error: type[BaseException]
) -> None:
    old, new = loaded(renewal), load_bundle(renewal.new_engine).digest
    done: list[str] = []

    def interrupt(step: str) -> None:
        real = getattr(Path, step)

        def move(self: Path, target: Path) -> Path:
            if len(done) == steps:
                raise error
            done.append(step)
            moved: Path = real(self, target)
            return moved

        monkeypatch.setattr(Path, step, move)

    with monkeypatch.context() as monkeypatch:
        for step in set(STEPS):
            interrupt(step)
        with pytest.raises((Crash, CannotWriteError)):
            renewal.swap()
    assert done == STEPS[:steps]
    assert loaded(renewal) == (old if steps < 2 else new)
    renewal.clear()
    assert loaded(renewal) == (old if steps < 2 else new)
    assert left(renewal) - {".blur.previous"} == {"blur", "blur.json"}


def test_what_is_wrong_with_a_calibration_is_said_of_it_and_not_of_one_that_waits(renewal: Renewal) -> None:
    renewal.calibration.write_text("{}")
    with pytest.raises(BundleError, match=r"blur\.json: damaged"):
        calibration_to_load(renewal.calibration, load_bundle(renewal.engine).digest)


def test_an_unfinished_recipe_is_not_offered(renewal: Renewal, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ConfigError) as caught:
        find_recipe(config.load(tmp_path / "config.toml"), "other")
    assert caught.value.hint == "known: blur"

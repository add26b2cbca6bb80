"""A recipe's engine and calibration, replaced as one: whatever happens meanwhile, one of the two pairs loads.

Two files in two folders cannot be renamed in one step. So the new pair is written beside the old one, and
swapped in this order: old engine aside, new engine in, new calibration over the old, the old pair kept as the
previous one. A crash between two of these leaves a pair that `engine_to_load` and `calibration_to_load` find;
the next `edge learn` clears the rest.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge.errors import BundleError, CannotWriteError
from edge.infer.bundle import MANIFEST, load_bundle
from edge.judge.calibration import Calibration, load_calibration


@dataclass(frozen=True, slots=True)
class Renewal:
    """The places of a recipe's files, and of their successors."""

    engine: Path
    calibration: Path

    @property
    def new_engine(self) -> Path:
        return self.engine.with_name(f".{self.engine.name}.new")

    @property
    def new_calibration(self) -> Path:
        return _waiting(self.calibration)

    @property
    def previous_engine(self) -> Path:
        """What the last swap replaced. Its name is a recipe's: `edge replay --engine .NAME.previous`."""
        return self.engine.with_name(f".{self.engine.name}.previous")

    @property
    def previous_calibration(self) -> Path:
        return self.calibration.with_name(f".{self.calibration.stem}.previous.json")

    @property
    def resume(self) -> Path:
        """What an interrupted run needs to continue."""
        return self.engine.with_name(f".{self.engine.name}.resume")

    def clear(self) -> None:
        """Finish or undo a swap that a crash interrupted, and remove what it and unfinished runs left.

        Raises:
            CannotWriteError: a leftover cannot be moved or removed.
        """
        try:
            if not (self.engine / MANIFEST).is_file() and (_aside(self.engine) / MANIFEST).is_file():
                _remove(self.engine)
                _aside(self.engine).rename(self.engine)
            elif self.new_calibration.is_file() and self._fits(self.new_calibration):
                self.new_calibration.replace(self.calibration)
            leftovers = _aside(self.engine), _aside(self.calibration), self.new_engine, self.new_calibration
            for leftover in leftovers:
                _remove(leftover)
        except OSError as error:
            raise CannotWriteError(
                f"{self.engine}: leftovers of an interrupted run: {error}", hint="check permissions there"
            ) from None

    def swap(self) -> bool:
        """The new engine, and the new calibration if there is one, take the place of the old.

        Gives whether there was an old engine, which is now the previous one, with its calibration.

        Raises:
            CannotWriteError: it cannot be done; one of the two pairs still loads.
        """
        old, old_calibration = _aside(self.engine), _aside(self.calibration)
        try:
            for leftover in (old, old_calibration):
                _remove(leftover)
            if self.calibration.is_file():
                shutil.copyfile(self.calibration, old_calibration)
            if self.engine.exists():
                self.engine.rename(old)
            self.new_engine.rename(self.engine)
            _sync(self.engine.parent)
            if self.new_calibration.is_file():
                self.new_calibration.replace(self.calibration)
                _sync(self.calibration.parent)
            return self._keep_previous(old, old_calibration)
        except OSError as error:
            raise CannotWriteError(
                f"{self.engine}: cannot be replaced: {error}", hint="check permissions there, and learn again"
            ) from None

    def _keep_previous(self, engine: Path, calibration: Path) -> bool:
        for earlier in (self.previous_engine, self.previous_calibration):
            _remove(earlier)
        is_bundle = (engine / MANIFEST).is_file()
        if is_bundle:
            engine.rename(self.previous_engine)
            if calibration.is_file():
                calibration.replace(self.previous_calibration)
        for leftover in (engine, calibration):
            _remove(leftover)
        return is_bundle

    def _fits(self, calibration: Path) -> bool:
        try:
            load_calibration(calibration, load_bundle(self.engine).digest)
        except BundleError:
            return False
        return True


def engine_to_load(engine: Path) -> Path:
    """The engine's folder, or the old one where a crash left only that."""
    aside = _aside(engine)
    return aside if not (engine / MANIFEST).is_file() and (aside / MANIFEST).is_file() else engine


def calibration_to_load(calibration: Path, bundle_sha256: str) -> Calibration:
    """The calibration, or the one that still waits for its place where a crash left that and it alone fits.

    Raises:
        BundleError: as `load_calibration`.
    """
    try:
        return load_calibration(calibration, bundle_sha256)
    except BundleError:
        try:
            return load_calibration(_waiting(calibration), bundle_sha256)
        except BundleError:
            pass  # what is wrong with the calibration itself is what must be said
        raise


def _aside(engine: Path) -> Path:
    return engine.with_name(f".{engine.name}.old")


def _waiting(calibration: Path) -> Path:
    return calibration.with_name(f".{calibration.name}.new")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """A rename survives a power cut once its folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

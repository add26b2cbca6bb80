"""Good frames and a bundle → thresholds: what `edge calibrate` does, and the last step of `edge learn`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.artifacts import read_signed_json
from edge.dataset import Sample, Unreadable, frames
from edge.decode import Limits
from edge.errors import BundleError, DataError
from edge.infer.bundle import Bundle
from edge.infer.runtime import Runtime
from edge.judge.calibration import Calibration, GoodFrame, TooFew, calibrate, save_calibration
from edge.pipeline import Inspector
from edge.types import DEFAULT_VIEW, Frame


@dataclass(frozen=True, slots=True)
class CalibrationFrame:
    """A good frame, and what the engine said of it."""

    sample: Sample
    page: int
    good: GoodFrame


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A saved calibration, and what it rests on."""

    file: Path
    calibration: Calibration
    frames: tuple[CalibrationFrame, ...]
    learned: tuple[str, ...]  # paths left out, because the network was learned from them
    unreadable: tuple[Unreadable, ...]

    def shortfalls(self) -> list[str]:
        """What was not achieved of the wanted false-reject rate, a sentence a view; empty where all was."""
        wanted = self.calibration.false_reject
        return [
            f"view {view}: {len(limits.scores)} calibration frames bound false rejects to "
            f"{limits.false_reject_bound:.1%} of good frames ({_BASIS[limits.basis]}), not {wanted:.1%}"
            for view, limits in self.calibration.views.items()
            if limits.false_reject_bound > wanted + 1e-9
        ]


_BASIS = {
    "view": "its own scores",
    "pool": "the scores of all views together",
    "maximum": "the largest score and a factor",
}


def calibrate_recipe(
    wanted: Sequence[Sample],
    bundle: Bundle,
    runtime: Runtime,
    file: Path,
    *,
    recipe: str,
    false_reject: float,
    too_few: TooFew,
    limits: Limits,
    value_range: tuple[float, float] | None = None,
    views: Collection[str] = (),
    on_frame: Callable[[int, int], None] = lambda done, of: None,
) -> Calibrated:
    """Score good frames through the pipeline and save their thresholds as `file`.

    Frames stream: one is in memory at a time. Those that the network was learned from are left out, by the
    sha256 of their bytes: a network reconstructs what it has seen better than what it will see.

    Raises:
        DataError: no usable frame, or (`too_few="refuse"`) too few for a view, or none of one of `views`.
    """
    known = frozenset(bundle.manifest.training.get("learned_from", ()))
    learned: list[str] = []
    unreadable: list[Unreadable] = []
    seen: list[tuple[Sample, int]] = []

    def usable() -> Iterator[Frame]:
        for sample, frame in frames(_counted(wanted, on_frame), bundle.manifest.preprocess, limits,
                                    value_range, unreadable):  # fmt: skip
            if learned_id(frame.image.sha256) in known:
                learned.append(sample.path)
                continue
            seen.append((sample, frame.image.page))
            yield frame

    good = list(Inspector(bundle, runtime).good_frames(usable()))
    if not good:
        raise DataError(
            f"none of {len(wanted)} good frames can be calibrated with: {len(learned)} were learned from, "
            f"{len(unreadable)} cannot be read",
            hint="give good frames that the network has not seen",
            reason="too_few_frames",
        )
    _check_kept(views, {frame.view for frame in good})
    calibration = calibrate(
        good,
        recipe=recipe,
        bundle_sha256=bundle.digest,
        statistic=bundle.manifest.score.statistic,
        false_reject=false_reject,
        too_few=too_few,
    )
    return Calibrated(
        file=file,
        calibration=save_calibration(file, calibration),
        frames=tuple(CalibrationFrame(*at, frame) for at, frame in zip(seen, good, strict=True)),
        learned=tuple(dict.fromkeys(learned)),
        unreadable=tuple(unreadable),
    )


def calibrated_views(file: Path) -> tuple[str, ...]:
    """The views that have thresholds in a calibration; none where it is missing or damaged."""
    try:
        return tuple(read_signed_json(file, Calibration).views)
    except BundleError:
        return ()


def _check_kept(wanted: Collection[str], found: Collection[str]) -> None:
    """A view without thresholds is NotDecidable from then on: not by mistake."""
    lost = sorted(set(wanted) - set(found))
    if not lost:
        return
    raise DataError(
        f"no good frame of view {', '.join(lost)}, which would lose its thresholds; there are frames of "
        f"{', '.join('no named view' if view == DEFAULT_VIEW else f'view {view}' for view in sorted(found))}",
        hint="say which view each frame shows with --template, --pattern or --manifest, add frames of the "
        "missing views, or give --drop-views",
        reason="views_missing",
    )


def learned_id(sha256: str) -> str:
    """How a bundle remembers a frame it was learned from: 64 bits of the file's digest."""
    return sha256[:16]


def _counted(wanted: Sequence[Sample], on_frame: Callable[[int, int], None]) -> Iterable[Sample]:
    for done, sample in enumerate(wanted):
        on_frame(done, len(wanted))
        yield sample

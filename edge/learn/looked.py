"""Good frames are looked at before anything is learned: what `edge learn` chooses by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.dataset import Sample, Unreadable, frames, none_readable
from edge.decode import Limits
from edge.learn.automatic import Choices, choose
from edge.learn.models import of_name
from edge.learn.progress import Event, Listener
from edge.learn.survey import MOST_FRAMES, Seen, Survey, drawn, survey
from edge.preprocess import PreprocessSpec
from edge.types import DEFAULT_VIEW, FloatImage


def choices_for(
    wanted: Sequence[Sample],
    preprocess: PreprocessSpec,
    limits: Limits,
    pinned: Mapping[str, Any],
    seed: int,
    listen: Listener,
    assets: Path | None = None,
    keeps_size: bool = False,
) -> Choices:
    """What to learn with, from a sample of the good frames as `preprocess` prepares them; pinned values win.

    Frames are looked at before scale and illumination, which are among what is chosen or asked for; and once
    more at the size of the network that is chosen, if that has one.

    Raises:
        DataError: none of them can be read.
    """
    good = [sample for sample in wanted if sample.label == "good"]
    chosen = [good[k] for k in drawn([sample.view or "" for sample in good], MOST_FRAMES, seed)]
    unreadable: list[Unreadable] = []  # said when all are read
    seen: list[Seen] = []
    before = preprocess.model_copy(update={"scale": 1.0, "illumination": "none"})
    found = frames(chosen, before, limits, unreadable=unreadable, assets=assets)
    for sample, frame in found:
        listen(Event("look", sample.path, len(seen) / len(chosen)))
        seen.append(
            Seen(frame.plane, frame.identity.view or DEFAULT_VIEW, frame.identity.part, frame.image.bits)
        )

    if not seen and unreadable:
        raise none_readable(unreadable)

    def facts(of: Sequence[Seen]) -> Survey:
        return replace(
            survey(of, seed=seed),
            frames=len(good),
            parts=len({sample.part for sample in good if sample.part}),
            views=len({sample.view for sample in good}),
        )

    masked = preprocess.mask is not None
    choices = choose(facts(seen), pinned, keeps_size=keeps_size, masked=masked)
    if (size_px := of_name(choices.model.value).size_px) not in (None, preprocess.size_px):
        resized = [replace(one, plane=_resized(one.plane, size_px)) for one in seen]
        at_size = choose(facts(resized), {**pinned, "model": choices.model.value}, masked=masked)
        choices = replace(at_size, model=choices.model)
    for sentence in choices.sentences():
        listen(Event("look", sentence))
    return choices


def _resized(plane: NDArray[np.floating], size_px: tuple[int, int]) -> FloatImage:
    return np.asarray(
        cv2.resize(np.asarray(plane, np.float32), size_px, interpolation=cv2.INTER_AREA), np.float32
    )

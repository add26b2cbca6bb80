"""Good frames are looked at before anything is learned: what `edge learn` chooses by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.dataset import Sample, Unreadable, frames
from edge.decode import Limits
from edge.learn.automatic import Choices, choose
from edge.learn.progress import Event, Listener
from edge.learn.survey import MOST_FRAMES, Seen, drawn, survey
from edge.preprocess import PreprocessSpec
from edge.types import DEFAULT_VIEW


def choices_for(
    wanted: Sequence[Sample],
    preprocess: PreprocessSpec,
    limits: Limits,
    pinned: Mapping[str, Any],
    seed: int,
    listen: Listener,
    assets: Path | None = None,
) -> Choices:
    """What to learn with, from a sample of the good frames as `preprocess` prepares them; pinned values win.

    Frames are looked at before scale and illumination, which are among what is chosen or asked for.

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
    facts = replace(
        survey(seen, seed=seed),
        frames=len(good),
        parts=len({sample.part for sample in good if sample.part}),
        views=len({sample.view for sample in good}),
    )
    choices = choose(facts, pinned)
    for sentence in choices.sentences():
        listen(Event("look", sentence))
    return choices

"""Named choices of options: the five systems edge grew from, as they were. Every choice is an option of its
own, and what is given on the command line goes before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge.errors import UsageError

Options = Mapping[str, Any]

PRESETS: Mapping[str, Options] = {
    # A: 29×29 patches of SEM frames, all good or all defect
    "nanofibre-patches": {"model": "patch-cnn-29", "patch_rule": "pure"},
    # B: masked, equalised, masked again; tiles through the 31-layer autoencoder; squared residual, its root
    # mean over the part; per view the largest score of good frames
    "bricks": {
        "model": "cae",
        "size": "1536x1024",
        "mask": "otsu",
        "clahe": True,
        "loss": "l2",
        "score_map": "l2",
        "smooth": 0.0,
        "statistic": "rmse",
        "threshold": "max",
    },
    # C: four classes by a U-Net
    "steel-strip": {"model": "unet-steel", "loss": "bce+dice", "tiled": True},
    # D: autoencoder and classifier on grey 256×256; no defect may pass
    "solder": {"model": "supervised-ae-256", "min_recall": 0.99},
    # E: 64×64 fragments at half steps, judged by the spread of their residual
    "weld-fragments": {
        "model": "fragment-cae",
        "loss": "l2",
        "score_of": "fragment",
        "score_map": "l2",
        "smooth": 0.0,
        "statistic": "std",
    },
}


def with_preset(options: Options, name: str | None, is_given: Callable[[str], bool]) -> dict[str, Any]:
    """The options with a preset's choices for those that were not given.

    Raises:
        UsageError: no such preset.
    """
    if name is None:
        return dict(options)
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}", hint=f"choose {', '.join(PRESETS)}")
    chosen = {key: value for key, value in PRESETS[name].items() if key in options and not is_given(key)}
    if is_given("scale"):
        chosen.pop("size", None)
    return {**options, **chosen}

"""Hair cracks on commutators: a segmenter learned from a handful of masks, every frame tested once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.context import Context
from bench.manifests import Row, read, write
from bench.section import Section, table

FOLDS = 5
MINUTES = 4.0  # a fold
SEED = 1
MIN_AREA_PX = 75  # of the plane: 300 of the frame, chosen before any test
SCALE = 0.5  # cracks are 5 to 15 px wide, their masks 10 to 30
AIM_DICE, AIM_FALSE_ALARMS, ORIGIN_DICE = 0.75, 0.02, 0.69


def run(context: Context) -> Section:
    """Five networks, each tested on the commutators that it was not learned from."""
    rows = read(context.dataset("commutator"))
    fold_of = folds(rows, FOLDS)
    count = context.size(FOLDS, 1)
    tested = [_fold(context, rows, fold_of, k) for k in range(count)]
    total = pooled([fold["evaluate"] for fold in tested])
    lines = [
        f"Ten frames have a crack and 49 have none, of {len(fold_of)} commutators. {count} "
        f"of {FOLDS} folds by commutator: all frames of a commutator are on one side. Each fold: `edge learn "
        f"--model segmenter --scale {SCALE:g}` ({MINUTES:g} minutes, seed {SEED}) on the others, which also "
        "give its thresholds; then `edge evaluate` of the fold.",
        "",
        *_aims(total),
        "",
        *_by_fold(tested),
        "",
        f"Pixel figures at the calibrated pixel threshold, in the frames' own pixels. Dice of the origin on "
        f"its steel sheets: {ORIGIN_DICE}.",
    ]
    return Section(
        "commutator: hair cracks from at most eight masks", lines, {"pooled": total, "folds": tested}
    )


def folds(rows: Sequence[Row], count: int) -> Mapping[str, int]:
    """Part → fold: parts with most defect frames first, each to the fold that has fewest of these."""
    defects = Counter(row.part for row in rows if row.label == "defect")
    frames = Counter(row.part for row in rows)
    load: dict[int, tuple[int, int]] = dict.fromkeys(range(count), (0, 0))
    chosen = {}
    for part in sorted(frames, key=lambda part: (-defects[part], -frames[part], part)):
        fold = min(load, key=lambda k: (load[k], k) if defects[part] else (load[k][::-1], k))
        chosen[part] = fold
        load[fold] = load[fold][0] + defects[part], load[fold][1] + frames[part]
    return chosen


def pooled(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `edge evaluate` of several folds comes to together."""
    sums: dict[str, float] = defaultdict(float)
    confusion = [[0, 0], [0, 0]]
    for document in documents:
        (figures,) = document["classes"].values()
        both = figures["area_px"] + figures["found_px"]
        sums["both_px"] += both
        sums["common_px"] += figures.get("dice", 0.0) * both / 2
        sums["defect_frames"] += figures["defect_frames"]
        sums["dice"] += figures.get("dice_per_defect_frame", 0.0) * figures["defect_frames"]
        for truth in (0, 1):
            for said in (0, 1):
                confusion[truth][said] += document["confusion"][truth][said]
    (passed, alarms), (missed, found) = confusion
    return {
        "dice_per_defect_frame": sums["dice"] / max(1, sums["defect_frames"]),
        "dice_pooled": 2 * sums["common_px"] / max(1.0, sums["both_px"]),
        "good_frames": passed + alarms,
        "false_alarms": alarms,
        "defect_frames": missed + found,
        "found": found,
    }


def _fold(context: Context, rows: Sequence[Row], fold_of: Mapping[str, int], k: int) -> dict[str, Any]:
    """Learn without fold k, evaluate it."""
    divided = [row.with_split("test" if fold_of[row.part] == k else "train") for row in rows]
    manifest: Path = write(context.folder / f"fold{k}.csv", divided)
    recipe = f"commutator-{k}"
    learned = context.edge_json(
        "learn", manifest, "--recipe", recipe, "--model", "segmenter", "--scale", SCALE,
        "--min-area", MIN_AREA_PX,
        *context.budget(MINUTES), "--seed", SEED, note=k == 0,
    )  # fmt: skip
    judged = context.edge_json(
        "evaluate", "--recipe", recipe, "--manifest", manifest, "--split", "test", note=k == 0
    )
    return {"learn": learned, "evaluate": judged}


def _aims(total: Mapping[str, Any]) -> list[str]:
    dice, alarms = total["dice_per_defect_frame"], total["false_alarms"]
    share = alarms / max(1, total["good_frames"])
    return [
        f"- {'' if dice >= AIM_DICE else 'NOT REACHED: '}**Dice {dice:.3f}**, mean of the "
        f"{total['defect_frames']} defect frames (aim {AIM_DICE}); {total['dice_pooled']:.3f} over the "
        "pixels of all frames, good ones too",
        f"- {'' if share <= AIM_FALSE_ALARMS else 'NOT REACHED: '}**{alarms} of {total['good_frames']} good "
        f"frames not OK**: {share:.1%} (aim {AIM_FALSE_ALARMS:.0%}); {total['found']} of "
        f"{total['defect_frames']} defect frames not OK",
    ]


def _by_fold(tested: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for k, fold in enumerate(tested):
        judged = fold["evaluate"]
        (figures,) = judged["classes"].values()
        (passed, alarms), (missed, found) = judged["confusion"]
        rows.append(
            [f"{k + 1}", f"{fold['learn']['steps']}", f"{figures['dice_per_defect_frame']:.3f}",
             f"{figures['dice']:.3f}", f"{found} of {missed + found}", f"{alarms} of {passed + alarms}"]
        )  # fmt: skip
    return table(
        ["fold", "steps", "Dice, defect frames", "Dice, all pixels", "cracks found", "false alarms"], rows
    )

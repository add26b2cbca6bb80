"""Six exposures of machined tiles: thresholds per view against a global one, frames, parts, daemon."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.context import Context, wait
from bench.manifests import Row, read, write
from bench.section import Section, table
from bench.site import Consumer, Site, running, site_with_broker

MINUTES = 12.0
SEED = 1
FALSE_REJECT = 0.05
VIEWS = ("1", "2", "3", "4", "5", "6")
PART_TIMEOUT_S = 30  # well above the time between two views of a part in the backlog
TEMPLATE = "{batch}/{part}_{view}"


def run(context: Context) -> Section:
    """Learn from the train split, evaluate the test split, and hold the daemon's verdicts to it."""
    rows = [row for row in read(context.dataset("magnetic_tile")) if row.label in ("good", "defect")]
    if context.quick:
        rows = _few_parts(rows)
    manifest = write(context.folder / "tiles.csv", rows)
    learned = context.edge_json(
        "learn", manifest, "--recipe", "tile", *context.budget(MINUTES), "--seed", SEED,
        "--false-reject", FALSE_REJECT,
    )  # fmt: skip
    with site_with_broker(context.folder) as (site, _, consumer):
        site.configure(
            "tile", views=VIEWS, part_timeout_s=PART_TIMEOUT_S,
            source={"template": TEMPLATE, "settle_s": 0.3, "rescan_s": 0.5},
        )  # fmt: skip
        judged = context.edge_json(
            "evaluate", "--recipe", "tile", "--manifest", manifest, "--split", "test", "--config", site.config
        )
        _scan(context, site, consumer, manifest)
        inspected = context.edge_lines(
            "inspect", site.incoming, "--recipe", "tile", "--template", TEMPLATE, "--config", site.config,
            exit_codes=(0, 1),
        )  # fmt: skip
        frames, parts = consumer.frames(), consumer.parts()
    agreement = compare(frames, inspected)
    truth = {row.part: row.label == "defect" for row in rows if row.split == "test"}
    lines = [
        *_learned_lines(learned, rows),
        *_frame_lines(judged),
        *_part_lines(judged, parts, truth),
        *_agreement_lines(agreement, frames, judged, rows),
    ]
    facts = {"learn": learned, "evaluate": judged, "agreement": agreement,
             "parts_of_daemon": _part_counts(parts, truth)}  # fmt: skip
    return Section("magnetic_tile: six views a part, thresholds per view", lines, facts)


def compare(frames: list[dict[str, Any]], inspected: list[dict[str, Any]]) -> dict[str, Any]:
    """The daemon's frame verdicts against `edge inspect` of the same files."""
    ours = {verdict["image"]["path"]: verdict for verdict in frames}
    theirs = {verdict["image"]["path"]: verdict for verdict in inspected}
    both = sorted(ours.keys() & theirs.keys())
    return {
        "frames": len(theirs),
        "with_verdict": len(both),
        "verdicts": len(frames),
        "same_evaluation": sum(ours[p]["resultEvaluation"] == theirs[p]["resultEvaluation"] for p in both),
        "largest_score_difference": max(
            (abs(ours[p]["scoreRaw"] - theirs[p]["scoreRaw"]) for p in both if theirs[p]["scoreRaw"]),
            default=0.0,
        ),
    }


def _scan(context: Context, site: Site, consumer: Consumer, manifest: Path) -> None:
    """The test frames, all at once, through the daemon until every part has its verdict."""
    summary = context.edge_json(
        "simulate", site.incoming, "--from", manifest, "--split", "test", "--burst", "--template", TEMPLATE
    )
    with running(site) as daemon:
        daemon.ready()
        wait(lambda: len(consumer.copies()) >= summary["frames"], "a verdict for every frame", 600)
        wait(lambda: len(_latest(consumer.parts())) >= summary["parts"], "every part", PART_TIMEOUT_S + 60)


def _latest(parts: list[dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    return {verdict["partId"]: verdict for verdict in parts}


def _learned_lines(learned: Mapping[str, Any], rows: list[Row]) -> list[str]:
    views = learned["views"]
    basis = Counter(view["basis"] for view in views.values())
    return [
        f"One recipe for all exposures, `view` = exposure, `part` = tile. `edge learn` on the `train` split "
        f"({sum(row.split == 'train' for row in rows)} good frames), {MINUTES:g} minutes, seed {SEED}, "
        f"`--false-reject {FALSE_REJECT}`: model {learned['model']} ({learned['why']}), {learned['steps']} "
        f"steps, calibration on {', '.join(str(v['frames']) for v in views.values())} frames of the six "
        f"views (basis: {', '.join(f'{n} {name}' for name, n in basis.items())}). No frame of a test part "
        "was learned from.",
        "",
    ]


def _frame_lines(judged: Mapping[str, Any]) -> list[str]:
    image, rates, one = judged["image"], judged["rates"], judged["global_threshold"]

    def row(name: str, ranks: Mapping[str, Any], shares: Mapping[str, Any], rest: str) -> list[str]:
        return [name, f"{ranks['auroc']:.3f}", f"{ranks['auprc']:.3f}", f"{shares['false_reject']:.1%}",
                f"{shares['escape']:.1%}", rest]  # fmt: skip

    (tn, fp), (fn, tp) = judged["confusion"]
    thresholds = table(
        ["frame by frame", "image AUROC", "AUPRC", "false rejects", "escapes", "not decidable"],
        [
            row("one global threshold, raw scores", one, one, "–"),
            row("**thresholds per view**, normalised scores", image, rates, f"{rates['not_decidable']:.1%}"),
        ],
    )
    views = table(
        ["view", "frames", "defects", "AUROC", "false rejects", "escapes"],
        [
            [name, v["frames"], v["defects"], _figure(v, "auroc", ".3f"), _figure(v, "false_reject", ".1%"),
             _figure(v, "escape", ".1%")]
            for name, v in judged["per_view"].items()
        ],
    )  # fmt: skip
    pixel = judged["pixel"]
    return [
        f"{judged['frames']} test frames:",
        "",
        *thresholds,
        "",
        f"Good frames: {tn} OK, {fp} not. Defect frames: {tp} not OK, {fn} called OK. "
        f"Pixel AUROC {pixel['auroc']:.3f}, AUPRC {pixel['auprc']:.3f}. "
        "Published image AUROC: 0.77 (GANomaly, from scratch), 0.977–0.993 (ImageNet features and flows).",
        "",
        *views,
        "",
    ]


def _figure(figures: Mapping[str, Any], name: str, form: str) -> str:
    return format(figures[name], form) if name in figures else "–"  # a view may have no defects


def _part_lines(
    judged: Mapping[str, Any], parts: list[dict[str, Any]], truth: Mapping[str, bool]
) -> list[str]:
    evaluated, counted = judged.get("parts"), _part_counts(parts, truth)
    rows = [
        [f"{name} part", *(counted[name][e] for e in ("OK", "NotOK", "NotDecidable"))]
        for name in ("good", "defect")
    ]
    complete = Counter(not verdict["isPartial"] for verdict in _latest(parts).values())
    lines = [
        f"As parts, by the daemon ({len(parts)} part verdicts for {len(truth)} parts; {complete[True]} "
        f"complete, {complete[False]} partial because the data set lacks some of their views):",
        "",
        *table(["", "OK", "NotOK", "NotDecidable"], rows),
        "",
    ]
    if evaluated:
        (tn, fp), (fn, tp) = evaluated["confusion"]
        lines += [
            f"`edge evaluate` on parts: {tn} good parts OK and {fp} not, {tp} defect parts not OK and {fn} "
            f"called OK; false rejects (NotOK) {evaluated['false_reject']:.1%}, escapes "
            f"{evaluated['escape']:.1%}, not decidable {evaluated['not_decidable']:.1%}.",
            "",
        ]
    return lines


def _part_counts(parts: list[dict[str, Any]], truth: Mapping[str, bool]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {"good": Counter(), "defect": Counter()}
    for part, verdict in _latest(parts).items():
        counts["defect" if truth[part] else "good"][verdict["resultEvaluation"]] += 1
    return counts


def _agreement_lines(
    agreement: Mapping[str, Any], frames: list[dict[str, Any]], judged: Mapping[str, Any], rows: list[Row]
) -> list[str]:
    label = {(row.part, row.view): row.label == "defect" for row in rows}
    confusion = [[0, 0], [0, 0]]
    for verdict in {verdict["image"]["path"]: verdict for verdict in frames}.values():
        is_defect = label[verdict["partId"], verdict["view"]]
        confusion[is_defect][verdict["resultEvaluation"] != "OK"] += 1
    same = "the same as" if confusion == judged["confusion"] else "NOT"
    return [
        f"The daemon against the commands, on the same files: {agreement['with_verdict']} of "
        f"{agreement['frames']} frames have a verdict on the broker ({agreement['verdicts']} messages); "
        f"{agreement['same_evaluation']} evaluations equal those of `edge inspect`, largest difference of a "
        f"raw score {agreement['largest_score_difference']:.1e}; confusion {confusion}, {same} "
        f"`edge evaluate`'s {judged['confusion']}.",
    ]


def _few_parts(rows: list[Row]) -> list[Row]:
    """Some whole parts of every kind."""
    parts: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for row in rows:
        parts[row.split, row.label][row.part] = None
    kept = {part for names in parts.values() for part in list(names)[-6:]}
    return [row for row in rows if row.part in kept]

"""The accounting of a demonstration, and what the terminal shows of it."""

import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.simulate.board import board, counts, plain_line, truth_line
from edge.simulate.ledger import Ledger
from edge.simulate.shots import Capture, Label, Shot, Style


def shot(part: str, view: str, label: Label = "good", style: Style = "direct") -> Shot:
    return Shot(f"B/{part}_{view}.png", lambda: Capture(b""), label, part, view, "B", style)


def frame(part: str, view: str, evaluation: str = "OK", **more: Any) -> dict[str, Any]:
    return {
        "resultId": f"{part}{view}{evaluation}",
        "resultType": "frame",
        "creationTime": "2026-11-20T10:15:30.123456Z",
        "partId": part,
        "batchId": "B",
        "view": view,
        "resultEvaluation": evaluation,
        "image": {"path": f"B/{part}_{view}.png"},
        "processingTimes": {"total_s": 0.125},
        **more,
    }


def part(name: str, evaluation: str = "OK") -> dict[str, Any]:
    return {"resultId": f"part-{name}", "resultType": "part", "partId": name, "batchId": "B",
            "resultEvaluation": evaluation}  # fmt: skip


def test_an_empty_ledger_misses_nothing() -> None:
    assert Ledger(2).complete


@given(st.permutations(range(6)))
def test_all_is_complete_only_with_every_frame_and_finished_part_in_any_order(order: list[int]) -> None:
    ledger = Ledger(2)
    events: list[Any] = [
        lambda: ledger.written(shot("P1", "01")),
        lambda: ledger.written(shot("P1", "02")),
        lambda: ledger.written(shot("P2", "01")),  # its other view never comes: no part verdict is owed
        lambda: ledger.verdict(frame("P1", "01")),
        lambda: ledger.verdict(frame("P1", "02")),
        lambda: ledger.verdict(part("P1")),
    ]
    for index in order:
        events[index]()
    assert ledger.missing_frames() == ["B/P2_01.png"]
    assert ledger.missing_parts() == []
    assert not ledger.complete
    ledger.verdict(frame("P2", "01"))
    assert ledger.complete


def test_a_finished_part_without_a_verdict_is_missed() -> None:
    ledger = Ledger(1)
    ledger.written(shot("P1", "01"))
    ledger.verdict(frame("P1", "01"))
    assert ledger.missing_parts() == ["B/P1"]


def test_a_repeated_result_is_counted_once() -> None:
    ledger = Ledger(1)
    assert ledger.verdict(frame("P1", "01")) is not None
    assert ledger.verdict(frame("P1", "01")) is None
    assert (ledger.duplicates, len(ledger.entries)) == (1, 1)


def test_verdicts_about_frames_of_an_earlier_run_do_not_count() -> None:
    ledger = Ledger(1)
    ledger.verdict(frame("old", "01"))
    assert ledger.frame_verdicts == 0


def test_the_comparison_counts_found_missed_false_and_refused() -> None:
    ledger = Ledger(9)
    for view, label, style, payload in (
        ("01", "defect", "direct", frame("P", "01", "NotOK")),
        ("02", "defect", "direct", frame("P", "02", "OK")),
        ("03", "good", "direct", frame("P", "03", "NotOK")),
        ("04", "good", "direct", frame("P", "04", "OK")),
        ("05", "good", "direct", frame("P", "05", "NotDecidable", reasons=["uncalibrated_view"])),
        ("06", "defect", "truncated", frame("P", "06", "NotDecidable", reasons=["truncated"])),
        ("07", "good", "truncated", frame("P", "07", "OK")),
    ):
        ledger.written(shot("P", view, label, style))  # type: ignore[arg-type]
        ledger.verdict(payload)
    result = ledger.comparison()
    assert (result.defects, result.found, result.good, result.false_alarms) == (2, 1, 3, 1)
    assert (result.undecided, result.truncated, result.truncated_refused) == (1, 2, 1)
    assert ledger.wrong() == ["B/P_07.png"]
    assert "1 of 2 frames with a defect found, 1 false alarms in 3 good frames" in truth_line(result)


def shown(ledger: Ledger) -> str:
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    console.print(board(ledger, ["page http://x/"]))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_table_shows_the_last_verdicts_their_scores_and_the_counts() -> None:
    ledger = Ledger(2)
    for number in range(20):
        ledger.written(shot(f"P{number:02d}", "01"))
        ledger.verdict(frame(f"P{number:02d}", "01", score=1.5, reasons=["score_above_threshold"]))
    text = shown(ledger)
    assert "P19" in text
    assert "P07" not in text
    assert "━━━━━━━━┃━━━━····" in text  # the threshold is the middle, 1.5 is three quarters
    assert "score_above_threshold" in text
    assert "20 frames written, 20 frame verdicts (20 OK, 0 NotOK, 0 NotDecidable), 0 part verdicts" in text
    assert "page http://x/" in text


def test_names_with_brackets_are_shown_as_they_are() -> None:
    ledger = Ledger(2)
    ledger.verdict(frame("[red]P1[/red]", "01"))
    assert "[red]P1[/red]" in shown(ledger)


def test_verdicts_without_score_identity_or_times_are_shown_too() -> None:
    ledger = Ledger(2)
    bare = frame("P1", "01", "NotDecidable", reasons=["truncated"], score=None, image=None)
    for key in ("partId", "batchId", "view", "processingTimes", "creationTime"):
        del bare[key]
    entry = ledger.verdict(bare)
    assert entry is not None
    assert "NotDecidable" in plain_line(entry)
    assert plain_line(entry).endswith("truncated")
    assert "truncated" in shown(ledger)


def test_a_part_verdict_is_told_from_a_frame_verdict() -> None:
    ledger = Ledger(1)
    entry = ledger.verdict(part("P1", "NotOK"))
    assert entry is not None
    assert plain_line(entry).split()[:3] == ["P1", "part", "NotOK"]
    assert "1 part verdicts" in counts(ledger)

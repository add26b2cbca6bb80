"""`edge simulate` as it is typed."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edge.errors import CannotWriteError, UsageError
from edge.simulate.cli import simulate


def run(*arguments: object) -> str:
    """Run the command; errors pass through as they do to edge's own main."""
    app = typer.Typer()
    app.command()(simulate)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_learning_set_is_written_at_once(tmp_path: Path) -> None:
    summary = json.loads(run(tmp_path / "good", "--parts", 2, "--defect-share", 0, "--burst", "--json"))
    assert summary["frames"] == len(list((tmp_path / "good/B01").glob("*.png"))) == 12
    assert summary["parts"] == 2
    assert summary["by_label"] == {"good": 12}
    assert summary["seconds"] < 12 / 5, "paced, although --burst was given"


def test_the_summary_counts_styles_and_labels(tmp_path: Path) -> None:
    out = tmp_path / "in"
    options = ("--frames", 10, "--burst", "--slow-share", 0.2, "--truncated-share", 0.1, "--settle-s", 0.01)
    summary = json.loads(run(out, *options, "--defect-share", 1, "--json"))
    assert summary["by_style"]["slow"] + summary["by_style"]["truncated"] >= 2
    assert sum(summary["by_style"].values()) == sum(summary["by_label"].values()) == 10
    assert summary["by_label"]["defect"] >= 2


def test_plain_text_says_what_was_written(tmp_path: Path) -> None:
    text = run(tmp_path / "in", "--frames", 2, "--burst", "--defect-share", 0)
    assert text.startswith("2 frames of 1 parts in ")
    assert "2 good" in text


def test_views_format_and_size_are_chosen(tmp_path: Path) -> None:
    run(tmp_path, "--parts", 1, "--views", "02,05", "--format", "dicom", "--size", "96x64", "--burst")
    assert sorted(file.name for file in (tmp_path / "B01").iterdir()) == ["P000001_02.dcm", "P000001_05.dcm"]


def test_real_images_are_filtered_and_converted_with_their_truth(tmp_path: Path) -> None:
    run(tmp_path / "a", "--parts", 5, "--views", "1,2", "--burst", "--truth", tmp_path / "t", "--batch", "B1")
    summary = json.loads(
        run(
            tmp_path / "b", "--from", tmp_path / "t", "--label", "good", "--parts", 3, "--format", "tiff",
            "--bits", 16, "--full-scale", 0.01, "--burst", "--truth", tmp_path / "t2", "--json",
        )
    )  # fmt: skip
    assert summary["parts"] == 3
    assert summary["value_range"] == [0, 655]
    assert summary["truth"] == str(tmp_path / "t2/manifest.csv")
    with (tmp_path / "t2/manifest.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["label"] for row in rows} == {"good"}
    assert all((tmp_path / "t2" / row["path"]).is_file() for row in rows)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--burst", "--rate", "3"),
        ("--frames", "3", "--parts", "3"),
        ("--views", "one"),
        ("--views", "7"),
        ("--size", "big"),
        ("--label", "good"),
        ("--split", "test"),
        ("--from", ".", "--size", "64x64"),
        ("--from", ".", "--defect-share", "0.1"),
        ("--from", ".", "--bits", "16"),
        ("--format", "gif"),
        ("--template", "{colour}"),
        ("--truncated-share", "2"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError):
        run(tmp_path / "in", *wrong)
    assert not (tmp_path / "in").exists()


def test_a_filter_that_leaves_nothing_says_what_there_is(tmp_path: Path) -> None:
    run(tmp_path / "a", "--parts", 1, "--burst", "--defect-share", 0, "--truth", tmp_path / "t")
    with pytest.raises(UsageError, match="there are good"):
        run(tmp_path / "b", "--from", tmp_path / "t", "--label", "defect")


def test_frames_are_never_overwritten(tmp_path: Path) -> None:
    run(tmp_path, "--frames", 2, "--burst")
    with pytest.raises(CannotWriteError, match="and 1 more"):
        run(tmp_path, "--frames", 2, "--burst")


def test_the_command_line_starts_without_opencv() -> None:
    code = "import sys, edge.simulate.cli; sys.exit('cv2' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

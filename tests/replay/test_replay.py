"""`edge replay`: what a candidate would change of stored verdicts, and of archived frames."""

import json
import sqlite3
from pathlib import Path

import pytest

from edge import app
from edge.cli import _run
from edge.errors import CannotWriteError, MissingInputError, UsageError
from edge.testing import write_frame
from tests.replay.sites import frame_of, make_site, remember, replay, scaled_calibration

STRICT, LAX = 0.2, 50.0


def test_the_same_recipe_changes_nothing_and_leaves_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_site(tmp_path)
    code, found = replay(settings, capsys)
    assert (code, found["frames"], found["flips"]) == (0, 5, 0)
    assert found["evaluations"]["OK"]["OK"] == 3
    assert found["evaluations"]["NotOK"]["NotOK"] == 2
    assert found["against"]["models"][0]["sha256"] == found["candidate"]["sha256"]
    folder = Path(found["folder"])
    assert folder.parent == settings.paths.state / "replays"
    report = (folder / "report.html").read_text()
    assert "No verdict changes" in report
    assert "<script" not in report
    assert "http" not in report.replace("http-equiv", "")
    lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
    assert [line["new"]["isHistorical"] for line in lines] == [True] * 5
    assert {line["new"]["view"] for line in lines} == {"01"}
    assert not list(folder.parent.glob(".*"))


def test_flips_are_shown_with_both_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_site(tmp_path)
    scaled_calibration(settings, "lax", LAX)
    code, found = replay(settings, capsys, "--calibration", "lax")
    assert code == 0
    assert found["evaluations"]["NotOK"]["OK"] == found["flips"] == 2
    assert {one["path"] for one in found["listed"]} == {"B1/P3_01.png", "B1/P4_01.png"}
    (view,) = found["perView"].values()
    assert view["medianScore"]["new"] == pytest.approx(view["medianScore"]["old"] / LAX, rel=1e-3)
    report = (Path(found["folder"]) / "report.html").read_text()
    assert "Would pass now" in report
    assert report.count("data:image/jpeg") == 4  # of two flips, before and after


def test_an_old_verdict_without_evidence_is_drawn_again_by_the_recipe_that_gave_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_site(tmp_path)  # OK frames leave no evidence
    scaled_calibration(settings, "strict", STRICT)
    _, found = replay(settings, capsys, "--calibration", "strict")
    assert found["evaluations"]["OK"]["NotOK"] == 3
    report = (Path(found["folder"]) / "report.html").read_text()
    assert report.count("data:image/jpeg") == 6
    assert "no picture was kept" not in report


def test_frames_that_are_gone_are_listed_and_never_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_site(tmp_path)
    frame_of(tmp_path, 0).unlink()
    write_frame(frame_of(tmp_path, 1), seed=99)  # another frame under the same name
    _, found = replay(settings, capsys)
    assert found["frames"] == 3
    assert found["gone"]["frames"] == 2
    assert found["gone"]["because"] == {
        "its file is gone": 1,
        "its file has other content now": 1,
    }
    assert {one["path"] for one in found["gone"]["listed"]} == {"B1/P0_01.png", "B1/P1_01.png"}
    assert sum(sum(row.values()) for row in found["evaluations"].values()) == 3


def test_a_copy_of_a_reviewed_frame_stands_for_one_that_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_site(tmp_path, good=1, defects=0)
    with sqlite3.connect(settings.paths.state / app.DATABASE) as db:
        ((sha256,),) = db.execute("SELECT sha256 FROM verdicts").fetchall()
    db.close()
    copies = settings.paths.state / "reviewed"
    copies.mkdir()
    frame_of(tmp_path, 0).rename(copies / f"{sha256}.png")
    _, found = replay(settings, capsys)
    assert (found["frames"], found["gone"]["frames"]) == (1, 0)


def test_a_file_that_is_no_frame_any_more_flips_to_not_decidable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose bytes are the same but that this edge cannot decode: here, beyond the pixel budget."""
    settings = make_site(tmp_path, good=1, defects=0)
    text = settings.file.read_text().replace("[runtime]", "[runtime]\nmax_pixels = 100")
    settings.file.write_text(text)
    _, found = replay(settings, capsys)
    assert found["evaluations"]["OK"]["NotDecidable"] == 1
    (flip,) = found["listed"]
    assert flip["new"]["score"] is None
    assert "it could not be decoded" in (Path(found["folder"]) / "report.html").read_text()


def review(settings_state: Path, evaluations: dict[str, str]) -> None:
    """What people said of frames, by path; an earlier word is superseded."""
    with sqlite3.connect(settings_state / app.DATABASE) as db:
        for number, (path, evaluation) in enumerate(evaluations.items()):
            ((result_id, said),) = db.execute(
                "SELECT result_id, evaluation FROM verdicts WHERE path = ?", (path,)
            ).fetchall()
            for step, word in enumerate(("NotDecidable", evaluation)):
                add_review(db, f"{number:02d}{step}", result_id, word, word == said)
    db.close()


def add_review(db: sqlite3.Connection, review_id: str, result_id: str, word: str, agrees: bool) -> None:
    columns = [name for _, name, *_ in db.execute("PRAGMA table_info(reviews)").fetchall()]
    known = {"review_id": review_id, "result_id": result_id, "evaluation": word, "agrees": agrees,
             "created_unix_s": 1.8e9}  # fmt: skip
    values = [known.get(name, "") for name in columns]
    db.execute(f"INSERT INTO reviews VALUES ({', '.join('?' * len(columns))})", values)


def test_a_confirmed_defect_that_would_pass_gives_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_site(tmp_path)
    with sqlite3.connect(settings.paths.state / app.DATABASE) as db:
        db.execute(
            "CREATE TABLE IF NOT EXISTS reviews (review_id TEXT PRIMARY KEY, result_id TEXT, evaluation TEXT)"
        )
    db.close()
    review(settings.paths.state, {"B1/P3_01.png": "NotOK", "B1/P4_01.png": "OK", "B1/P0_01.png": "OK"})
    scaled_calibration(settings, "lax", LAX)
    code, found = replay(settings, capsys, "--calibration", "lax")
    assert code == 1
    said = found["reviews"]
    assert (said["frames"], said["oldRight"], said["newRight"]) == (3, 2, 2)
    assert [one["path"] for one in said["passing"]] == ["B1/P3_01.png"]
    assert "1 confirmed defect would pass" in (Path(found["folder"]) / "report.html").read_text()
    code, _ = replay(settings, capsys)
    assert code == 0


def test_verdicts_are_chosen_by_time_batch_and_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_site(tmp_path)  # a verdict a second
    _, found = replay(settings, capsys, "--last", "2")
    assert found["frames"] == 2
    # the newest are taken: of files judged in this order, the defects
    assert found["evaluations"]["NotOK"]["NotOK"] == 2
    _, found = replay(settings, capsys, "--batch", "B1", "--since", "2026-09-21", "--until", "2100-01-01")
    assert found["frames"] == 5
    assert _run(["replay", "--config", str(settings.file), "--recipe", "blur", "--batch", "B2"]) == 66
    assert _run(["replay", "--config", str(settings.file), "--recipe", "blur", "--until", "2020-01-01"]) == 66


def test_archived_folders_are_held_against_the_current_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_site(tmp_path, good=0, defects=1)
    archive = tmp_path / "archive" / "B9"
    for number in range(3):
        write_frame(archive / f"P{number}_01.png", defect=number == 2, seed=number)
    (archive / "P8_01.png").write_bytes(b"no picture")
    scaled_calibration(settings, "lax", LAX)
    code, found = replay(settings, capsys, "--calibration", "lax", str(archive.parent))
    assert code == 0
    assert found["against"]["kind"] == "recipe"
    assert found["evaluations"]["OK"]["OK"] == 2
    assert found["evaluations"]["NotOK"]["OK"] == 1
    assert found["evaluations"]["NotDecidable"]["NotDecidable"] == 1
    assert found["listed"][0]["path"] == "B9/P2_01.png"
    assert (Path(found["folder"]) / "report.html").read_text().count("data:image/jpeg") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--since", "yesterday"], UsageError.exit_code, "--since"),
        (["incoming"], UsageError.exit_code, "nothing to compare"),
        (["--last", "2", "--calibration", "blur", "incoming"], UsageError.exit_code, "no stored verdicts"),
        (["--engine", "nothing"], 65, "nothing"),
        (["--calibration", "nothing.json"], MissingInputError.exit_code, "nothing.json"),
        (["--recipe", "other"], MissingInputError.exit_code, "there are verdicts of blur"),
        (["--out", "incoming"], CannotWriteError.exit_code, "something is there already"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, said: str,
) -> None:  # fmt: skip
    settings = make_site(tmp_path, good=1, defects=0)
    monkeypatch.chdir(tmp_path)
    assert _run(["replay", "--config", str(settings.file), "--recipe", "blur", *arguments]) == code
    assert said in capsys.readouterr().err
    assert not [*(settings.paths.state / "replays").glob("*")]


def test_a_recipe_without_verdicts_names_those_that_have_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.sites import make_recipe

    settings = make_site(tmp_path, good=1, defects=0)
    make_recipe(tmp_path, "newer")
    assert _run(["replay", "--config", str(settings.file), "--recipe", "newer"]) == 66
    assert "there are verdicts of blur" in capsys.readouterr().err


def test_another_engine_comes_with_the_calibration_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.sites import make_recipe

    settings = make_site(tmp_path, good=1, defects=1)
    make_recipe(tmp_path, "newer")
    _, found = replay(settings, capsys, "--engine", "newer")
    assert found["candidate"]["bundle"] == "newer"
    _, by_folder = replay(settings, capsys, "--engine", str(tmp_path / "engines" / "newer"))
    assert by_folder["candidate"] == found["candidate"]


def test_ctrl_c_leaves_a_whole_report_of_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.replay.counts import Tally

    settings = make_site(tmp_path)
    add = Tally.add

    def third_is_interrupted(self: Tally, *arguments: object) -> None:
        if self.frames == 2:
            raise KeyboardInterrupt
        add(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Tally, "add", third_is_interrupted)
    code, found = replay(settings, capsys)
    assert code == 130
    assert (found["frames"], found["asked"], found["interrupted"]) == (2, 5, True)
    assert "2 of 5 frames were done" in (Path(found["folder"]) / "report.html").read_text()


def test_ctrl_c_before_anything_was_done_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.replay.counts import Tally

    def interrupted(self: Tally, *arguments: object) -> None:
        raise KeyboardInterrupt

    settings = make_site(tmp_path, good=1, defects=0)
    monkeypatch.setattr(Tally, "add", interrupted)
    assert _run(["replay", "--config", str(settings.file), "--recipe", "blur"]) == 130
    assert not [*(settings.paths.state / "replays").glob("*"), *(settings.paths.state / "replays").glob(".*")]


def test_only_the_newest_reports_are_kept(tmp_path: Path) -> None:
    from edge.replay.command import prune

    for number in range(5):
        (tmp_path / f"0{number}").mkdir()
        (tmp_path / f"0{number}" / "replay.json").write_text("{}")
    (tmp_path / ".05.unfinished").mkdir()
    (tmp_path / "foreign").mkdir()
    prune(tmp_path, keep=2, now_unix_s=0)
    assert {one.name for one in tmp_path.iterdir()} == {"03", "04", ".05.unfinished", "foreign"}
    prune(tmp_path, keep=2, now_unix_s=9e9)
    assert not (tmp_path / ".05.unfinished").exists()


def test_verdicts_made_historically_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_site(tmp_path, good=2, defects=0)
    with sqlite3.connect(settings.paths.state / app.DATABASE) as db:
        db.execute(
            "UPDATE verdicts SET payload = json_set(payload, '$.isHistorical', json('true')) WHERE path LIKE"
            " '%P0%'"
        )
    db.close()
    _, found = replay(settings, capsys)
    assert found["frames"] == 1


def test_more_verdicts_than_are_read_at_once_come_once_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.replay import stored

    settings = make_site(tmp_path, good=4, defects=3)
    monkeypatch.setattr(stored, "ROWS_AT_ONCE", 2)
    _, found = replay(settings, capsys, "--last", "5")
    assert found["frames"] == 5
    _, found = replay(settings, capsys)
    assert found["frames"] == 7
    remember(settings, [frame_of(tmp_path, 0)])

"""Reviews raise thresholds only when that is shown and accepted, and no confirmed defect passes by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import app
from edge.cli import _run
from edge.config import Settings
from edge.errors import DataError, MissingInputError
from edge.judge.calibration import Calibration, GoodFrame, calibrate, load_calibration
from edge.recipes import load_engine
from edge.record.reviews_reader import Reviewed
from edge.record.store import Store
from edge.review.taking import Reviewing
from edge.review.thresholds import Told, _with, propose
from edge.review.thresholds_command import WithReviews, rescoring, run_with_reviews
from edge.types import Review
from tests.replay.sites import frame_of, make_site

ALWAYS = "36500"


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    return make_site(tmp_path, good=3, defects=3)


def rejected(site: Settings) -> list[dict[str, Any]]:
    """NotOK payloads, lowest score first."""
    store = Store(site.paths.state / app.DATABASE)
    found = [one for one in store.latest(50) if one["resultEvaluation"] == "NotOK"]
    store.close()
    return sorted(found, key=lambda one: float(one["scoreRaw"]))


def say(site: Settings, result_id: str, evaluation: str) -> None:
    store = Store(site.paths.state / app.DATABASE)
    Reviewing(store, site).add(result_id, evaluation, "seen", "Ada")
    store.close()


def current(site: Settings) -> Calibration:
    return load_calibration(site.paths.calibration / "blur.json", load_engine(site, "blur").digest)


def calibrated(
    site: Settings, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    command = [
        "calibrate",
        "--recipe",
        "blur",
        "--with-reviews",
        "--config",
        str(site.file),
        "--days",
        ALWAYS,
    ]
    code = _run([*command, "--json", *options])
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if printed.out else {}, printed.err


def view_of(document: dict[str, Any]) -> dict[str, Any]:
    return next(view for view in document["views"] if view["view"] == "01")


def test_nothing_is_accepted_unless_it_is_said(site: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    lowest = rejected(site)[0]
    say(site, lowest["resultId"], "OK")
    before = current(site)
    code, said, _ = calibrated(site, capsys)
    assert (code, said["accepted"]) == (0, False)
    assert view_of(said)["thresholdAfter"] >= lowest["scoreRaw"]
    assert (view_of(said)["falseRejectsGone"], said["changed"][0]["resultId"]) == (1, lowest["resultId"])
    assert view_of(said)["notOkBefore"] - view_of(said)["notOkAfter"] == said["changedCount"]
    assert current(site) == before
    assert len(list(site.paths.calibration.iterdir())) == 1


def test_what_is_accepted_judges_and_the_old_file_is_kept(
    site: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    lowest = rejected(site)[0]
    say(site, lowest["resultId"], "OK")
    before, file = current(site), site.paths.calibration / "blur.json"
    old = file.read_bytes()
    code, said, _ = calibrated(site, capsys, "--accept")
    assert (code, said["accepted"]) == (0, True)
    assert Path(said["kept"]).read_bytes() == old
    after = current(site)
    assert after.digest == said["calibrationSha256After"]
    assert after.views["01"].threshold >= lowest["scoreRaw"]
    assert after.views["01"].scores == before.views["01"].scores  # drift is measured against frames by chance
    assert after.views["01"].reviewed == (lowest["scoreRaw"],)
    assert after.views["01"].false_reject_bound == before.views["01"].false_reject_bound
    assert after.views["02"] == before.views["02"]
    frame = frame_of(site.file.parent, _number(lowest))
    _run(["inspect", str(frame), "--recipe", "blur", "--config", str(site.file), "--json"])
    assert json.loads(capsys.readouterr().out)["resultEvaluation"] != "NotOK"
    assert calibrated(site, capsys, "--accept")[1]["accepted"] is False  # nothing more to change


def _number(payload: dict[str, Any]) -> int:
    return int(payload["partId"][1:])


def test_a_review_that_is_taken_back_lowers_the_threshold_again(
    site: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    lowest = rejected(site)[0]["resultId"]
    before = current(site)
    say(site, lowest, "OK")
    calibrated(site, capsys, "--accept")
    say(site, lowest, "NotOK")
    code, said, _ = calibrated(site, capsys, "--accept")
    assert (code, said["accepted"], said["escapes"], said["alreadyPassing"]) == (0, True, [], [])
    assert current(site).views == before.views


def test_no_confirmed_defect_may_pass_unless_that_is_said(
    site: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    low, *_, high = rejected(site)
    say(site, low["resultId"], "NotOK")
    say(site, high["resultId"], "OK")
    before = current(site)
    code, said, err = calibrated(site, capsys, "--accept")
    assert (code, said["accepted"], "would pass" in err) == (65, False, True)
    assert [one["resultId"] for one in said["escapes"]] == [low["resultId"]]
    assert current(site) == before
    code, said, _ = calibrated(site, capsys, "--accept", "--allow-escapes")
    assert (code, said["accepted"]) == (0, True)
    assert current(site).views["01"].threshold >= high["scoreRaw"]


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_a_person_is_asked_after_it_was_shown(
    site: Settings, capsys: pytest.CaptureFixture[str], answer: bool
) -> None:
    say(site, rejected(site)[0]["resultId"], "OK")
    before, shown = current(site), ""

    def confirm() -> bool:
        nonlocal shown
        shown = capsys.readouterr().out
        return answer

    run_with_reviews(WithReviews("blur", days=36500), site.file, confirm)
    assert "→" in shown
    assert "prove no smaller rate" in shown
    assert (current(site) != before) is answer


def test_without_reviews_there_is_nothing_to_propose(site: Settings) -> None:
    with pytest.raises(MissingInputError, match="review"):
        propose(site, "blur")


def test_frames_of_another_engine_are_scored_anew_or_left_out(site: Settings, tmp_path: Path) -> None:
    low, middle, high = rejected(site)
    for one in (low, middle):
        say(site, one["resultId"], "OK")
    say(site, high["resultId"], "NotOK")
    (site.paths.state / "reviewed").joinpath(f"{middle['image']['sha256']}.png").unlink()
    frame_of(tmp_path, _number(middle)).unlink()
    db = Store(site.paths.state / app.DATABASE)
    with db.transaction():  # as if an engine before had judged
        db._db.execute("UPDATE verdicts SET payload = json_set(payload, '$.model.sha256', 'other')")
    db.close()
    made = propose(site, "blur", rescore=rescoring(site))
    raws = {one.item.review.result_id: one.raw for one in made.told}
    assert raws[middle["resultId"]] is None
    assert raws[low["resultId"]] == pytest.approx(low["scoreRaw"], rel=1e-3)
    assert raws[high["resultId"]] == pytest.approx(high["scoreRaw"], rel=1e-3)
    assert made.document["notScored"] == {"good": 1, "defects": 0}
    assert [one.raw for one in propose(site, "blur").told] == [None, None, None]  # the page scores nothing


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--false-reject", "0.1"], "--false-reject has no effect"),
        (["--template", "{part}"], "--template has no effect"),
    ],
)
def test_options_that_would_say_nothing_are_refused(
    site: Settings, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    code, out, err = calibrated(site, capsys, *options)
    assert (code, out, said in err) == (64, {}, True)


def test_accept_is_for_reviews_only(site: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", "--recipe", "blur", "--config", str(site.file)]
    assert _run([*command, str(site.file.parent / "good"), "--accept"]) == 64
    assert _run(command) == 64


def test_a_supervised_recipe_is_not_calibrated_by_good_frames_alone(site: Settings) -> None:
    from edge.judge.calibration import save_calibration

    say(site, rejected(site)[0]["resultId"], "OK")
    made = current(site)
    views = {view: limits.model_copy(update={"basis": "f1"}) for view, limits in made.views.items()}
    save_calibration(site.paths.calibration / "blur.json", made.model_copy(update={"views": views}))
    with pytest.raises(DataError, match="labelled"):
        propose(site, "blur")


def told_good(name: str, raw: float) -> Told:
    review = Review(name, name, "OK", False, "", "Ada", 0.0)
    return Told(Reviewed({"image": {"sha256": name}}, "s", review), "01", raw)


positive = st.floats(0.01, 100.0)


@settings(deadline=None, max_examples=60)
@given(
    good=st.lists(positive, min_size=2, max_size=40),
    called_good=st.lists(positive, min_size=0, max_size=10),
    rate=st.sampled_from([0.05, 0.2]),
    passed=st.integers(0, 200),
)
def test_no_review_lowers_a_threshold_or_betters_a_bound(
    good: list[float], called_good: list[float], rate: float, passed: int
) -> None:
    made = calibrate(
        [GoodFrame("01", raw, raw, 0.5, 0.1, 32, 32) for raw in good], recipe="r", bundle_sha256="s",
        statistic="peak", false_reject=rate, too_few="bound",
    )  # fmt: skip
    told = [told_good(str(number), raw) for number, raw in enumerate(called_good)]
    after = _with("01", made.views["01"], made, told, passed)
    assert after.threshold >= made.views["01"].threshold
    assert after.false_reject_bound == made.views["01"].false_reject_bound
    again = made.model_copy(update={"views": {"01": after}})
    assert _with("01", after, again, told, passed) == after  # accepting twice changes nothing
    assert _with("01", after, again, [], passed) == made.views["01"]  # nor does what is taken back stay


@pytest.mark.parametrize(("passed", "raises"), [(0, True), (17, True), (18, False), (10_000, False)])
def test_a_false_reject_that_is_rare_enough_moves_nothing(passed: int, raises: bool) -> None:
    """Of 38 good frames all have to pass at 5 %; of 39 one may be rejected: 38/40 is 95 %."""
    made = calibrate(
        [GoodFrame("01", 1 + n / 100, 1.0, 0.5, 0.1, 32, 32) for n in range(20)], recipe="r",
        bundle_sha256="s", statistic="peak", false_reject=0.05, too_few="refuse",
    )  # fmt: skip
    after = _with("01", made.views["01"], made, [told_good("a", 9.0)], passed)
    assert (after.threshold > made.views["01"].threshold) is raises

"""`edge review` as a quality engineer uses it: with a daemon and without one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from edge import app
from edge.artifacts import sha256_of
from edge.cli import _run
from edge.config import Settings
from edge.daemon import lock_site
from edge.dataset import read_manifest
from edge.publish.schema import review_schema
from edge.record.store import Store
from edge.testing import write_frame
from tests.brokers import Mosquitto, free_port, until
from tests.publish.rigs import Subscriber
from tests.replay.sites import frame_of, make_site
from tests.sites import DaemonProcess, make_recipe, write_config


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    return make_site(tmp_path, good=3, defects=3)


class Console:
    """Runs the command on a site."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config, self._capsys = config, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = _run(["review", "--config", str(self.config), *arguments])
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err

    def json(self, *arguments: str) -> Any:
        code, out, err = self("--json", *arguments)
        assert code == 0, err
        return json.loads(out)

    def waiting(self, *arguments: str) -> list[str]:
        return [one["resultId"] for one in self.json("--list", *arguments)["verdicts"]]


@pytest.fixture
def review(site: Settings, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(site.file, capsys)


def test_what_is_not_ok_waits_until_it_is_reviewed(review: Console) -> None:
    waiting = review.waiting()
    assert len(waiting) == 3
    assert review.waiting("--limit", "1") == waiting[:1]
    assert review.waiting("--view", "02") == review.waiting("--batch", "B9") == []
    said = review.json("--result", waiting[0], "--evaluation", "OK", "--reason", "dust", "--reviewer", "Ada")
    assert (said["agrees"], said["frameKept"]) == (False, True)
    assert review.waiting() == waiting[1:]


def test_a_verdict_is_shown_with_why_and_its_history(review: Console) -> None:
    one = review.waiting()[0]
    code, out, _ = review("--result", one)
    assert code == 0
    assert "NotOK, score_above_threshold" in out
    assert "anomaly at" in out
    assert "nobody has reviewed it" in out
    review("--result", one, "--evaluation", "OK", "--reason", "dust", "--reviewer", "Ada")
    review("--result", one, "--evaluation", "NotOK", "--reviewer", "Bob")
    _, out, _ = review("--history", one)
    first, second = out.splitlines()
    assert "Ada overrules, OK: dust" in first
    assert "Bob confirms, NotOK" in second
    assert [one["reviewer"] for one in review.json("--history", one)["reviews"]] == ["Ada", "Bob"]


def test_who_gives_no_name_is_who_is_logged_in(review: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    one = review.waiting()[0]
    assert review.json("--result", one, "--evaluation", "NotOK")["reviewer"] == "grace"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--list", "--history", "X"], 64, "one at a time"),
        (["--evaluation", "OK"], 64, "--result ID"),
        (["--result", "X", "--reason", "r"], 64, "--evaluation"),
        (["--result", "X"], 66, "no verdict"),
        (["--result", "X", "--evaluation", "OK", "--reason", "r"], 66, "no verdict"),
        (["--since", "yesterday"], 64, "--since"),
        (["--export", "none.csv"], 66, "no reviewed frame"),
    ],
)
def test_what_makes_no_sense_is_said(review: Console, arguments: list[str], code: int, said: str) -> None:
    found, out, err = review(*arguments)
    assert (found, out) == (code, "")
    assert said in err


def test_overruling_without_a_reason_is_refused(review: Console) -> None:
    code, _, err = review("--result", review.waiting()[0], "--evaluation", "OK")
    assert (code, "reason: needed" in err) == (65, True)


def test_a_daemon_that_does_not_answer_keeps_its_database(site: Settings, review: Console) -> None:
    one = review.waiting()[0]
    with lock_site(site.paths.state):
        code, _, err = review("--result", one, "--evaluation", "NotOK")
    assert (code, "another edge daemon" in err) == (75, True)
    assert review.waiting()[0] == one


def test_reviewed_frames_become_a_manifest_that_can_be_read(
    site: Settings, review: Console, tmp_path: Path
) -> None:
    first, second, third = review.waiting()
    review("--result", first, "--evaluation", "OK", "--reason", "dust")
    review("--result", second, "--evaluation", "NotOK")
    review("--result", third, "--evaluation", "NotOK")
    frame_of(tmp_path, 5).unlink()  # of the first: its copy is there
    frame_of(tmp_path, 4).write_bytes(b"")  # of the second: likewise
    gone = frame_of(tmp_path, 3)
    (site.paths.state / "reviewed" / f"{sha256_of(gone)}.png").unlink()
    gone.unlink()
    target = tmp_path / "out" / "reviewed.csv"
    said = review.json("--export", str(target))
    assert (said["good"], said["defect"], sum(said["leftOut"].values())) == (1, 1, 1)
    rows = read_manifest(target)
    assert [(row.label, row.view, row.part) for row in rows] == [
        ("good", "01", "B1/P5"),
        ("defect", "01", "B1/P4"),
    ]
    assert all(row.file.is_file() for row in rows)


def test_a_set_for_learning_has_what_was_wrong_and_what_was_found_with_reasons(
    review: Console, tmp_path: Path
) -> None:
    first, second, _ = review.waiting()
    review("--result", first, "--evaluation", "OK", "--reason", "dust, on the lens")
    review("--result", second, "--evaluation", "NotOK")
    target = tmp_path / "learn.csv"
    assert review.json("--suggest-learning", str(target))["frames"] == 2
    assert [row.label for row in read_manifest(target)] == ["defect", "good"]
    with target.open(newline="") as stream:
        notes = [row["note"] for row in csv.DictReader(stream)]
    assert "defect, found" in notes[0]
    assert "good, but NotOK" in notes[1]
    assert "dust, on the lens" in notes[1]
    review("--suggest-learning", str(target), "--limit", "1")
    assert len(read_manifest(target)) == 1


@pytest.mark.slow
def test_a_running_daemon_takes_the_review_and_publishes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jsonschema import Draft202012Validator

    make_recipe(tmp_path)
    broker, port = Mosquitto(tmp_path / "broker"), free_port()
    broker.start()
    config = write_config(tmp_path, broker.port, port)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123\n")
    config.write_text(config.read_text() + f'token_file = "{token}"\n')
    subscriber = Subscriber(broker.port)
    daemon = DaemonProcess(config, port)
    try:
        daemon.ready()
        write_frame(tmp_path / "incoming" / "B1" / "P1_01.png", defect=True, seed=3)
        review = Console(config, capsys)
        until(lambda: (tmp_path / "var" / app.DATABASE).is_file() and review.waiting(), "a verdict waits")
        one = review.waiting()[0]
        arguments = ("--result", one, "--evaluation", "OK", "--reason", "a thread", "--reviewer", "Ada")
        said = review.json(*arguments)
        assert said["frameKept"] is True
        until(lambda: subscriber.bodies("result/review"), "the review is published", 20)
        (body,) = map(json.loads, subscriber.bodies("result/review"))
        Draft202012Validator(review_schema()).validate(body)
        assert (body["reviewId"], body["station"], body["resultEvaluation"]) == (
            said["reviewId"],
            "st",
            "NotOK",
        )
        token.write_text("another token than the daemon's\n")
        offer = _run(["calibrate", "--recipe", "blur", "--with-reviews", "--config", str(config), "--json"])
        assert (offer, json.loads(capsys.readouterr().out)["changedCount"]) == (0, 1)  # while the line runs
        token.write_text("another-token-of-20-signs\n")
        assert review("--result", one, "--evaluation", "NotOK")[0] == 78
        assert daemon.stop()[0] == 0
    finally:
        daemon.kill()
        subscriber.close()
        broker.kill()
    store = Store(tmp_path / "var" / app.DATABASE)
    assert len(store.reviews_of([one])[one]) == 1
    store.close()

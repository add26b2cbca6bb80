"""Decode, inspect and record, stepped by hand: no threads, no sleeping."""

import os
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import structlog
import tifffile

from edge.buffer import Buffer
from edge.decode import Limits
from edge.drift_watch import DriftWatch
from edge.engine_loss import EngineWatch, OnLoss, end_the_process
from edge.errors import CannotWriteError, DataError, EdgeError, IncompleteError, UnavailableError
from edge.inflight import InFlight
from edge.intake.backlog import Backlog
from edge.intake.naming import compile_naming
from edge.judge.calibration import Calibration
from edge.judge.drift import DriftRule
from edge.judge.exchangeability import log_martingale
from edge.pipeline import Inspector, PrepareJob, prepare_file
from edge.record.store import Store
from edge.recording import EvidenceRule, PartRule, RecordStage
from edge.stages import DecodeStage, InspectStage, Route, put_patiently
from edge.testing import FakeClock, FakeRuntime, fake_bundle, fake_calibration, write_frame
from edge.types import KINDS, Candidate, FileStamp, Frame, Verdict


class InPlace:
    """Workers that decode at once, in this process; `faults` are raised instead, one a job."""

    workers = 1

    def __init__(self) -> None:
        self.faults: list[EdgeError] = []
        self.jobs = 0

    def submit(self, job: PrepareJob) -> Future[list[Frame]]:
        self.jobs += 1
        future: Future[list[Frame]] = Future()
        try:
            if self.faults:
                raise self.faults.pop(0)
            future.set_result(prepare_file(job))
        except EdgeError as error:
            future.set_exception(error)
        return future


class Meter:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.frames: list[Verdict] = []
        self.parts: list[Verdict] = []
        self.skipped = 0
        self.margins: dict[str, float] = {}

    def rejected(self, source: str, reason: str) -> None:
        self.reasons.append(reason)

    def recorded(self, source: str, verdict: Verdict, times_s: dict[str, float]) -> None:
        self.frames.append(verdict)

    def part_recorded(self, verdict: Verdict) -> None:
        self.parts.append(verdict)

    def evidence_skipped_for(self, reason: str) -> None:
        self.skipped += 1

    def drifted(self, recipe: str, view: str, ratio: float, martingale: float) -> None:
        self.drift, self.martingale = ratio, martingale

    def window_compared(self, recipe: str, view: str, **figures: float | None) -> None:
        self.window = figures

    def picture_margin(self, recipe: str, view: str, reason: str, ratio: float) -> None:
        self.margins[reason] = ratio


class Returned:
    def __init__(self) -> None:
        self.postponed: list[str] = []
        self.forgotten: list[str] = []

    def postpone(self, candidate: Candidate) -> None:
        self.postponed.append(candidate.path)

    def forget(self, candidate: Candidate) -> None:
        self.forgotten.append(candidate.path)

    def stalled(self, why: str) -> None:
        self.trouble = why


class Wall:
    """A clock that somebody may set."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.ahead_s = clock, 1.7e9

    def __call__(self) -> float:
        return self.clock() + self.ahead_s


class Rig:
    """A line without its loops."""

    def __init__(
        self, folder: Path, runtime: FakeRuntime | None = None, on_loss: OnLoss = end_the_process,
        *, faulted: bool = False, same_content: str = "auto", calibration: Calibration | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.clock, self.meter, self.returned = folder, FakeClock(), Meter(), Returned()
        self.wall = Wall(self.clock)
        bundle = fake_bundle(folder / "bundle")
        inspector = Inspector(
            bundle, runtime or FakeRuntime(), calibration or fake_calibration(bundle, ["1", "2"])
        )
        route = Route("s", "r", compile_naming("{part}_{view}"), inspector, Limits(10**6, 4), 10.0)
        log = structlog.get_logger()
        routes = {name: replace(route, source=name, same_content=same_content) for name in ("s", "other")}
        self.backlog, self.workers = Backlog(dict.fromkeys(routes, "oldest")), InPlace()
        prepared, judged = Buffer(1e9), Buffer(1e9)
        self.journal = InFlight(folder / "in-flight", faulted=faulted)
        self.store = Store(folder / "edge.sqlite3", {"mqtt": KINDS})
        self.decode = DecodeStage(
            routes, self.backlog, self.workers, dict.fromkeys(routes, self.returned), prepared,
            journal=self.journal, stuck_s=60, meter=self.meter, log=log, clock=self.clock,
        )  # fmt: skip
        watch = EngineWatch(on_loss, clock=self.clock)
        self.inspect = InspectStage(routes, prepared, judged, batch_frames=8, watch=watch, log=log)
        drift = DriftWatch(
            DriftRule(), 86400, meter=self.meter, log=log, clock=self.clock, unix_clock=self.wall
        )
        self.record = RecordStage(
            judged, self.store, station="t", parts={"r": PartRule(("1", "2"), 30.0)},
            evidence_rule=EvidenceRule(folder / "evidence", 0.0), meter=self.meter, drift=drift,
            wake_delivery=lambda: None, done=self.journal.leave,
            log=log, clock=self.clock, unix_clock=self.wall,
        )  # fmt: skip

    def add(
        self, name: str, *, defect: bool = False, cut: int = 0, since_s: float | None = None,
        source: str = "s",
    ) -> Path:  # fmt: skip
        file = self.folder / "in" / name
        file.parent.mkdir(exist_ok=True)
        write_frame(self.folder / "scratch.png", defect=defect).replace(file)
        if cut:
            file.write_bytes(file.read_bytes()[:-cut])
        self.find(name, since_s, source)
        return file

    def find(self, name: str, since_s: float | None = None, source: str = "s") -> None:
        """Queue a file that is there."""
        file = self.folder / "in" / name
        info = file.stat()
        now = self.clock()
        stamp = FileStamp(info.st_size, info.st_mtime_ns)
        since = now if since_s is None else since_s
        self.backlog.add([Candidate(source, name, file, stamp, now, since, now)])

    def run(self) -> list[dict]:
        while self.decode.step(0.0):
            pass
        while self.inspect.step(0.0):
            pass
        self.record.step(0.0)
        return self.store.latest(100)[::-1]


@pytest.fixture
def rig(tmp_path: Path):
    rig = Rig(tmp_path)
    yield rig
    rig.store.close()


def test_frames_become_verdicts_and_a_complete_part_its_own(rig: Rig) -> None:
    rig.add("P1_1.png")
    rig.add("P1_2.png", defect=True)
    verdicts = rig.run()
    assert [(v["resultType"], v["resultEvaluation"]) for v in verdicts] == [
        ("frame", "OK"), ("frame", "NotOK"), ("part", "NotOK"),
    ]  # fmt: skip
    frame, part = verdicts[1], verdicts[2]
    assert (frame["partId"], frame["view"]) == ("P1", "2")
    assert part["views"][1]["resultId"] == frame["resultId"]
    assert (rig.folder / "evidence" / frame["evidence"] / "overlay.jpg").is_file()
    assert rig.store.depth("mqtt") == 3


def test_a_part_whose_views_do_not_come_is_partial_and_a_late_view_completes_it(rig: Rig) -> None:
    rig.add("P1_1.png")
    rig.run()
    rig.clock.advance(31)
    rig.record.step(0.0)
    (part,) = rig.meter.parts
    assert (part.evaluation, part.payload["isPartial"]) == ("NotDecidable", True)
    assert part.payload["missingViews"] == ["2"]
    rig.add("P1_2.png")
    rig.run()
    assert rig.meter.parts[-1].evaluation == "OK"
    rig.clock.advance(31)
    rig.record.step(0.0)
    assert len(rig.meter.parts) == 2


def test_a_truncated_frame_is_tried_again_and_in_the_end_recorded(rig: Rig) -> None:
    rig.add("P1_1.png", cut=30)
    assert rig.run() == []
    assert rig.returned.postponed == ["P1_1.png"]
    rig.add("P1_1.png", cut=30, since_s=rig.clock() - 10.0)
    (verdict,) = rig.run()
    assert (verdict["resultEvaluation"], verdict["reasons"]) == ("NotDecidable", ["truncated"])
    assert verdict["score"] is None
    assert rig.meter.reasons == ["truncated"]


def test_a_name_that_does_not_match_is_reported_not_dropped(rig: Rig) -> None:
    rig.add("unnamed.png")
    (verdict,) = rig.run()
    assert verdict["reasons"] == ["name_unmatched"]
    assert verdict["image"]["sha256"]


def test_an_unknown_view_is_not_decidable(rig: Rig) -> None:
    rig.add("P1_9.png")
    (verdict,) = rig.run()
    assert verdict["reasons"] == ["view_not_calibrated"]


def test_a_decoder_that_crashes_gets_two_tries_and_costs_one_file(rig: Rig) -> None:
    crash = DataError("crashed", reason="decoder_crashed", retryable=True)
    rig.workers.faults = [crash, crash]
    rig.add("P1_1.png")
    rig.run()
    rig.add("P1_2.png")
    verdicts = rig.run()
    assert rig.workers.jobs == 3
    by_view = {v["view"]: v for v in verdicts if v["resultType"] == "frame"}
    assert by_view["1"]["reasons"] == ["decoder_crashed"]
    assert by_view["2"]["resultEvaluation"] == "OK"


def test_a_vanished_file_is_counted_and_forgotten(rig: Rig) -> None:
    rig.add("P1_1.png").unlink()
    assert rig.run() == []
    assert rig.returned.forgotten == ["P1_1.png"]
    assert rig.meter.reasons == ["vanished"]


def test_a_file_that_changed_after_it_settled_goes_back(rig: Rig) -> None:
    rig.add("P1_1.png").write_bytes(b"more is being written")
    assert rig.run() == []
    assert rig.returned.postponed == ["P1_1.png"]


def test_an_engine_that_fails_on_one_frame_spares_the_others(tmp_path: Path) -> None:
    def answer(tiles: np.ndarray) -> np.ndarray:
        if tiles.max() > 0.9:
            raise RuntimeError("device lost")
        return np.full_like(tiles, 0.5)

    rig = Rig(tmp_path, FakeRuntime(answer))
    rig.add("P1_1.png")
    rig.add("P1_2.png", defect=True)
    frames = {v["view"]: v for v in rig.run() if v["resultType"] == "frame"}
    assert frames["1"]["resultEvaluation"] == "OK"
    assert frames["2"]["reasons"] == ["inference_failed"]
    rig.store.close()


def test_touching_a_file_gives_no_second_verdict_and_new_content_does(rig: Rig) -> None:
    file = rig.add("P1_1.png")
    rig.run()
    rig.add("P1_1.png")  # same bytes, new mtime
    assert len(rig.run()) == 1
    info = file.stat()
    assert rig.store.is_recorded("s", "P1_1.png", FileStamp(info.st_size, info.st_mtime_ns))
    rig.add("P1_1.png", defect=True)
    assert len(rig.run()) == 2


def test_a_disk_that_refuses_holds_the_verdicts_with_their_ids(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.add("P1_1.png")
    refused: list[str] = []

    def full(verdict: Verdict, body: bytes, source: str | None = None) -> None:
        refused.append(verdict.result_id)
        raise CannotWriteError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "add_verdict", full)
        with pytest.raises(CannotWriteError):
            rig.run()
    assert rig.record.holding == 1
    rig.record.step(0.0)
    (verdict,) = rig.store.latest(5)
    assert verdict["resultId"] == refused[0]


def test_evidence_that_cannot_be_written_does_not_hold_the_verdict(rig: Rig) -> None:
    (rig.folder / "evidence").write_bytes(b"in the way")
    rig.add("P1_1.png", defect=True)
    (verdict,) = rig.run()
    assert verdict["evidence"] is None
    assert rig.meter.skipped == 1


def test_waiting_for_a_postponed_file_does_not_use_up_its_tries(rig: Rig) -> None:
    incomplete = IncompleteError("not yet")
    crash = DataError("crashed", reason="decoder_crashed", retryable=True)
    rig.workers.faults = [incomplete, incomplete, crash]
    for _ in range(3):
        rig.add("P1_1.png")
        verdicts = rig.run()
    assert verdicts[0]["resultEvaluation"] == "OK"


def test_a_name_that_is_not_utf8_is_recorded_like_any_other(rig: Rig) -> None:
    name = os.fsdecode(b"P\xff1_1.png")
    rig.add(name)
    (verdict,) = rig.run()
    assert verdict["resultEvaluation"] == "OK"
    info = (rig.folder / "in" / name).stat()
    assert rig.store.is_recorded("s", name, FileStamp(info.st_size, info.st_mtime_ns))


def test_a_fault_of_the_machine_is_no_fault_of_the_file(rig: Rig) -> None:
    for reason in ("unreadable_now", "no_shared_memory", "permission_denied"):
        rig.workers.faults = [DataError("not now", reason=reason, retryable=True)] * 3
        for _ in range(3):
            rig.add("P1_1.png", since_s=rig.clock() - 1000.0)
            assert rig.run() == []
    assert len(rig.returned.postponed) == 9


def test_a_cancelled_decode_goes_back_to_its_source(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: Future[list[Frame]] = Future()
    cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    monkeypatch.setattr(rig.workers, "submit", lambda job: cancelled)
    rig.add("P1_1.png")
    assert rig.run() == []
    assert rig.returned.postponed == ["P1_1.png"]


def test_any_error_of_a_library_costs_its_frame_only(tmp_path: Path) -> None:
    def answer(tiles: np.ndarray) -> np.ndarray:
        if tiles.max() > 0.9:
            raise cv2.error("an assertion of OpenCV")
        return np.full_like(tiles, 0.5)

    rig = Rig(tmp_path, FakeRuntime(answer))
    rig.add("P1_2.png", defect=True)
    assert rig.run()[0]["reasons"] == ["inference_failed"]
    assert (tmp_path / "evidence" / rig.store.latest(1)[0]["evidence"] / "overlay.jpg").is_file()
    rig.store.close()


def test_a_full_next_stage_is_waited_for_with_beats() -> None:
    buffer: Buffer[int] = Buffer(1)
    buffer.put(1)
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        buffer.take(1)

    put_patiently(buffer, 2, 1.0, beat)
    assert beats == [1]
    assert buffer.take(1) == [2]


def test_drift_is_the_median_of_recent_scores_over_the_calibrations(rig: Rig) -> None:
    rig.add("P1_1.png")
    verdict = rig.run()[0]
    usual = np.median(np.linspace(0.1, 0.2, 20)) / 0.2
    assert rig.meter.drift == pytest.approx(verdict["score"] / usual, rel=1e-4)


def test_drifting_scores_are_bet_against_and_a_restart_knows_as_much(rig: Rig) -> None:
    rig.add("P1_1.png")
    verdict = rig.run()[0]
    usual = [score / 0.2 for score in np.linspace(0.1, 0.2, 20)]
    assert rig.meter.martingale == pytest.approx(log_martingale([verdict["score"]], usual), abs=1e-6)


def test_a_frame_for_review_leaves_pictures_and_says_so(rig: Rig) -> None:
    route = rig.inspect._routes["s"]
    calibration = route.inspector.calibration
    assert calibration is not None
    views = {
        view: limits.model_copy(update={"review_threshold": 1e-6})
        for view, limits in calibration.views.items()
    }
    route.inspector.calibration = calibration.model_copy(update={"views": views})
    rig.add("P1_1.png")
    verdict = rig.run()[0]
    assert (verdict["resultEvaluation"], verdict["reasons"]) == ("OK", ["in_review_band"])
    assert (rig.folder / "evidence" / verdict["evidence"] / "overlay.jpg").is_file()


@pytest.mark.parametrize("bad_first", [True, False])
def test_of_two_frames_of_one_view_the_worse_counts_for_the_part(rig: Rig, bad_first: bool) -> None:
    for name, defect in (("a/P1_1.png", bad_first), ("b/P1_1.png", not bad_first), ("P1_2.png", False)):
        (rig.folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        rig.add(name, defect=defect)
        rig.run()
    (part,) = rig.meter.parts
    assert part.evaluation == "NotOK"
    assert part.payload["reasons"] == ["view_not_ok", "view_repeated"]


def test_every_page_of_a_file_is_a_view_of_its_own(rig: Rig) -> None:
    page = np.full((2, 48, 64), 127, np.uint8)
    page += np.random.default_rng(0).integers(0, 5, page.shape, np.uint8)
    page[0, 10:22, 20:32] = 250
    tifffile.imwrite(rig.folder / "pages.tif", page, photometric="minisblack")
    name = "P1_1.tif"
    (rig.folder / "in").mkdir(exist_ok=True)
    rig.add(name)
    (rig.folder / "pages.tif").replace(rig.folder / "in" / name)
    rig.backlog.take()
    info = (rig.folder / "in" / name).stat()
    stamp = FileStamp(info.st_size, info.st_mtime_ns)
    rig.backlog.add([Candidate("s", name, rig.folder / "in" / name, stamp, 0, 0, 0)])
    verdicts = rig.run()
    assert [v["view"] for v in verdicts] == ["1-01", "1-02"]


def test_a_database_that_does_not_answer_loses_no_judged_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object) -> bool:
        raise UnavailableError("disk I/O error")

    rig.add("P1_1.png")
    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "has_verdict", unavailable)
        with pytest.raises(UnavailableError):
            rig.run()
    assert rig.record.holding == 1
    rig.record.step(0.0)
    assert len(rig.store.latest(5)) == 1


def test_a_line_that_was_given_up_on_writes_nothing(rig: Rig) -> None:
    class Ended(BaseException):
        pass

    def ended() -> None:
        raise Ended

    rig.add("P1_1.png")
    rig.decode.step(0.0)
    rig.decode.step(0.0)
    rig.inspect.step(0.0)
    with pytest.raises(Ended):
        rig.record.step(0.0, beat=ended)
    assert rig.store.latest(5) == []


def test_a_file_that_ended_the_daemon_twice_gets_its_verdict_unseen(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.add("P1_1.png")
    first.decode.step()  # and here native code faults
    second = Rig(tmp_path, faulted=True)
    second.find("P1_1.png")
    second.add("P2_1.png")
    second.decode.step()
    assert second.workers.jobs == 1  # the suspect, alone
    third = Rig(tmp_path, faulted=True)
    third.find("P1_1.png")
    third.find("P2_1.png")
    third.run()
    reasons = {payload["image"]["path"]: payload["reasons"] for payload in third.run()}
    assert reasons == {"P1_1.png": ["inspection_crashed"], "P2_1.png": []}
    assert third.workers.jobs == 1
    assert Rig(tmp_path).journal.suspects == 0


HUNG = DataError("reading took longer than 25 s", reason="read_timeout", retryable=True)


def test_a_source_that_cannot_be_read_in_time_rests_and_others_go_on(rig: Rig) -> None:
    for number in range(9):
        rig.add(f"P{number}_1.png")
    rig.workers.faults = [HUNG] * 9
    rig.run()
    assert rig.workers.jobs <= 2  # one, and what was on its way already
    assert rig.meter.frames == []
    assert "25 s" in rig.returned.trouble
    rig.workers.faults = []
    rig.add("P4_1.png", source="other")
    (verdict,) = rig.run()
    assert verdict["partId"] == "P4"
    rig.clock.advance(301)
    assert len(rig.run()) > 1
    assert rig.returned.trouble == ""


def test_files_that_hang_together_are_one_reason_to_rest_and_one_is_tried_afterwards(rig: Rig) -> None:
    rig.workers.workers = 4
    for number in range(12):
        rig.add(f"P{number}_1.png")
    rig.workers.faults = [HUNG] * 9
    rig.run()
    assert rig.workers.jobs == 5
    rig.clock.advance(31)
    rig.run()
    assert rig.workers.jobs == 6  # after 30 s, and one


def test_a_resting_source_is_tried_less_and_less_often(rig: Rig) -> None:
    tried_s = []
    for number in range(240):
        jobs = rig.workers.jobs
        rig.backlog.take()
        rig.add(f"P{number}_1.png")
        rig.workers.faults = [HUNG]
        rig.run()
        if rig.workers.jobs > jobs:
            tried_s.append(rig.clock())
        rig.clock.advance(5.0)
    gaps = np.diff(tried_s)
    assert gaps[0] == pytest.approx(30, abs=5)
    assert max(gaps) == pytest.approx(300, abs=5)
    assert (np.diff(gaps) >= 0).all()


def test_the_same_content_under_a_new_name_is_linked_where_the_name_says_the_same(rig: Rig) -> None:
    first = rig.add("P1_1.png")
    rig.run()
    (first.parent / "moved").mkdir()
    for name in ("moved/P1_1.png", "P2_1.png"):
        (first.parent / name).write_bytes(first.read_bytes())
        rig.find(name)
    assert [verdict["partId"] for verdict in rig.run()] == [
        "P1",
        "P2",
    ]  # another part's frame is another frame
    assert rig.meter.reasons == ["same_content"]
    stamp = FileStamp(first.stat().st_size, (first.parent / "moved/P1_1.png").stat().st_mtime_ns)
    assert rig.store.is_recorded("s", "moved/P1_1.png", stamp)  # it is not looked at again
    assert rig.store.depth("mqtt") == 2


def test_the_first_content_again_under_its_own_name_is_a_new_frame(rig: Rig) -> None:
    first = rig.add("P1_1.png")
    bytes_before = first.read_bytes()
    rig.run()
    rig.add("P1_1.png", defect=True)
    rig.run()
    first.write_bytes(bytes_before)
    rig.find("P1_1.png")
    assert [verdict["resultEvaluation"] for verdict in rig.run()] == ["OK", "NotOK", "OK"]


def test_contents_that_come_and_go_in_one_batch_are_frames_each(rig: Rig) -> None:
    first = rig.add("P1_1.png")
    good = first.read_bytes()
    for defect in (True, False):
        while rig.decode.step(0.0):
            pass
        if defect:
            rig.add("P1_1.png", defect=True)
        else:
            first.write_bytes(good)
            rig.find("P1_1.png")
    assert [verdict["resultEvaluation"] for verdict in rig.run()] == ["OK", "NotOK", "OK"]


def test_another_source_is_not_asked(rig: Rig) -> None:
    """It may read grey values otherwise."""
    rig.add("P1_1.png")
    rig.run()
    rig.find("P1_1.png", source="other")
    assert len(rig.run()) == 2


def test_copies_that_come_together_are_linked_as_well(rig: Rig) -> None:
    first = rig.add("P1_1.png")
    (first.parent / "b").mkdir()
    (first.parent / "b/P1_1.png").write_bytes(first.read_bytes())
    rig.find("b/P1_1.png")
    assert len(rig.run()) == 1
    assert rig.meter.reasons == ["same_content"]


@pytest.mark.parametrize(("rule", "verdicts"), [("judge", 3), ("link", 1), ("auto", 2)])
def test_what_the_same_content_means_is_the_sources_choice(tmp_path: Path, rule: str, verdicts: int) -> None:
    rig = Rig(tmp_path, same_content=rule)
    first = rig.add("P1_1.png")
    rig.run()
    for name in ("b/P1_1.png", "P2_1.png"):
        (first.parent / name).parent.mkdir(exist_ok=True)
        (first.parent / name).write_bytes(first.read_bytes())
        rig.find(name)
    assert len(rig.run()) == verdicts


def test_another_model_judges_the_same_content_anew(tmp_path: Path) -> None:
    before = Rig(tmp_path)
    first = before.add("P1_1.png")
    before.run()
    bundle = fake_bundle(tmp_path / "bundle")
    recalibrated = fake_calibration(bundle, ["1", "2"]).model_copy(update={"digest": "another"})
    after = Rig(tmp_path, calibration=recalibrated)
    (first.parent / "b").mkdir()
    (first.parent / "b/P1_1.png").write_bytes(first.read_bytes())
    after.find("b/P1_1.png")
    assert len(after.run()) == 2


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_neither_hurries_parts_nor_delays_them(rig: Rig, jump_s: float) -> None:
    rig.add("P1_1.png")
    rig.run()
    rig.wall.ahead_s += jump_s
    rig.clock.advance(1)
    rig.record.step(0.0)
    assert rig.meter.parts == []  # the part's 30 s have not passed
    rig.clock.advance(30)
    rig.record.step(0.0)
    (part,) = rig.meter.parts
    assert part.payload["isPartial"]


def test_a_source_whose_trial_the_workers_lost_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.add("P1_1.png")
    rig.workers.faults = [HUNG]
    rig.run()
    rig.clock.advance(31)
    lost: Future[list[Frame]] = Future()
    lost.cancel()
    with monkeypatch.context() as patched:
        patched.setattr(rig.workers, "submit", lambda job: lost)
        rig.add("P2_1.png")
        rig.decode.step(0.0)
    rig.add("P3_1.png")
    assert [verdict["partId"] for verdict in rig.run()] == ["P3"]

"""Accounting of a demonstration: what the scanner wrote against what the daemon said about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.simulate.shots import Shot


@dataclass(frozen=True, slots=True)
class Entry:
    """A verdict as the table shows it."""

    time: str  # HH:MM:SS, UTC
    part: str
    view: str  # empty for a part verdict
    evaluation: str
    score: float | None
    reasons: tuple[str, ...]
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Frame verdicts against the simulated truth; truncated frames are counted apart."""

    defects: int  # frames that show a defect and have a verdict
    found: int  # of them, NotOK
    good: int
    false_alarms: int  # of the good ones, NotOK
    undecided: int  # whole frames called NotDecidable
    truncated: int
    truncated_refused: int  # of them, NotDecidable with the reason truncated


class Ledger:
    """Frames written and verdicts received, in any order; not thread-safe, feed it from one loop."""

    def __init__(self, views: int) -> None:
        """An empty ledger for parts of `views` frames."""
        self._views = views
        self._written: dict[str, Shot] = {}
        self._verdicts: dict[str, Mapping[str, Any]] = {}  # the latest by path
        self._results: dict[tuple[str, str], Mapping[str, Any]] = {}  # the latest by batch and part
        self._seen: set[str] = set()  # resultId
        self.duplicates = 0
        self.entries: list[Entry] = []

    def written(self, shot: Shot) -> None:
        """The scanner has finished a frame (or has left it truncated)."""
        self._written[shot.path] = shot

    def verdict(self, payload: Mapping[str, Any]) -> Entry | None:
        """A frame or part verdict came in; None if its resultId was there before."""
        identifier = str(payload.get("resultId"))
        if identifier in self._seen:
            self.duplicates += 1
            return None
        self._seen.add(identifier)
        if payload.get("resultType") == "part":
            self._results[str(payload.get("batchId") or ""), str(payload.get("partId"))] = payload
        else:
            self._verdicts[str((payload.get("image") or {}).get("path"))] = payload
        entry = _entry(payload)
        self.entries.append(entry)
        return entry

    @property
    def frames_written(self) -> int:
        return len(self._written)

    @property
    def frame_verdicts(self) -> int:
        return len(self._verdicts.keys() & self._written.keys())

    @property
    def part_verdicts(self) -> int:
        return len(self._results)

    @property
    def evaluations(self) -> Counter[str]:
        """Frame verdicts by evaluation."""
        return Counter(str(payload.get("resultEvaluation")) for payload in self._verdicts.values())

    def missing_frames(self) -> list[str]:
        """Paths of frames that were written and have no verdict."""
        return sorted(self._written.keys() - self._verdicts.keys())

    def missing_parts(self) -> list[str]:
        """Parts written in all their views that have no part verdict."""
        frames = Counter((shot.batch, shot.part) for shot in self._written.values())
        finished = {key for key, count in frames.items() if count >= self._views}
        return sorted("/".join(key) for key in finished - self._results.keys())

    def wrong(self) -> list[str]:
        """Truncated frames that were judged all the same: never right, whatever the model."""
        return sorted(
            path
            for path, shot in self._written.items()
            if shot.style == "truncated" and path in self._verdicts and not _refused(self._verdicts[path])
        )

    @property
    def complete(self) -> bool:
        return not self.missing_frames() and not self.missing_parts()

    def comparison(self) -> Comparison:
        """How the verdicts compare with what was simulated."""
        judged = [
            (shot, self._verdicts[path]) for path, shot in self._written.items() if path in self._verdicts
        ]
        cut = [payload for shot, payload in judged if shot.style == "truncated"]
        whole = [
            (shot.label == "defect", payload.get("resultEvaluation"))
            for shot, payload in judged
            if shot.style != "truncated"
        ]
        counts = Counter(whole)
        defects = sum(is_defect for is_defect, _ in whole)
        return Comparison(
            defects=defects,
            found=counts[True, "NotOK"],
            good=len(whole) - defects,
            false_alarms=counts[False, "NotOK"],
            undecided=counts[True, "NotDecidable"] + counts[False, "NotDecidable"],
            truncated=len(cut),
            truncated_refused=sum(map(_refused, cut)),
        )


def _refused(payload: Mapping[str, Any]) -> bool:
    return payload.get("resultEvaluation") == "NotDecidable" and "truncated" in (payload.get("reasons") or ())


def _entry(payload: Mapping[str, Any]) -> Entry:
    score = payload.get("score")
    latency = (payload.get("processingTimes") or {}).get("total_s")
    return Entry(
        time=str(payload.get("creationTime") or "")[11:19],
        part=str(payload.get("partId") or "–"),
        view="" if payload.get("resultType") == "part" else str(payload.get("view") or "–"),
        evaluation=str(payload.get("resultEvaluation")),
        score=None if score is None else float(score),
        reasons=tuple(map(str, payload.get("reasons") or ())),
        latency_s=None if latency is None else float(latency),
    )

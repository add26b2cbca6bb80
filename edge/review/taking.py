"""A person's review of a verdict: written into the site's database, with the frame kept to learn from.

A frame is kept where the review overrules its verdict or finds a defect: sources are emptied by whoever owns
them, and what people said of frames that are gone cannot be learned from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.artifacts import copy_verified, make_folder
from edge.config import Settings
from edge.errors import ConfigError, DataError, MissingInputError, UsageError
from edge.places import CHANGED, Places
from edge.recipes import find_recipe
from edge.record import evidence, reviews
from edge.record.store import Store
from edge.types import Review

OF_PART = "a part's verdict is of several frames: review those"
NO_ROOM = "there is no room to keep it"


class Reviewing:
    """Takes reviews for a site; safe from any thread."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        announce: Callable[[str, Mapping[str, Any]], None] = lambda event, data: None,
        wake_delivery: Callable[[], None] = lambda: None,
        unix_clock: Callable[[], float] = time.time,
        log: Any = None,
    ) -> None:
        self._store, self._settings, self._log = store, settings, log
        self._announce, self._wake, self._unix_clock = announce, wake_delivery, unix_clock

    def add(self, result_id: str, evaluation: str, reason: str, reviewer: str) -> dict[str, Any]:
        """Write a review; gives it with "frameKept" and, where it was wanted and is not, "frameWhy".

        Raises:
            MissingInputError: no such verdict. DataError: it is not a review, or lacks a reason.
            CannotWriteError: the database cannot be written; nothing was.
        """
        review = self._store.add_review(result_id, evaluation, reason, reviewer, self._unix_clock())
        said = reviews.document(review)
        self._announce("review", said)
        self._wake()
        kept, why = self._keep(review)
        if self._log is not None:
            self._log.info(
                "review.added", result_id=result_id, evaluation=evaluation, agrees=review.agrees,
                reviewer=review.reviewer, frame_kept=kept is not None,
            )  # fmt: skip
        return {**said, "frameKept": kept is not None, **({"frameWhy": why} if why else {})}

    def latest(self, limit: int, since_unix_s: float | None) -> Sequence[dict[str, Any]]:
        """The last reviews, newest first."""
        return [reviews.document(one) for one in self._store.latest_reviews(limit, since_unix_s)]

    def proposal(self, recipe: str) -> Mapping[str, Any]:
        """What `edge calibrate --with-reviews` would change by stored scores; or {"why": …}."""
        from edge.review.thresholds import propose

        try:
            find_recipe(self._settings, recipe)
        except (ConfigError, UsageError) as error:
            raise MissingInputError(error.message) from None
        try:
            return propose(self._settings, recipe).document
        except (MissingInputError, DataError) as error:
            return {"why": error.message}

    def _keep(self, review: Review) -> tuple[Path | None, str]:
        found = self._store.verdict(review.result_id)
        if found is None or not wants_frame(review):
            return None, ""
        payload, source = found
        return keep_frame(self._settings, payload, source)


def wants_frame(review: Review) -> bool:
    """Whether there is something to learn from its frame."""
    return not review.agrees or review.evaluation == "NotOK"


def keep_frame(settings: Settings, payload: Mapping[str, Any], source: str | None) -> tuple[Path | None, str]:
    """Copy a verdict's frame to STATE/reviewed/SHA256.EXT; gives where it lies, or why it does not."""
    if payload["resultType"] == "part":
        return None, OF_PART
    places, image = Places(settings), payload.get("image") or {}
    file, why = places.find(payload, source)
    if file is None:
        return None, why
    target = places.reviewed(image["sha256"], image["path"])
    if target == file:
        return target, ""
    try:
        free = evidence.free_bytes(target.parent) - file.stat().st_size
        if free < evidence.wanted_free(target.parent, settings.evidence.min_free_bytes):
            return None, NO_ROOM
        make_folder(target.parent)
        return (target, "") if copy_verified(file, target, image["sha256"]) else (None, CHANGED)
    except OSError as error:
        return None, f"it cannot be kept: {error.strerror}"

"""Option values: what is read, and what is refused before any work begins."""

from __future__ import annotations

import os

import pytest

from edge.errors import UsageError
from edge.options import check_recipe_name, check_threads, parse_range, parse_size, relative_score


@pytest.mark.parametrize(
    ("text", "size"), [("640x480", (640, 480)), ("1536X1024", (1536, 1024)), (None, None)]
)
def test_size_is_width_by_height(text: str | None, size: tuple[int, int] | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["640", "640x", "axb", "-1x5", "16385x10", "9" * 5000 + "x1"])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        parse_size(text)


def test_value_range_needs_two_finite_numbers() -> None:
    assert parse_range("0:4095") == (0.0, 4095.0)
    assert parse_range("4095:0") == (4095.0, 0.0)
    for text in ("7", "a:b", "5:5", "0:nan", "-inf:1"):
        with pytest.raises(UsageError, match="--value-range"):
            parse_range(text)


def test_no_more_threads_than_cores() -> None:
    check_threads(os.cpu_count() or 1)
    with pytest.raises(UsageError, match="cores"):
        check_threads(100_000)


@pytest.mark.parametrize("name", ["", ".x", "a/b", "../a", "a b", "ä"])
def test_a_recipe_name_that_is_no_folder_name_is_refused(name: str) -> None:
    check_recipe_name("A-1_b.2")
    with pytest.raises(UsageError, match="recipe's name"):
        check_recipe_name(name)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (1.37, "1.37"), (12.345, "12.35"), (0.2, "0.20"), (1.0004, "1.0004"), (0.9961, "0.9961"),
        (1.0, "1.0000"), (1.00001, "1.00001"), (0.9999999, "0.9999999"), (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_only_a_score_at_the_threshold_looks_like_one(score: float, text: str) -> None:
    assert relative_score(score) == text

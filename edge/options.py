"""Option values that several commands read the same way; light, so that `edge --help` stays quick."""

from __future__ import annotations

import math
import os

from edge.errors import UsageError

MOST_PX = 16_384  # a side of a plane: beyond it one float32 frame has a gigabyte


def parse_range(text: str | None) -> tuple[float, float] | None:
    """ "0:4095" → (0.0, 4095.0): the stored values that are black and white.

    Raises:
        UsageError: not two different finite numbers.
    """
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        black, white = float(low), float(high)
    except ValueError:
        raise UsageError(f"--value-range {text}: not LOW:HIGH", hint="two numbers, such as 0:4095") from None
    if black == white or not (math.isfinite(black) and math.isfinite(white)):
        raise UsageError(
            f"--value-range {text}: two different finite numbers are needed", hint="such as 0:4095"
        )
    return black, white


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "640x480" → (640, 480), width first.

    Raises:
        UsageError: not a size, or a side above 16384.
    """
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size {text}: not a size", hint="WIDTHxHEIGHT, such as 640x480")
    # the digits first: Python refuses to convert thousands of them
    if max(len(width), len(height)) > 9 or max(int(width), int(height)) > MOST_PX:
        raise UsageError(f"--size {text[:40]}: above {MOST_PX} pixels a side", hint="such as 1536x1024")
    return int(width), int(height)


def relative_score(value: float) -> str:
    """A score relative to its threshold, for people: 1.37, but 1.0004; only 1 itself looks like 1."""
    decimals = 4 if abs(value - 1) < 0.05 else 2
    while value != 1 and float(f"{value:.{decimals}f}") == 1:
        decimals += 1
    return f"{value:.{decimals}f}"


def check_threads(count: int) -> None:
    """More threads than cores only wait for each other, and many more stop the machine.

    Raises:
        UsageError: more than the machine has cores.
    """
    cores = os.cpu_count() or 1
    if count > cores:
        raise UsageError(f"--threads {count}: this machine has {cores} cores", hint=f"0 (all) to {cores}")


def check_recipe_name(name: str) -> None:
    """Recipe names become folders, topics and labels.

    Raises:
        UsageError: anything but letters, digits, '.', '_' and '-', starting with a letter or digit.
    """
    from edge.config import label

    try:
        label(name)
    except ValueError as error:
        raise UsageError(f"{name!r} cannot be a recipe's name", hint=str(error)) from None

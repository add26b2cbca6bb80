"""What cannot be run here is at least type-checked against TensorRT's published stubs.

They come without what they describe: `pip install --no-deps tensorrt-stubs`, as the Makefile does.
As published (10.13) they do not parse, so a copy is mended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NATIVE = ROOT / "edge" / "infer" / "tensorrt_native.py"
MENDS = (
    (r"\bin: list", "in_: list"),  # a word of Python's as a parameter
    (r"(= None, channel_axis: int)\)", r"\1 = 0)"),  # without a default after some with one
    (r"^bool: .*$", ""),  # hides the type of that name
)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        files = distribution("tensorrt-stubs").files or []
    except PackageNotFoundError:
        reason = "needs pip install --no-deps tensorrt-stubs"
        if os.environ.get("EDGE_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("stubs")
    for file in files:
        if file.suffix == ".pyi":
            text = file.read_text()
            for wrong, right in MENDS:
                text = re.sub(wrong, right, text, flags=re.M)
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    (folder / "tensorrt_libs.pyi").touch()
    return folder


def complaints(file: Path, stubs: Path) -> list[str]:
    """mypy's, about that file only."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    path = os.pathsep.join([str(stubs), str(ROOT)])
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=stubs, env={**os.environ, "MYPYPATH": path}
    )
    assert "prevented further checking" not in result.stdout, result.stdout
    return [line for line in result.stdout.splitlines() if file.name in line and " error: " in line]


@pytest.mark.slow
def test_native_calls_are_those_of_the_stubs(stubs: Path) -> None:
    assert complaints(NATIVE, stubs) == []


@pytest.mark.slow
def test_a_call_that_is_not_there_is_noticed(stubs: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong_native.py"
    wrong.write_text(NATIVE.read_text().replace("execute_async_v3(int", "execute_async_v9(int"))
    assert any("execute_async_v9" in line for line in complaints(wrong, stubs))

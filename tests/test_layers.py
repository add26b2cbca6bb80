"""The import rule of DESIGN.md: stages know nothing of each other; heavy libraries live in one place each."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "edge"
COMMON = {"edge", "edge.types", "edge.errors", "edge.artifacts", "edge.mounts", "edge.timestamps"}
STAGES = ("intake", "decode", "preprocess", "judge", "record", "publish", "observe", "web")
# infer reads the preprocessing that a bundle carries
ALLOWED_BESIDES = {"infer": {"edge.preprocess"}}
HEAVY = {
    "torch": {"learn", "infer/torch_cuda.py", "infer/onnx_torch.py"},
    "tensorrt": {"infer/tensorrt.py", "infer/tensorrt_native.py"},
    "openvino": {"infer/openvino.py", "learn"},
    "paho": {"publish", "simulate", "demo.py"},
}


def imports(file: Path) -> Iterator[str]:
    """Modules a file imports at run time (imports for type checking do not count)."""
    tree = ast.parse(file.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("stage", [*STAGES, "infer"])
def test_a_stage_imports_only_common_types_and_itself(stage: str) -> None:
    allowed = COMMON | ALLOWED_BESIDES.get(stage, set())
    for file in (ROOT / stage).rglob("*.py"):
        for module in imports(file):
            if module.split(".")[0] == "edge" and module not in allowed:
                assert module == f"edge.{stage}" or module.startswith(f"edge.{stage}."), f"{file}: {module}"


@pytest.mark.parametrize("library", sorted(HEAVY))
def test_a_heavy_library_is_imported_where_the_design_says(library: str) -> None:
    for file in ROOT.rglob("*.py"):
        if library in {module.split(".")[0] for module in imports(file)}:
            place = file.relative_to(ROOT).as_posix()
            assert any(place == ok or place.startswith(f"{ok}/") for ok in HEAVY[library]), (
                f"{place}: {library}"
            )


@pytest.mark.parametrize("module", ["edge.cli", "edge.daemon", "edge.inspect", "edge.evaluate"])
def test_the_daemon_and_its_commands_import_without_torch(module: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import {module}; assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, edge.cli; heavy = {'cv2', 'openvino', 'torch', 'pydicom', 'paho'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

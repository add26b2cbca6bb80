"""Python, its packages, the engine, and GPUs: what was installed."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from edge import __version__
from edge.doctor.finding import Finding, count, read

PACKAGE = "edge-inspect"
OLDEST_PYTHON = (3, 11)


def check_python(version: Sequence[int]) -> Iterator[Finding]:
    """Old Pythons, and systems that the daemon was not made for."""
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}, edge {__version__}"
    if tuple(version) < OLDEST_PYTHON:
        yield Finding(
            "Python", "fault", said, "edge needs Python 3.11 or newer: make a new virtual environment"
        )
    elif platform.system() != "Linux":
        yield Finding(
            "Python", "warning", said, "the daemon is made for Linux; elsewhere nobody has tried it"
        )
    else:
        yield Finding("Python", "ok", said)


def check_packages(
    needed: Sequence[str] | None = None, installed: Callable[[str], str] = metadata.version
) -> Iterator[Finding]:
    """What edge depends on, whether it is there, and in a version that it may be."""
    wanted = _requirements() if needed is None else needed
    missing, wrong = [], []
    for requirement in wanted:
        match = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*([^;]*)", requirement)
        assert match, requirement
        name, bounds = match[1], match[2].strip()
        try:
            version = installed(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if not _within(version, bounds):
            wrong.append(f"{name} {version} (needs {bounds})")
    if missing or wrong:
        says = "; ".join(
            part for part in (
                f"missing: {', '.join(missing)}" if missing else "",
                f"other versions: {', '.join(wrong)}" if wrong else "",
            ) if part
        )  # fmt: skip
        yield Finding(
            "packages", "fault" if missing else "warning", says,
            "pip install -c constraints.txt edge-inspect, in edge's own virtual environment",
        )  # fmt: skip
    else:
        yield Finding("packages", "ok", f"all {len(wanted)} that the daemon needs")


def _requirements() -> list[str]:
    """Of the daemon, without those of extras."""
    try:
        return [line for line in metadata.requires(PACKAGE) or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:  # run from a folder that was only copied
        return []


def _within(version: str, bounds: str) -> bool:
    """Whether a version is within bounds such as ">=1.2,<3"; of numbers only, as edge's own bounds are."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text.split("+")[0])[:4]]

    have = numbers(version)
    for bound in filter(None, (part.strip() for part in bounds.strip("()").split(","))):
        sign, limit = bound.rstrip("0123456789."), numbers(bound)
        length = max(len(have), len(limit))
        here, there = (side + [0] * (length - len(side)) for side in (have, limit))
        if (sign == ">=" and here < there) or (sign == "<" and here >= there):
            return False
    return True


def check_engine() -> Iterator[Finding]:
    """OpenVINO: whether it loads, and what it makes of this CPU."""
    try:
        from edge.infer.openvino import the_core

        can = sorted(the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        version = metadata.version("openvino")
    except (ImportError, RuntimeError) as error:  # PackageNotFoundError is an ImportError
        first = next(iter(str(error).splitlines()), type(error).__name__)
        yield Finding(
            "OpenVINO", "fault", f"does not load: {first}", "pip install --force-reinstall openvino"
        )
    else:
        yield Finding("OpenVINO", "ok", f"{version}, computes {', '.join(can)}")


def check_gpu(root: Path, installed: Callable[[str], str] = metadata.version) -> Iterator[Finding]:
    """Whether there is an NVIDIA GPU, and something that uses it. Whether it works, `--gpu` proves."""
    driver = read(root / "proc/driver/nvidia/version").splitlines()
    with_gpu = sorted(path.name for path in (root / "proc/driver/nvidia/gpus").glob("*"))
    runtimes = {}
    for name in ("tensorrt", "torch"):
        try:
            runtimes[name] = installed(name)
        except metadata.PackageNotFoundError:
            continue
    usable = [f"{name} {version}" for name, version in runtimes.items() if "+cpu" not in version]
    if not driver:
        yield Finding("GPU", "ok", "no NVIDIA driver: the CPU judges")
    elif not with_gpu:
        yield Finding("GPU", "warning", "an NVIDIA driver without a GPU", "see `nvidia-smi` and dmesg")
    elif not usable:
        says = f"{count(len(with_gpu), 'NVIDIA GPU')}, and neither TensorRT nor a torch that uses it"
        fix = 'pip install "edge-inspect[tensorrt]", then `edge doctor --gpu`'
        yield Finding("GPU", "note", says, fix)
    else:
        says = f"{count(len(with_gpu), 'NVIDIA GPU')}, {', '.join(usable)}"
        yield Finding("GPU", "note", says, "`edge doctor --gpu` proves that they work together")

"""edge doctor: each check on machines made up in a folder, and the command as a user has it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from edge import gpu_proof
from edge.cli import _run
from edge.doctor import installation, machine
from edge.doctor.finding import Finding
from edge.errors import BundleError, UnavailableError
from edge.gpu_proof import GpuProof, Trial, try_all
from edge.infer.bundle import Bundle
from edge.infer.compile import open_runtime
from edge.infer.runtime import Runtime
from edge.testing import FakeClock, FakeRuntime
from edge.types import FloatImage
from tests.sites import PX, blurring_bundle, make_recipe, write_config

CPUINFO = "model name\t: A Chip\nflags\t\t: fpu {}\nmodel name\t: A Chip\n"


def one(found: Iterator[Finding]) -> Finding:
    (finding,) = found
    assert bool(finding.fix) == (finding.level != "ok"), "what is amiss has a fix, and nothing else"
    return finding


def made_up(folder: Path, **files: str) -> Path:
    """A root with such files; __ in a name stands for /."""
    for name, text in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_an_old_python_is_a_fault() -> None:
    assert one(installation.check_python((3, 10))).level == "fault"
    assert one(installation.check_python((3, 12))).level == "ok"


@pytest.mark.parametrize(
    ("needed", "level", "says"),
    [
        (["numpy>=1.26,<3", "there-is-none>=1"], "fault", "missing: there-is-none"),
        (["numpy>=1.26,<2.0"], "warning", "numpy 2.1.3 (needs >=1.26,<2.0)"),
        (["numpy<3,>=2.2"], "warning", "numpy 2.1.3"),
        (["numpy>=2.1.3", "numpy[extra]<3,>=1.26", "numpy"], "ok", "all 3"),
    ],
)
def test_packages_are_there_and_in_versions_that_do(needed: list[str], level: str, says: str) -> None:
    def installed(name: str) -> str:
        if name != "numpy":
            raise PackageNotFoundError(name)
        return "2.1.3"

    finding = one(installation.check_packages(needed, installed))
    assert finding.level == level
    assert says in finding.says


def test_the_packages_of_this_installation_are_found() -> None:
    finding = one(installation.check_packages())
    assert finding.level == "ok"
    assert int(finding.says.split()[1]) >= 15


def test_openvino_says_what_it_computes() -> None:
    finding = one(installation.check_engine())
    assert finding.level == "ok"
    assert "FP32" in finding.says


@pytest.mark.parametrize(
    ("flags", "level", "says"),
    [
        ("avx2 avx512f avx512_vnni amx_int8", "ok", "A Chip: AVX-512, VNNI (int8), AMX int8"),
        ("avx2", "note", "none of VNNI, bf16, AMX"),
        ("sse4_2", "warning", "no AVX2"),
    ],
)
def test_what_the_cpu_can_do_is_named(tmp_path: Path, flags: str, level: str, says: str) -> None:
    finding = one(machine.check_cpu(made_up(tmp_path, proc__cpuinfo=CPUINFO.format(flags))))
    assert finding.level == level
    assert says in finding.says


@pytest.mark.parametrize(
    ("cores", "quota", "level"),
    [(4, "max 100000", "ok"), (4, "150000 100000", "warning"), (1, "", "warning")],
)
def test_a_quota_of_fewer_cores_than_are_seen_is_said(
    tmp_path: Path, cores: int, quota: str, level: str
) -> None:
    assert (
        one(machine.check_cores(made_up(tmp_path, **{"sys__fs__cgroup__cpu.max": quota}), cores)).level
        == level
    )


@pytest.mark.parametrize(
    ("available_gb", "limit_gb", "level"),
    [(8, None, "ok"), (1.5, None, "warning"), (0.5, None, "fault"), (8, 1, "fault")],
)
def test_little_memory_is_said_also_of_a_container(
    tmp_path: Path, available_gb: float, limit_gb: float | None, level: str
) -> None:
    meminfo = f"MemTotal: 16000000 kB\nMemAvailable: {int(available_gb * 1e6)} kB\n"
    root = made_up(tmp_path, proc__meminfo=meminfo)
    if limit_gb is not None:
        made_up(
            tmp_path,
            **{"sys__fs__cgroup__memory.max": f"{limit_gb * 10**9}", "sys__fs__cgroup__memory.current": "5"},
        )
    assert one(machine.check_memory(root)).level == level


def test_few_open_files_are_said() -> None:
    assert one(machine.check_files(256, 4096)).level == "warning"
    assert one(machine.check_files(1024, 4096)).level == "ok"
    assert one(machine.check_files(-1, -1)).says == "unlimited"


def test_few_watches_are_said_with_the_command_that_mends_it(tmp_path: Path) -> None:
    folder = "proc__sys__fs__inotify__max_user_"
    root = made_up(tmp_path, **{f"{folder}watches": "100\n", f"{folder}instances": "128\n"})
    finding = one(machine.check_inotify(root))
    assert finding.level == "warning"
    assert "sysctl -w fs.inotify.max_user_watches=" in finding.fix
    assert "instances" not in finding.fix


def test_a_full_disk_or_one_that_is_not_here_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage
    for free, level in ((10**8, "fault"), (5 * 10**9, "warning"), (10**11, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(10**12, 0, free))
        assert one(machine.check_disk(tmp_path / "not" / "yet" / "made")).level == level
    monkeypatch.setattr(machine, "is_network_mount", lambda _: True)
    assert one(machine.check_disk(tmp_path)).level == "fault"


@pytest.mark.parametrize(
    ("now_s", "state", "level"), [(0.0, 0, "fault"), (2e9, 5, "warning"), (2e9, 0, "ok"), (2e9, None, "ok")]
)
def test_a_clock_that_nobody_sets_is_said(now_s: float, state: int | None, level: str) -> None:
    assert one(machine.check_clock(now_s, state)).level == level


def test_the_kernel_says_whether_the_clock_is_synchronised() -> None:
    assert machine.clock_state() in (None, *range(6))  # adjtimex(2): TIME_OK to TIME_ERROR


@pytest.mark.parametrize(
    ("status", "landlock", "level"),
    [("Name:\tx", 7, "warning"), ("Seccomp:\t0", 0, "note"), ("Seccomp:\t0", 7, "ok")],
)
def test_what_decoders_cannot_be_locked_in_with_is_said(status: str, landlock: int, level: str) -> None:
    assert one(machine.check_confinement(status, landlock)).level == level


@pytest.mark.parametrize(
    ("driver", "gpus", "packages", "level", "says"),
    [
        ("", 0, {}, "ok", "no NVIDIA driver"),
        ("NVRM version: 580.65", 0, {}, "warning", "without a GPU"),
        ("NVRM version: 580.65", 2, {"torch": "2.13.0+cpu"}, "note", "2 NVIDIA GPUs, and neither"),
        ("NVRM version: 580.65", 1, {"tensorrt": "10.15.1"}, "note", "1 NVIDIA GPU, tensorrt 10.15.1"),
    ],
)
def test_a_gpu_that_is_not_used_is_noted(
    tmp_path: Path, driver: str, gpus: int, packages: dict[str, str], level: str, says: str
) -> None:
    def installed(name: str) -> str:
        try:
            return packages[name]
        except KeyError:
            raise PackageNotFoundError(name) from None

    root = made_up(tmp_path, proc__driver__nvidia__version=driver)
    for gpu in range(gpus):
        (root / f"proc/driver/nvidia/gpus/0000:0{gpu}:00.0").mkdir(parents=True)
    finding = one(installation.check_gpu(root, installed))
    assert finding.level == level
    assert says in finding.says


def test_what_cannot_be_told_is_left_out(tmp_path: Path) -> None:
    for check in (machine.check_cpu, machine.check_memory, machine.check_inotify):
        assert list(check(tmp_path)) == []


# The command


@pytest.fixture
def edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    monkeypatch.setattr(machine, "check_disk", lambda _: iter(()))  # of whatever machine runs the tests
    monkeypatch.setattr(machine, "check_memory", lambda _: iter(()))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = _run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_without_a_site_it_looks_at_the_machine(edge: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = edge("doctor")
    assert code == 0
    assert "no config.toml here" in out
    assert "edge can run here" in out.splitlines()[-1]


def test_a_site_is_checked_and_its_faults_end_it_with_1(
    edge: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    make_recipe(tmp_path)
    file = write_config(tmp_path, 1883, 9470)
    file.write_text(file.read_text().replace("[mqtt]", "[mqtt]\nenabled = false"))
    (tmp_path / "incoming").rmdir()
    code, out, _ = edge("doctor")
    assert code == 1
    assert "FAULT" in out
    assert "is no folder" in out
    assert "1 fault to mend" in out.splitlines()[-1]
    (tmp_path / "incoming").mkdir()
    code, out, _ = edge("doctor", "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (0, True)
    (site,) = [finding for finding in document["findings"] if finding["topic"] == "site"]
    assert site["level"] == "ok"
    (tmp_path / "config.toml").write_text("schema_version = 2")
    assert edge("doctor")[0] == 1


def test_asked_for_a_gpu_where_none_is_it_says_why_and_exits_with_69(
    edge: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_settings: object, progress: object) -> GpuProof:
        return GpuProof((Trial("demo", "tensorrt", "fp32", "unavailable", "TensorRT is not installed"),))

    monkeypatch.setattr(gpu_proof, "prove_gpus", none)
    code, out, err = edge("doctor", "--gpu")
    assert code == 69
    assert "no GPU can be used here" in out
    assert "TensorRT is not installed" in err
    code, out, _ = edge("doctor", "--gpu", "--json")
    assert code == 69
    assert json.loads(out)["gpu"]["usable"] is False


def test_the_demo_engine_is_tried_where_there_is_no_site() -> None:
    (bundle,) = gpu_proof.bundles(None)
    assert bundle.manifest.name == "demo"


# The proof, over runtimes that are right, wrong, broken and missing


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return blurring_bundle(tmp_path_factory.mktemp("engines") / "blur")


class Pretender(FakeRuntime):
    """A runtime on the CPU that says it is another."""

    name = "tensorrt"


def by_cpu(bundle: Bundle) -> Callable[[FloatImage], FloatImage]:
    cpu = open_runtime(bundle, precision="fp32")
    most = cpu.batch_of(PX, PX)
    return lambda tiles: np.concatenate(
        list(cpu.infer(tiles[i : i + most] for i in range(0, len(tiles), most)))
    )


def tried(
    bundle: Bundle, opener: Callable[[Bundle, str], Runtime], clock: Callable[[], float]
) -> list[Trial]:
    return list(try_all(bundle, {"tensorrt": opener}, measured_s=1.0, clock=clock))


class Ticking(FakeClock):
    """A tenth of a second a look."""

    def __call__(self) -> float:
        return self.advance(0.1)


def test_a_runtime_that_agrees_is_good_and_its_rate_is_measured(bundle: Bundle) -> None:
    answer = by_cpu(bundle)
    trials = tried(bundle, lambda b, p: Pretender(answer), Ticking())
    assert [trial.outcome for trial in trials] == ["good", "good"]
    first = trials[0]
    assert first.golden_difference is not None
    assert first.golden_difference < 1e-5
    assert first.cpu_difference is not None
    assert first.cpu_difference < 1e-5
    # a look per batch: eleven batches of four in 1.1 s or so, by the clock that ticks
    assert first.tiles_per_s == pytest.approx(4 / 0.1, rel=0.2)
    assert first.gain is not None
    proof = GpuProof(tuple(trials))
    proof.raise_if_bad()
    assert "it works" in list(proof.lines())[-1]
    assert "tiles/s" in first.line()
    json.dumps(proof.document(), allow_nan=False)


@pytest.mark.parametrize("fault", ["golden", "stored", "nan", "raises"])
def test_a_runtime_that_answers_wrongly_is_not_to_be_used(bundle: Bundle, fault: str) -> None:
    right = by_cpu(bundle)

    class Wrong(Pretender):
        def infer(self, batches):  # type: ignore[no-untyped-def]
            for tiles in batches:
                (answers,) = super().infer([tiles])
                stored = tiles.dtype != np.float32
                if fault == "raises" and stored:
                    raise RuntimeError("CUDA error: launch failed")
                amount = {"golden": 0.5, "stored": 0.5 * stored, "nan": np.nan if stored else 0.0}.get(
                    fault, 0.0
                )
                yield answers + np.float32(amount)

    trials = tried(bundle, lambda b, p: Wrong(right), Ticking())
    assert {trial.outcome for trial in trials} == {"wrong"}
    assert trials[0].tiles_per_s is None
    proof = GpuProof(tuple(trials))
    assert "do not use it" in proof.verdict
    with pytest.raises(BundleError, match="answers wrongly"):
        proof.raise_if_bad()


def test_a_runtime_that_is_not_there_is_tried_once(bundle: Bundle) -> None:
    asked: list[str] = []

    def missing(_bundle: Bundle, precision: str) -> Runtime:
        asked.append(precision)
        raise UnavailableError("no GPU is visible")

    trials = tried(bundle, missing, Ticking())
    assert asked == ["fp32"]
    assert [trial.outcome for trial in trials] == ["unavailable"]
    with pytest.raises(UnavailableError, match="no GPU is visible") as raised:
        GpuProof(tuple(trials)).raise_if_bad()
    assert raised.value.exit_code == 69


def test_a_network_that_cannot_be_built_is_no_reason_to_leave_out_the_next(bundle: Bundle) -> None:
    answer = by_cpu(bundle)

    def opener(_bundle: Bundle, precision: str) -> Runtime:
        if precision == "fp32":
            raise BundleError("TensorRT cannot build the network")
        return Pretender(answer)

    assert [trial.outcome for trial in tried(bundle, opener, Ticking())] == ["wrong", "good"]


def test_tiles_for_comparing_are_a_full_batch_of_16_bits(bundle: Bundle) -> None:
    tiles = gpu_proof.stored_tiles(bundle, FakeRuntime(batch=7))
    assert tiles.shape == (7, 1, PX, PX)
    assert tiles.dtype == np.uint16
    assert len({tile.tobytes() for tile in tiles}) == 7

"""inspect, evaluate and the command line itself, on a recipe with a real (small) network."""

import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.cli import _run
from edge.testing import write_frame
from tests.sites import VIEWS, make_recipe

Edge = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    make_recipe(folder)
    return folder


@pytest.fixture
def edge(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Edge:
    for name in ("engines", "calibration"):
        (tmp_path / name).symlink_to(recipe / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = _run([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err, captured.err
        return code, captured.out, captured.err

    return run


def known_frames(folder: Path) -> Path:
    """Ten parts of two views, every fifth with a defect, with masks and a manifest."""
    rows = []
    for part in range(10):
        for view in VIEWS:
            defect = part % 5 == 0 and view == "02"
            name = f"P{part}_{view}.png"
            write_frame(folder / name, defect=defect, seed=part * 10 + int(view))
            mask = ""
            if defect:
                mask = f"mask_{name}"
                pixels = np.zeros((48, 64), np.uint8)
                pixels[10:22, 20:32] = 255
                cv2.imwrite(str(folder / mask), pixels)
            rows.append((name, "defect" if defect else "good", mask, view, f"P{part}", "", "test"))
    with (folder / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "mask", "view", "part", "defect", "split"), *rows])
    return folder / "manifest.csv"


def test_inspect_gives_a_verdict_a_line_and_exit_1_for_a_bad_frame(edge: Edge, tmp_path: Path) -> None:
    write_frame(tmp_path / "in" / "P1_01.png")
    write_frame(tmp_path / "in" / "P1_02.png", defect=True, seed=1)
    code, out, _ = edge("inspect", "in", "--recipe", "blur", "--template", "{part}_{view}", "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == 1
    assert (first["resultEvaluation"], second["resultEvaluation"]) == ("OK", "NotOK")
    assert second["partId"] == "P1"
    (tmp_path / "in" / "P1_02.png").unlink()
    assert edge("inspect", "in", "--recipe", "blur", "--template", "{part}_{view}")[0] == 0


def test_inspect_sorts_frames_and_leaves_pictures(edge: Edge, tmp_path: Path) -> None:
    write_frame(tmp_path / "in" / "a_01.png")
    write_frame(tmp_path / "in" / "sub" / "b_01.png", defect=True)
    (tmp_path / "in" / "c_01.png").write_bytes(b"no picture")
    code, out, err = edge("inspect", "in", "--recipe", "blur", "--template", "{part}_{view}", "--out", "out")
    assert code == 1
    made = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {"io/a_01.png", "nio/sub/b_01.png", "undecided/c_01.png"} <= made
    assert {"overlay/sub/b_01.png.jpg", "heatmap/sub/b_01.png.png"} <= made
    assert "c_01.png" in err
    assert "NotDecidable" in out


def test_a_frame_without_a_view_is_not_decidable_for_a_recipe_with_views(edge: Edge, tmp_path: Path) -> None:
    write_frame(tmp_path / "a.png")
    code, out, _ = edge("inspect", "a.png", "--recipe", "blur", "--json")
    assert code == 1
    assert json.loads(out)["reasons"] == ["view_not_calibrated"]


def test_evaluate_gives_the_contracts_document(edge: Edge, tmp_path: Path) -> None:
    manifest = known_frames(tmp_path)
    code, out, _ = edge(
        "evaluate", "--recipe", "blur", "--manifest", manifest, "--json", "--report", "r.html"
    )
    document = json.loads(out)
    assert code == 0
    assert document["frames"] == 20
    assert document["image"]["auroc"] == 1.0
    assert document["image"]["threshold_source"] == "calibration"
    assert document["confusion"] == [[18, 0], [0, 2]]
    assert document["rates"] == {"false_reject": 0.0, "escape": 0.0, "not_decidable": 0.0}
    assert document["pixel"]["auroc"] > 0.7  # a blur gives the inside of the patch back
    assert document["parts"]["confusion"] == [[8, 0], [0, 2]]
    assert set(document["per_view"]) == set(VIEWS)
    assert document["per_view"]["02"]["defects"] == 2
    report = (tmp_path / "r.html").read_text()
    assert "ROC" in report
    assert "P0_02.png" in report


def test_a_report_on_good_frames_only_leaves_out_what_cannot_be_computed(edge: Edge, tmp_path: Path) -> None:
    manifest = known_frames(tmp_path)
    lines = [line for line in manifest.read_text().splitlines() if ".png,defect," not in line]
    manifest.write_text("\n".join(lines) + "\n")
    code, out, _ = edge(
        "evaluate", "--recipe", "blur", "--manifest", manifest, "--json", "--report", "r.html"
    )
    document = json.loads(out)
    assert code == 0
    assert "auroc" not in document["image"]
    assert "pixel" not in document
    assert "evaluated by edge" in (tmp_path / "r.html").read_text()


def test_an_unreadable_frame_counts_as_not_decidable(edge: Edge, tmp_path: Path) -> None:
    manifest = known_frames(tmp_path)
    (tmp_path / "P0_02.png").write_bytes(b"broken")
    code, out, err = edge("evaluate", "--recipe", "blur", "--manifest", manifest, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["rates"]["not_decidable"] == pytest.approx(1 / 20)
    assert document["confusion"] == [[18, 0], [0, 2]]
    assert "P0_02.png" in err


def test_a_mask_of_another_size_is_named(edge: Edge, tmp_path: Path) -> None:
    manifest = known_frames(tmp_path)
    cv2.imwrite(str(tmp_path / "mask_P0_02.png"), np.zeros((5, 5), np.uint8))
    code, _, err = edge("evaluate", "--recipe", "blur", "--manifest", manifest)
    assert code == 65
    assert "mask_P0_02.png: is 5×5, its frame 64×48" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("inspect", "nowhere.png", "--recipe", "blur"), 66, "nowhere.png: no such file"),
        (("inspect", ".", "--recipe", "blurr"), 78, "known: blur"),
        (("inspect", ".", "--recipe", "blur", "--template", "{prat}"), 64, "unknown field {prat}"),
        (("inspect", ".", "--recipe", "blur", "--value-range", "5"), 64, "not LOW:HIGH"),
        (("evaluate", "--recipe", "blur", "--manifest", "none.csv"), 66, "none.csv"),
        (("frobnicate",), 64, "No such command"),
        (("inspect", "--recipe"), 64, ""),
        (("run", "--config", "none.toml"), 78, "none.toml: no such configuration file"),
        (("check", "--config", "none.toml"), 78, "EDGE_CONFIG"),
    ],
)
def test_mistakes_are_answered_with_a_line_and_a_code(
    edge: Edge, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    write_frame(tmp_path / "a.png")
    got, _, err = edge(*arguments)
    assert got == code
    assert said in err


def test_a_typo_in_config_toml_is_named_with_its_line(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[station]\nnmae = "x"\n')
    code, _, err = edge("check")
    assert code == 78
    assert "config.toml:2: unknown key 'station.nmae'" in err
    assert "did you mean 'name'?" in err


def test_version_and_help(edge: Edge) -> None:
    assert edge("--version")[:2] == (0, "edge 0.1.0\n")
    code, out, _ = edge("--help")
    assert code == 0
    for command in ("demo", "learn", "run", "inspect", "evaluate", "check", "status", "simulate"):
        assert command in out


def test_help_names_arguments_as_the_readme_does(edge: Edge) -> None:
    assert "IMAGES" in edge("learn", "--help")[1]
    assert "{images}" not in edge("calibrate", "--help")[1]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A config.toml whose source uses the recipe, names by template, and has 8 bits in whatever file."""
    file = tmp_path / "config.toml"
    file.write_text(
        '[[source]]\nname = "s"\ndirectory = "incoming"\nrecipe = "blur"\n'
        'template = "{batch}/{part}_{view}"\nvalue_range = [0, 255]\n[recipe.blur]\nviews = ["01", "02"]\n'
    )
    (tmp_path / "incoming").mkdir()
    return file


def as_16_bits(file: Path) -> Path:
    """The same grey levels 0..255, in a file that declares 16 bits."""
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    cv2.imwrite(str(file), pixels.astype(np.uint16))
    return file


def test_inspect_reads_names_and_grey_values_as_the_source_does(edge: Edge, site: Path) -> None:
    as_16_bits(write_frame(site.parent / "incoming" / "B7" / "P1_01.png"))
    for place in ("incoming", "incoming/B7", "incoming/B7/P1_01.png"):
        code, out, err = edge("inspect", place, "--recipe", "blur", "--json")
        verdict = json.loads(out)
        assert (code, verdict["batchId"], verdict["partId"], verdict["view"]) == (0, "B7", "P1", "01"), err
    out = edge("inspect", "incoming", "--recipe", "blur", "--json", "--value-range", "0:65535")[1]
    assert "brightness_outside_calibration" in json.loads(out)["reasons"]
    pattern = r".*(?P<part>P1)_(?P<view>\d+).png"
    verdict = json.loads(edge("inspect", "incoming", "--recipe", "blur", "--json", "--pattern", pattern)[1])
    assert (verdict["batchId"], verdict["partId"], verdict["resultEvaluation"]) == (None, "P1", "OK")
    assert edge("inspect", ".", "--recipe", "blur", "--pattern", ".*", "--template", "{part}")[0] == 64


def test_evaluate_reads_grey_values_as_the_source_does(edge: Edge, site: Path) -> None:
    manifest = known_frames(site.parent)
    for file in site.parent.glob("P*.png"):
        as_16_bits(file)
    arguments = ("evaluate", "--recipe", "blur", "--manifest", manifest, "--json", "--report", "r.html")
    assert json.loads(edge(*arguments)[1])["confusion"] == [[18, 0], [0, 2]]
    dark = json.loads(edge(*arguments, "--value-range", "0:65535")[1])
    assert dark["rates"]["not_decidable"] == 1.0


def test_sources_that_differ_are_not_guessed_between(edge: Edge, site: Path) -> None:
    other = '[[source]]\nname = "t"\ndirectory = "t"\nrecipe = "blur"\ntemplate = "{part}"\n'
    site.write_text(other + site.read_text())
    write_frame(site.parent / "incoming" / "a.png")
    code, _, err = edge("inspect", "incoming", "--recipe", "blur")
    assert code == 64
    assert "--template or --pattern" in err


def test_a_file_is_named_once_when_it_cannot_be_read(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    err = edge("inspect", "bad.png", "--recipe", "blur")[2]
    assert err.count("bad.png") == 1


def test_pictures_that_cannot_be_written_are_not_passed_over(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_frame(tmp_path / "a_01.png", defect=True)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = edge(
        "inspect", "a_01.png", "--recipe", "blur", "--template", "{part}_{view}", "--out", "o"
    )
    assert code == 73
    assert "No space left on device" in err


def test_pictures_of_a_name_that_is_not_utf8_are_written(edge: Edge, tmp_path: Path) -> None:
    write_frame(tmp_path / "a.png", defect=True)
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(folder) + b"/P\xe4_01.png"))
    code, _, err = edge("inspect", "in", "--recipe", "blur", "--template", "{part}_{view}", "--out", "o")
    assert (code, err) == (1, "")
    assert [os.fsencode(file.name) for file in (tmp_path / "o" / "overlay").iterdir()]


@pytest.mark.parametrize("command", [("check",), ("inspect", "incoming", "--recipe", "blur"), ("run",)])
def test_a_state_folder_that_cannot_be_written_is_73(edge: Edge, site: Path, command: tuple[str]) -> None:
    write_frame(site.parent / "incoming" / "B1" / "P1_01.png")
    (site.parent / "var").write_text("a file")
    code, _, err = edge(*command)
    assert code == 73
    assert "paths.state" in err


def test_check_wants_every_file_that_mqtt_names(edge: Edge, site: Path) -> None:
    assert edge("check")[0] == 0
    good = site.read_text()
    site.write_text(good + '[mqtt]\npassword_file = "secret"\n')
    code, _, err = edge("check")
    assert code == 78
    assert f"mqtt.password_file = '{site.parent / 'secret'}' cannot be read" in err
    (site.parent / "secret").write_text("x")
    site.write_text(good + '[mqtt]\npassword_file = "secret"\ntls = { ca_file = "ca.pem" }\n')
    assert "mqtt.tls.ca_file" in edge("check")[2]


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_site_without_a_source_is_refused(edge: Edge, tmp_path: Path, command: str) -> None:
    (tmp_path / "config.toml").write_text("")
    code, _, err = edge(command)
    assert code == 78
    assert "no [[source]]" in err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RuntimeError("two\nlines"), 70, "edge: internal error: RuntimeError: two lines (edge/cli.py:"),
        (FileNotFoundError(2, "No such file", "x.bin"), 66, "edge: cannot find x.bin: No such file"),
        (PermissionError(13, "Permission denied", "/x/y"), 73, "edge: cannot write /x/y: Permission denied"),
        (OSError(28, "No space left on device"), 73, "edge: cannot write to the disk: No space left"),
        (OSError(98, "Address already in use"), 69, "edge: cannot go on: Address already in use"),
        (BrokenPipeError(32, "Broken pipe"), 73, ""),
    ],
)
def test_no_error_ends_in_a_traceback(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, says: str
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("edge.status.run_status", fail)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    got, _, err = edge("status")
    assert got == code
    assert says in err
    assert err if says else not err
    assert len(err.splitlines()) == (2 if says else 0)


def test_a_reader_that_has_enough_does_not_change_the_answer_of_a_finished_command(tmp_path: Path) -> None:
    whole = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    script = f"{shlex.quote(sys.executable)} -m edge --version | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=whole, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")

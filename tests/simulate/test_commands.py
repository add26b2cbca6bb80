"""`edge simulate`: the command without a name, its help, and synthetic defects as they are typed."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

from edge.dataset import read_manifest
from edge.decode import Limits, decode
from edge.errors import CannotWriteError, DataError, MissingInputError, UsageError
from edge.simulate.commands import simulate_app
from edge.simulate.formats import Encoding, encode
from edge.types import Identity
from tests.simulate.test_anomalies import surface


def run(*arguments: object) -> str:
    """Run the command; errors pass through as they do to edge's own main."""
    result = CliRunner().invoke(simulate_app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def frames(folder: Path, count: int = 3, suffix: str = ".png", bits: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        grey = np.rint(surface(number, (64, 80)) * (2**bits - 1))
        pixels = grey.astype(np.uint8 if bits == 8 else np.uint16)
        if suffix == ".tif":
            tifffile.imwrite(folder / f"f{number}.tif", pixels)
        else:
            cv2.imwrite(str(folder / f"f{number}{suffix}"), pixels)
    return folder


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open() as stream:
        return list(csv.DictReader(stream))


def read(file: Path) -> NDArray[np.generic]:
    return decode(file.read_bytes(), file.name, Limits(10**6, 1))[0].pixels


def pairs(out: Path) -> list[tuple[Path, Path, Path]]:
    """Original, defective copy, mask."""
    table = rows(out / "manifest.csv")
    return [
        (out / good["path"], out / bad["path"], out / bad["mask"])
        for good, bad in zip(table[::2], table[1::2], strict=True)
    ]


# --- the group ----------------------------------------------------------------------------------------------


def test_a_folder_alone_still_means_the_scanner(tmp_path: Path) -> None:
    short = json.loads(run(tmp_path / "a", "--parts", 1, "--burst", "--json"))
    named = json.loads(run("scan", tmp_path / "b", "--parts", 1, "--burst", "--json"))
    first = json.loads(run("--parts", 1, "--burst", "--json", tmp_path / "c"))
    assert short["frames"] == named["frames"] == first["frames"] == 6


def test_help_lists_all_three() -> None:
    text = run("--help")
    assert all(name in text for name in ("scan", "render", "defects"))


def test_no_heavy_import_for_help() -> None:
    code = (
        "import sys, edge.simulate.commands;"
        "heavy = {'cv2', 'numpy', 'mitsuba', 'trimesh'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- defects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".tif", 8), (".tif", 16)])
def test_copies_keep_format_and_depth_and_differ_in_the_mask_only(
    tmp_path: Path, suffix: str, bits: int
) -> None:
    summary = json.loads(
        run("defects", frames(tmp_path / "in", 3, suffix, bits), "--out", tmp_path / "out", "--json")
    )
    assert (summary["good"], summary["defect"]) == (3, 3)
    for original, copy, mask in pairs(tmp_path / "out"):
        assert copy.suffix == suffix
        before, after = read(original), read(copy)
        assert after.dtype == before.dtype == (np.uint8 if bits == 8 else np.uint16)
        assert np.array_equal(before != after, read(mask) > 127)
        assert (read(mask) > 127).any()


def test_the_manifest_can_be_read_and_keeps_part_view_and_split(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in")
    (folder / "manifest.csv").write_text(
        "path,label,mask,view,part,defect,split\n"
        "f0.png,good,,01,P1,,test\nf1.png,good,,02,P1,,\nf2.png,defect,,01,P2,crack,\n"
    )
    run("defects", folder, "--out", tmp_path / "out", "--kinds", "pit")
    samples = read_manifest(tmp_path / "out/manifest.csv")
    assert [(s.label, s.view, s.part, s.split, s.defect) for s in samples] == [
        ("good", "01", "P1", "test", ""),
        ("defect", "01", "P1", "test", "pit"),
        ("good", "02", "P1", "", ""),
        ("defect", "02", "P1", "", "pit"),
    ]


def test_frames_without_a_part_are_a_part_of_their_own_with_their_copy(tmp_path: Path) -> None:
    run("defects", frames(tmp_path / "in"), "--out", tmp_path / "out")
    assert [row["part"] for row in rows(tmp_path / "out/manifest.csv")] == [
        "f0",
        "f0",
        "f1",
        "f1",
        "f2",
        "f2",
    ]


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in")
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        run("defects", folder, "--out", tmp_path / name, "--seed", seed, "--per-frame", 2)
    a, b, c = (
        {file.name: file.read_bytes() for file in (tmp_path / name / "frames").iterdir()} for name in "abc"
    )
    assert a == b
    assert a != c


def test_a_share_of_the_frames_and_several_defects_in_each(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", 4)
    summary = json.loads(
        run("defects", folder, "--out", tmp_path / "o", "--share", 0.5, "--per-frame", 3, "--json")
    )
    assert (summary["good"], summary["defect"]) == (4, 2)
    assert sum(summary["by_kind"].values()) == 6
    assert {row["defect"].count("+") for row in rows(tmp_path / "o/manifest.csv") if row["defect"]} == {2}


def test_defects_lie_on_the_foreground(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in")
    mask = np.zeros((64, 80), np.uint8)
    mask[10:40, 20:60] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    table = tmp_path / "foreground.csv"
    table.write_text("path,mask\n" + "".join(f"in/f{n}.png,m.png\n" for n in range(3)))
    run("defects", folder, "--out", tmp_path / "out", "--foreground", table)
    for _, _, found in pairs(tmp_path / "out"):
        assert not (read(found)[mask == 0] > 0).any()
    table.write_text("path,mask\nin/f0.png,m.png\n")
    with pytest.raises(DataError, match=r"f1\.png: no foreground mask"):
        run("defects", folder, "--out", tmp_path / "again", "--foreground", table)


def test_dicom_becomes_16_bit_png_with_the_values_it_means(tmp_path: Path) -> None:
    grey = np.rint(surface(0, (64, 80)) * 65535).astype(np.uint16)
    dicom = Encoding("dicom", 12, photometric="MONOCHROME1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.dcm").write_bytes(encode(grey, dicom, Identity("P1", "01", "B1")))
    run("defects", tmp_path / "in", "--out", tmp_path / "out")
    [(_, copy, mask)] = pairs(tmp_path / "out")
    after, outside = read(copy), read(mask) == 0
    assert after.dtype == np.uint16
    assert np.abs(after.astype(int) - grey)[outside].max() <= 17  # one step of 12 bits


def test_colour_stays_colour(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    colour = np.stack([surface(n, (64, 80)) * 255 for n in range(3)], axis=2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "in/c.png"), colour)
    run("defects", tmp_path / "in", "--out", tmp_path / "out")
    [(original, copy, mask)] = pairs(tmp_path / "out")
    assert np.array_equal((read(original) != read(copy)).any(axis=2), read(mask) > 127)


def test_dark_frames_with_a_value_range_get_defects_of_that_range(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/d.png"), np.rint(surface(0, (64, 80)) * 655).astype(np.uint16))
    run("defects", tmp_path / "in", "--out", tmp_path / "out", "--value-range", "0:655", "--kinds", "pit")
    [(original, copy, mask)] = pairs(tmp_path / "out")
    change = np.abs(read(copy).astype(int) - read(original).astype(int))
    assert np.array_equal(change > 0, read(mask) > 127)
    assert change.max() > 65


def test_frames_that_cannot_be_used_are_named_and_the_others_done(tmp_path: Path) -> None:
    folder = frames(tmp_path / "in", 2)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    cv2.imwrite(str(folder / "black.png"), np.zeros((64, 80), np.uint8))
    summary = json.loads(run("defects", folder, "--out", tmp_path / "o", "--kinds", "pit", "--json"))
    assert (summary["good"], summary["defect"]) == (3, 2)
    assert sorted(line.split(":")[0] for line in summary["skipped"]) == ["black.png", "broken.png"]
    read_manifest(tmp_path / "o/manifest.csv")


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    folder, out = frames(tmp_path / "in"), tmp_path / "out"
    for wrong in (("--kinds", "dent"), ("--share", 0), ("--share", 1.5), ("--kinds", "")):
        with pytest.raises(UsageError):
            run("defects", folder, "--out", out, *wrong)
    with pytest.raises(UsageError, match="is inside"):
        run("defects", folder, "--out", folder / "out")
    with pytest.raises(MissingInputError):
        run("defects", tmp_path / "nowhere", "--out", out)
    assert not out.exists()
    run("defects", folder, "--out", out)
    with pytest.raises(CannotWriteError, match="exists"):
        run("defects", folder, "--out", out)


def test_the_help_names_the_extra_that_rendering_needs() -> None:
    said = CliRunner().invoke(simulate_app, ["render", "--help"], env={"COLUMNS": "160"}).stdout
    assert '"edge-inspect[render]"' in said

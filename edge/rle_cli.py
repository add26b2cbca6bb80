"""`edge rle`: the run lengths of steel-strip data sets, as masks and a manifest, and back."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge.errors import CannotWriteError, DataError, EdgeError, MissingInputError, UsageError
from edge.options import parse_size

if TYPE_CHECKING:  # the command line starts without numpy and OpenCV
    from edge.rle import RleRow
    from edge.types import Mask

MOST_SHOWN = 20  # bad rows; the count says how many there are
MANIFEST_COLUMNS = ("path", "label", "mask", "view", "part", "defect", "split")

Table = Annotated[Path, typer.Argument(help="CSV: ImageId_ClassId,EncodedPixels", metavar="CSV")]
Size = Annotated[str, typer.Option("--size", help="Of the frames, WIDTHxHEIGHT, such as 1600x256.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]

app = typer.Typer(no_args_is_help=True, help="Masks as run lengths: decode, encode, check.")


@app.command()
def decode(
    table: Table,
    size: Size,
    out: Annotated[Path, typer.Option(help="Folder for the masks: CLASS/IMAGE.png")],
    manifest: Annotated[Path | None, typer.Option(help="Also write a manifest CSV of the frames.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Where the frames are, for the manifest \\[default: beside the CSV]")
    ] = None,
    json_: Json = False,
) -> None:
    """A PNG mask for each class of each image, 255 is defect; images without a defect get none."""
    width, height = _size(size)
    found: dict[str, dict[str, Path]] = {}  # image → class → mask; every image, in order
    for row, mask in _decoded(table, height, width):
        masks = found.setdefault(row.image, {})
        if mask.any():
            masks[row.class_name] = out / row.class_name / f"{row.image}.png"
            _write_mask(masks[row.class_name], mask)
    count = sum(len(masks) for masks in found.values())
    if manifest is not None:
        _write_manifest(manifest, images or table.parent, found)
        _warn_of_missing(images or table.parent, found)
    document = {"frames": len(found), "masks": count, "out": str(out)}
    _show(document, json_, f"{count} masks of {len(found)} frames below {out}")


@app.command()
def encode(
    source: Annotated[
        Path,
        typer.Argument(help="A manifest CSV, or a folder as `decode` writes it.", metavar="MANIFEST_OR_DIR"),
    ],
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    classes: Annotated[
        str | None, typer.Option(help="Classes, a row each for every image \\[default: those found]")
    ] = None,
    json_: Json = False,
) -> None:
    """Run lengths of masks, a row for each image and class; without text where the class is not."""
    from edge.rle import RleRow, write_rle
    from edge.rle import encode as run_lengths

    masks = _masks_of(source)
    names = classes.split(",") if classes else sorted({name for by in masks.values() for name in by})
    if unknown := {name for by in masks.values() for name in by} - set(names):
        raise UsageError(
            f"--classes {classes}: {source} also has {', '.join(sorted(unknown))}",
            hint=f"--classes {','.join(sorted({*names, *unknown}))}, or leave it out",
        )

    def rows() -> Iterator[RleRow]:
        for image, by_class in masks.items():
            for name in names:
                text = ""
                if name in by_class:
                    text = run_lengths(_read_mask(by_class[name], must_be_mask=source.is_dir()))
                yield RleRow(image, name, text)

    count = write_rle(out, rows(), joint=not any("_" in name for name in names))
    document = {"frames": len(masks), "rows": count, "classes": names, "out": str(out)}
    _show(
        document, json_, f"{count} rows of {len(masks)} frames, classes {', '.join(names) or 'none'}: {out}"
    )


@app.command()
def check(table: Table, size: Size, json_: Json = False) -> None:
    """Decode and encode every row: are all texts sound, and do they come back exactly? Exit 65 if not.

    Classes that overlap in an image are counted, and are no error.
    """
    width, height = _size(size)
    report = check_table(table, height, width)
    if json_:
        print(json.dumps(report))
    else:
        _show_report(report)
    if report["bad"]:
        raise DataError(
            f"{table}: {len(report['bad'])} of {report['rows']} rows are bad",
            hint="the lines above say why; the frames may have another size than --size",
            reason="bad_run_lengths",
        )


def check_table(table: Path, height: int, width: int) -> dict[str, Any]:
    """{rows, exact, frames, size_px, overlap: {frames, area_px}, classes: {name: {…}}, bad: [{line, …}]}."""
    from edge.rle import encode as run_lengths

    areas: dict[str, list[int]] = defaultdict(list)
    texts: dict[str, list[str]] = defaultdict(list)  # image → those of its classes that are there
    bad, rows = [], 0
    for row, outcome in _outcomes(table, height, width):
        rows += 1
        of_image = texts[row.image]
        areas[row.class_name]  # a class without any defect is one as well
        if isinstance(outcome, EdgeError):
            error = outcome.message
        elif run_lengths(outcome) == " ".join(row.text.split()):
            if row.text:
                areas[row.class_name].append(int(outcome.sum()))
                of_image.append(row.text)
            continue
        else:
            error = "comes back as another text: runs that touch"
        bad.append({"line": row.line, "image": row.image, "class": row.class_name, "error": error})
    return {
        "rows": rows,
        "exact": rows - len(bad),
        "frames": len(texts),
        "size_px": [width, height],
        "overlap": _overlap(texts.values(), height, width),
        "classes": {name: _area_figures(areas[name], height * width) for name in sorted(areas)},
        "bad": bad,
    }


def _overlap(texts: Iterable[list[str]], height: int, width: int) -> dict[str, int]:
    """How many images have pixels of two classes or more, and how many such pixels there are."""
    import numpy as np

    from edge.rle import decode as mask_of

    areas = []
    for of_image in texts:
        if len(of_image) > 1:
            count = np.zeros((height, width), np.int32)
            for text in of_image:
                count += mask_of(text, height, width)
            areas.append(int((count > 1).sum()))
    return {"frames": sum(area > 0 for area in areas), "area_px": sum(areas)}


def _area_figures(areas: list[int], pixels: int) -> dict[str, Any]:
    """Of the frames that have the class."""
    ordered = sorted(areas)
    figures: dict[str, Any] = {"frames": len(ordered), "total_px": sum(ordered)}
    if ordered:
        mean = sum(ordered) / len(ordered)
        figures |= {
            "least_px": ordered[0],
            "median_px": statistics.median(ordered),
            "mean_px": mean,
            "most_px": ordered[-1],
            "mean_ratio": mean / pixels,
        }
    return figures


def _show_report(report: Mapping[str, Any]) -> None:
    for entry in report["bad"][:MOST_SHOWN]:
        print(f"line {entry['line']}: {entry['image']} class {entry['class']}: {entry['error']}")
    if len(report["bad"]) > MOST_SHOWN:
        print(f"… and {len(report['bad']) - MOST_SHOWN} more")
    width, height = report["size_px"]
    frames = f"{report['frames']} frames of {width}x{height} pixels"
    print(f"{report['exact']} of {report['rows']} rows come back exactly; {frames}")
    if report["overlap"]["frames"]:
        print("classes overlap in {frames} frames, on {area_px} pixels".format(**report["overlap"]))
    print(f"{'class':<12} {'frames':>7} {'least px':>9} {'median':>9} {'mean':>9} {'most':>9} {'share':>7}")
    for name, c in report["classes"].items():
        if c["frames"]:
            rest = f"{c['least_px']:>9} {c['median_px']:>9.0f} {c['mean_px']:>9.0f} {c['most_px']:>9}"
            print(f"{name:<12} {c['frames']:>7} {rest} {c['mean_ratio']:>7.2%}")
        else:
            print(f"{name:<12} {c['frames']:>7}")


def _outcomes(table: Path, height: int, width: int) -> Iterator[tuple[RleRow, Mask | EdgeError]]:
    """Every row with its mask, or what is wrong with it.

    Raises:
        DataError: there is no row.
    """
    from edge.rle import decode as mask_of
    from edge.rle import read_rle

    seen: set[tuple[str, str]] = set()
    for row in read_rle(table):
        try:
            _check_names(row, seen)
            mask = mask_of(row.text, height, width)
        except DataError as error:
            yield row, error
        else:
            yield row, mask
    if not seen:
        raise DataError(f"{table}: no rows", hint="a row for each image and class", reason="no_frames")


def _decoded(table: Path, height: int, width: int) -> Iterator[tuple[RleRow, Mask]]:
    """Every row with its mask; the first bad one ends it, named by line, image and class."""
    for row, outcome in _outcomes(table, height, width):
        if isinstance(outcome, EdgeError):
            where = f"{table}:{row.line}: {row.image} class {row.class_name}"
            raise DataError(f"{where}: {outcome.message}", hint=outcome.hint, reason=outcome.reason)
        yield row, outcome


def _check_names(row: RleRow, seen: set[tuple[str, str]]) -> None:
    """Image and class become a file's name and its folder's; adds them to those seen.

    Raises:
        DataError: they would lead out of the folder, or are there already.
    """
    twice = (row.image, row.class_name) in seen
    seen.add((row.image, row.class_name))
    for name in (row.image, row.class_name):
        if name != Path(name).name or name.startswith(".") or "\\" in name or "\0" in name:
            raise DataError(f"{name!r} cannot be a file's name", hint="plain names only")
    if twice:
        raise DataError("is there twice", hint="one row for each class of an image")


def _write_mask(file: Path, mask: Mask) -> None:
    import cv2
    import numpy as np

    from edge.artifacts import write_atomic

    done, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
    if not done:
        raise CannotWriteError(f"{file}: OpenCV cannot encode it")
    write_atomic(file, data.tobytes())


def _read_mask(file: Path, *, must_be_mask: bool) -> Mask:
    """Where a picture is above 127; `must_be_mask` refuses one that is no mask but, say, the frame itself."""
    import cv2
    import numpy as np

    try:
        values = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    except OSError as error:
        raise MissingInputError(f"{file}: cannot be read: {error}", hint="check the path") from None
    except cv2.error:  # an empty file
        values = None
    if values is None:
        raise DataError(f"{file}: is no picture", hint="masks are PNG files, above 127 is defect")
    if must_be_mask:
        levels = np.unique(values).tolist()
        if len(levels) > 2 or (len(levels) == 2 and not levels[0] <= 127 < levels[1]):
            raise DataError(
                f"{file}: is no mask: {len(levels)} grey levels, {levels[0]} to {levels[-1]}",
                hint="masks have 0 and 255 only; give the folder of the masks, not of the frames",
            )
    return np.asarray(values > 127)


def _masks_of(source: Path) -> dict[str, dict[str, Path]]:
    """Image → class → mask, in the manifest's order, or sorted in a folder."""
    if source.is_dir():
        found: dict[str, dict[str, Path]] = defaultdict(dict)
        for file in sorted(source.glob("*/*.png")):
            found[file.stem][file.parent.name] = file
        if not found:
            raise MissingInputError(
                f"{source}: no masks", hint="CLASS/IMAGE.png, as `edge rle decode` writes"
            )
        return dict(sorted(found.items()))
    return _masks_in_manifest(source)


def _masks_in_manifest(source: Path) -> dict[str, dict[str, Path]]:
    """As `_masks_of`; the frames themselves need not be there."""
    from edge.dataset import ANY_DEFECT, LABELS

    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            columns = [cell.strip() for cell in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except FileNotFoundError:
        raise MissingInputError(f"{source}: no such manifest or folder", hint="check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source}: cannot be read: {error}", hint="a CSV in UTF-8 is needed") from None
    if "path" not in columns or not set(columns) <= set(MANIFEST_COLUMNS) or not lines:
        raise DataError(
            f"{source}: no manifest, or one without rows", hint=f"the header is {','.join(MANIFEST_COLUMNS)}"
        )
    masks: dict[str, dict[str, Path]] = {}
    paths: dict[str, str] = {}
    for line, cells in lines:
        if len(cells) != len(columns):
            raise DataError(
                f"{source}:{line}: {len(cells)} values for {len(columns)} columns", hint=",".join(columns)
            )
        row = {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
        name, label = Path(row["path"]).name, row.get("label", "")
        if not name or label not in LABELS:
            raise DataError(
                f"{source}:{line}: path {row['path']!r}, label {label!r}",
                hint="a frame's path; good, defect, review or empty",
            )
        if paths.setdefault(name, row["path"]) != row["path"]:
            raise DataError(
                f"{source}:{line}: two frames are called {name}", hint="run lengths know names only"
            )
        of_image = masks.setdefault(name, {})
        if label == "defect" and row.get("mask"):
            kind = row.get("defect") or ANY_DEFECT
            if kind in of_image:
                raise DataError(f"{source}:{line}: class {kind} of {name} is there twice", hint="delete one")
            of_image[kind] = source.parent / row["mask"]
    return masks


def _warn_of_missing(images: Path, names: Iterable[str]) -> None:
    """Say on stderr which frames of a manifest are not there."""
    all_of_them = list(names)
    missing = [name for name in all_of_them if not (images / name).is_file()]
    if missing:
        print(
            f"WARNING {len(missing)} of {len(all_of_them)} frames are not in {images}, such as {missing[0]}\n"
            "  fix: --images FOLDER, where the frames are",
            file=sys.stderr,
        )


def _write_manifest(file: Path, images: Path, found: Mapping[str, Mapping[str, Path]]) -> None:
    """One row for each class of each image, one for an image without; paths relative to the manifest."""
    from edge.artifacts import write_atomic

    base = file.resolve().parent

    def relative(path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), base)).as_posix()

    lines = [list(MANIFEST_COLUMNS)]
    for image, masks in found.items():
        path = relative(images / image)
        part = Path(image).stem
        lines += [[path, "defect", relative(mask), "", part, name, ""] for name, mask in masks.items()]
        if not masks:
            lines.append([path, "good", "", "", part, "", ""])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_atomic(file, text.getvalue().encode())


def _size(text: str) -> tuple[int, int]:
    size = parse_size(text)
    if size is None or 0 in size:
        raise UsageError(f"--size {text}: no pixels", hint="WIDTHxHEIGHT, such as 1600x256")
    return size


def _show(document: Mapping[str, Any], as_json: bool, text: str) -> None:
    print(json.dumps(document) if as_json else text)

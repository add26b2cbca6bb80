"""Frames with what is known of them, from a manifest or a folder: for learn, calibrate and evaluate."""

from __future__ import annotations

import csv
import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from edge.config import FRAME_PATTERNS
from edge.decode import Limits
from edge.errors import DataError, EdgeError, MissingInputError, UsageError
from edge.intake.naming import Naming, compile_naming, printable
from edge.pipeline import PrepareJob, prepare_file, prepare_picture
from edge.preprocess import PreprocessSpec
from edge.types import Frame, Identity

Label = Literal["good", "defect", "review", ""]

COLUMNS = ("path", "label", "mask", "view", "part", "defect", "split")
NOTE = "note"  # a column for people, which nothing reads
LABELS = ("good", "defect", "review", "")
# A misspelt "test" would let test rows into learning, so only known words pass
SPLITS = ("train", "validation", "val", "calibration", "test", "")
MANIFEST_NAME = "manifest.csv"
STORES = (".h5", ".hdf5")  # of `edge pack`
ANY_DEFECT = "defect"  # the class of what has no name


@dataclass(frozen=True, slots=True)
class Sample:
    """One file and its truth; None or empty where unknown."""

    file: Path
    path: str  # as the manifest or the folder names it, for people
    label: Label
    mask: Path | None = None
    view: str | None = None
    part: str | None = None
    defect: str = ""
    split: str = ""
    masks: Mapping[str, Path] = field(default_factory=dict)  # of a defect frame: class → mask


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples in their order, and the files whose names gave no identity."""

    source: Path
    samples: tuple[Sample, ...]
    unmatched: tuple[str, ...] = ()

    def good(self) -> tuple[Sample, ...]:
        """What may be learned from and calibrated with: good, and not set aside for testing."""
        return tuple(s for s in self.samples if s.label == "good" and s.split != "test")

    def good_regions(self) -> tuple[Sample, ...]:
        """As `good`, and defect frames whose masks say where they are good."""
        return tuple(
            s
            for s in self.samples
            if s.split != "test" and (s.label == "good" or (s.label == "defect" and s.mask))
        )

    def labelled(self) -> tuple[Sample, ...]:
        """What a supervised network may learn from: good and defect, and not set aside for testing."""
        return tuple(s for s in self.samples if s.label in ("good", "defect") and s.split != "test")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that gave no frame, and why."""

    path: str
    reason: str
    message: str

    def __str__(self) -> str:
        return about(self.path, self.message)


def none_readable(unreadable: Sequence[Unreadable]) -> DataError:
    """The error of a set of which nothing is left; says of the first file what is wrong."""
    return DataError(
        f"none of {len(unreadable)} frames can be read: {unreadable[0]}", hint="look at the files"
    )


def samples(
    images: Path,
    *,
    manifest: Path | None = None,
    template: str | None = None,
    pattern: str | None = None,
    masks: Path | None = None,
    include: Sequence[str] = FRAME_PATTERNS,
) -> Dataset:
    """What IMAGES stands for: a manifest (.csv, or a folder that holds manifest.csv), or good frames.

    `masks` is a folder of PNGs that are named as the frames below IMAGES: what has one is a defect frame, or,
    for networks that find the foreground, its part.

    A `manifest` given beside a folder is narrowed to the rows below that folder. `template` or `pattern` make
    a folder a plain folder of good frames, even where a manifest.csv lies in it.

    Raises:
        MissingInputError: nothing there. DataError: a bad row, or no frames. UsageError: both kinds at once.
    """
    if template is not None and pattern is not None:
        raise UsageError("--template and --pattern are two ways to say the same", hint="leave one out")
    named = template is not None or pattern is not None
    is_table = images.suffix.lower() == ".csv"
    if named and (manifest is not None or is_table):
        raise UsageError("a manifest names views and parts itself", hint="leave out --template and --pattern")
    if is_table:
        return Dataset(images, tuple(read_manifest(images)))
    if is_store(images):
        if named or manifest is not None or masks is not None:
            raise UsageError(
                "a store has its frames' names and masks in it", hint="give --template and such to edge pack"
            )
        from edge.hdf5 import stored_samples

        return Dataset(images, stored_samples(images))
    if not images.is_dir():
        raise MissingInputError(f"{images}: no such folder or manifest", hint="check the path")
    if masks is not None and (manifest is not None or not masks.is_dir()):
        if masks.is_dir():
            raise UsageError("a manifest names masks itself", hint="leave out --masks")
        raise MissingInputError(f"{masks}: no such folder of masks", hint="check the path")
    if manifest is not None:
        rows = [s for s in read_manifest(manifest) if s.file.is_relative_to(images.resolve())]
        if not rows:
            raise DataError(f"{manifest}: no row lies below {images}", hint="give the folder of its frames")
        return Dataset(manifest, tuple(rows))
    if (images / MANIFEST_NAME).is_file() and not named and masks is None:
        return Dataset(images / MANIFEST_NAME, tuple(read_manifest(images / MANIFEST_NAME)))
    try:
        naming = compile_naming(template, pattern) if named else None
    except ValueError as error:
        raise UsageError(f"--{'template' if template is not None else 'pattern'}: {error}") from None
    dataset = read_folder(images, naming, include)
    return dataset if masks is None else _masked(dataset, images, masks)


def _masked(dataset: Dataset, images: Path, masks: Path) -> Dataset:
    """A folder's frames with the masks of the same names.

    Raises:
        DataError: no frame has one.
    """
    found = []
    for sample in dataset.samples:
        relative = Path(sample.path)
        candidates = (masks / relative.with_suffix(".png"), masks / f"{relative}.png")
        mask = next((file.resolve() for file in candidates if file.is_file()), None)
        if mask is not None:
            sample = replace(sample, label="defect", mask=mask, masks={ANY_DEFECT: mask})
        found.append(sample)
    if not any(sample.mask for sample in found):
        raise DataError(
            f"{masks}: no mask is named as a frame below {images}",
            hint=f"that of {found[0].path} would be {Path(found[0].path).with_suffix('.png')}",
        )
    return Dataset(dataset.source, tuple(found), dataset.unmatched)


def is_store(file: Path) -> bool:
    """Whether a file is one that `edge pack` makes, by its name."""
    return file.suffix.lower() in STORES


def frames_below(folder: Path, include: Sequence[str] = FRAME_PATTERNS) -> Iterator[Path]:
    """Files whose names are those of frames, sorted; nothing hidden, as the daemon's scan."""
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        fits = any(fnmatch.fnmatch(file.name.lower(), wanted.lower()) for wanted in include)
        if fits and not hidden and file.is_file():
            yield file


def read_folder(folder: Path, naming: Naming | None, include: Sequence[str] = FRAME_PATTERNS) -> Dataset:
    """All images below a folder, sorted, all of them good; names give part and view where a rule is given.

    The batch, where a name has one, becomes part of the part: the same part number may return in every batch.

    Raises:
        DataError: no image is there, or the rule matches no name.
    """
    found, unmatched = [], []
    for file in frames_below(folder, include):
        path = file.relative_to(folder).as_posix()
        try:
            identity = naming(path, {}, 0, 1) if naming else Identity()
        except DataError:
            unmatched.append(path)
            continue
        part = "/".join(word for word in (identity.batch, identity.part) if word) or None
        found.append(Sample(file.resolve(), printable(path), "good", view=identity.view, part=part))
    if not found:
        hint = "mend --template or --pattern" if unmatched else f"edge reads {' '.join(include)}"
        raise DataError(
            f"{folder}: no image"
            + (f" whose name matches; {len(unmatched)} do not: {unmatched[0]} …" if unmatched else " in it"),
            hint=hint,
            reason="no_frames",
        )
    return Dataset(folder, tuple(found), tuple(unmatched))


def read_manifest(file: Path) -> list[Sample]:
    """The rows of a manifest CSV with the header `path,label,mask,view,part,defect,split`, in order.

    Only `path` must be there; paths are relative to the CSV, or absolute.

    Raises:
        MissingInputError: the manifest, or a file it names, is not there.
        DataError: the header or a row is bad; named as file:line.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            columns = _header(file, next(reader, []))
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise MissingInputError(f"{file}: no such manifest", hint="check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}", hint="a CSV in UTF-8 is needed") from None
    found: dict[Path, tuple[int, Sample]] = {}
    for line, row in rows:
        sample = _row(f"{file}:{line}", file.resolve().parent, columns, row)
        before = found.get(sample.file)
        if before is not None:
            sample = _merged(
                before[1], sample, f"{file}:{line}: {sample.path} is already in line {before[0]}"
            )
        found[sample.file] = (before[0] if before else line, sample)
    if not found:
        raise DataError(f"{file}: no rows", hint="one row a frame is needed", reason="no_frames")
    return [sample for _, sample in found.values()]


def _merged(first: Sample, second: Sample, where: str) -> Sample:
    """A frame in several rows, one for each class of defect in it.

    Raises:
        DataError: it is not that.
    """
    agree = all(getattr(first, name) == getattr(second, name) for name in ("label", "view", "part", "split"))
    if not (agree and first.label == "defect" and first.masks and second.masks):
        raise DataError(
            where,
            hint="delete one; or, for several classes of defect, give each row its defect and mask, and the "
            "same label, view, part and split",
        )
    if twice := set(first.masks) & set(second.masks):
        raise DataError(where, hint=f"class {', '.join(twice)} has two masks: make one of them")
    masks = {**first.masks, **second.masks}
    return replace(first, masks=masks, defect=",".join(masks))


def _header(file: Path, cells: Sequence[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if len(columns) == 1 and ";" in columns[0]:
        raise DataError(f"{file}:1: separated by semicolons", hint="separate the columns by commas")
    if "path" not in columns:
        raise DataError(f"{file}:1: no column 'path'", hint=f"the header is {','.join(COLUMNS)}")
    for column in columns:
        if column not in (*COLUMNS, NOTE):
            near = difflib.get_close_matches(column, COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the header is {','.join(COLUMNS)}"
            raise DataError(f"{file}:1: unknown column {column!r}", hint=hint)
    if len(set(columns)) != len(columns):
        raise DataError(f"{file}:1: a column is there twice", hint=f"the header is {','.join(COLUMNS)}")
    return columns


def _row(where: str, base: Path, columns: Sequence[str], row: Sequence[str]) -> Sample:
    if len(row) != len(columns):
        raise DataError(
            f"{where}: {len(row)} values for {len(columns)} columns",
            hint="quote values that contain a comma, and leave no column out",
        )
    cell = {column: value.strip() for column, value in zip(columns, row, strict=True)}
    label, split = cell.get("label", ""), cell.get("split", "")
    if label not in LABELS:
        raise DataError(f"{where}: label {label!r}", hint="good, defect, review or empty")
    if split not in SPLITS:
        raise DataError(f"{where}: split {split!r}", hint="train, validation, calibration, test or empty")
    mask = _existing(where, base, cell["mask"]) if cell.get("mask") else None
    defect = cell.get("defect", "")
    return Sample(
        file=_existing(where, base, cell["path"]),
        path=cell["path"],
        label=cast(Label, label),
        mask=mask,
        view=cell.get("view") or None,
        part=cell.get("part") or None,
        defect=defect,
        split=split,
        masks={defect or ANY_DEFECT: mask} if mask is not None and label == "defect" else {},
    )


def _existing(where: str, base: Path, name: str) -> Path:
    if not name:
        raise DataError(f"{where}: no path", hint="give the frame's path, or delete the line")
    path = (base / name).resolve()
    if not path.is_file():
        raise MissingInputError(f"{where}: {name}: no such file", hint="paths are relative to the manifest")
    return path


def frames(
    wanted: Iterable[Sample],
    spec: PreprocessSpec,
    limits: Limits,
    value_range: tuple[float, float] | None = None,
    unreadable: list[Unreadable] | None = None,
    assets: Path | None = None,
) -> Iterator[tuple[Sample, Frame]]:
    """Decoded and preprocessed frames, a file at a time, each with its identity: one a page.

    A page of a file with several pages is its view where the sample names none. Files that cannot be read are
    added to `unreadable`, or raised where no list is given. `assets` is the bundle's folder, for masks.
    """
    for sample in wanted:
        job = PrepareJob(
            sample.file, sample.path, None, spec, limits, value_range, assets, sample.view, name_by_page
        )
        try:
            pages = _stored(job) if is_store(sample.file) else prepare_file(job)
        except EdgeError as error:
            if unreadable is None:
                raise
            unreadable.append(Unreadable(sample.path, error.reason, error.message))
            continue
        for frame in pages:
            yield sample, replace(frame, identity=Identity(part=sample.part, view=_view(sample, frame)))


def _stored(job: PrepareJob) -> list[Frame]:
    """A crop of a store, as `prepare_file` gives the pages of a file."""
    from edge.hdf5 import load_crop

    crop = load_crop(job.file, job.path)
    value_range = crop.value_range(job.value_range or job.spec.value_range)
    return [prepare_picture(job, crop.picture(), crop.sha256, value_range)]


def name_by_page(path: str, tags: Mapping[str, str], page: int, pages: int) -> Identity:
    """A page's view where nothing else says it."""
    return Identity(view=None if pages == 1 else f"{page + 1:02d}")


def _view(sample: Sample, frame: Frame) -> str | None:
    if sample.view is not None or frame.image.pages == 1:
        return sample.view
    return f"{frame.image.page + 1:02d}"


def about(path: str, message: str) -> str:
    """`path: message`, where the message may itself begin with the file's name, as those of decoders do."""
    name, colon, rest = message.partition(": ")
    return f"{path}: {rest if colon and Path(name).name == Path(path).name else message}"


def count_by_view(views: Iterable[str]) -> Mapping[str, int]:
    """How many frames each view has, sorted by view."""
    counts: dict[str, int] = {}
    for view in views:
        counts[view] = counts.get(view, 0) + 1
    return dict(sorted(counts.items()))

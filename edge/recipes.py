"""Recipes of a site: found by name, opened, proved, and bound to their calibration."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.config import Recipe, Settings
from edge.errors import BundleError, CannotWriteError, ConfigError, UnavailableError, UsageError
from edge.infer.bundle import MANIFEST, Bundle, load_bundle
from edge.infer.cache import Note, no_note
from edge.infer.compile import GPU_RUNTIMES, open_runtime
from edge.infer.precisions import FILE as PRECISIONS
from edge.infer.precisions import Precisions, load_precisions, tolerant
from edge.infer.runtime import Runtime
from edge.intake.naming import Naming, compile_naming
from edge.judge.calibration import Calibration, load_calibration
from edge.options import check_recipe_name
from edge.pipeline import Inspector
from edge.renewal import calibration_to_load, engine_to_load
from edge.signing import check_signature, sign, trusted_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

COMPILED = "compiled"  # below paths.state


def open_recipe(
    settings: Settings,
    name: str,
    *,
    calibrated: bool = True,
    note: Note = no_note,
    progress: Note = no_note,
) -> Inspector:
    """Load, compile and prove a recipe's engine, and bind its calibration.

    `note` is told what was wrong with compiled engines that were kept, and did not matter; `progress` hears
    from a build that takes minutes. A device that cannot be had is a lost engine: with
    `on_engine_loss = "cpu"` the CPU judges, and the inspector says why.

    Raises:
        ConfigError: no such recipe, it expects views that are not calibrated, or no trusted key can be read.
        BundleError: bundle or calibration is missing, damaged, not signed where it must be, or does not fit
            the other.
        UnavailableError: the device or precision cannot be had here.
        CannotWriteError: the state folder, where compiled engines are kept, cannot be written.
    """
    recipe, bundle, calibration = find_recipe(settings, name), load_engine(settings, name), None
    if calibrated and bundle.manifest.training.get("truth") == "foreground":
        raise ConfigError(
            f"recipe {name} finds foregrounds: it has no thresholds, and judges nothing",
            hint=f"learn a recipe that uses it: edge learn FRAMES --recipe OTHER --mask-recipe {name}",
        )
    if calibrated:
        file = settings.paths.calibration / f"{recipe.calibration}.json"
        calibration = calibration_to_load(file, bundle.digest)
        if (trusted := trusted_keys(settings)) is not None:
            check_signature(file, "edge/calibration/1", calibration.digest, trusted, name)
        check_views(settings, name, calibration)
    check_state(settings)
    precisions = precisions_of(settings, name, bundle, calibration, note)
    bundle = tolerant(bundle, precisions)
    how: dict[str, Any] = {
        "precisions": precisions,
        "threads": settings.runtime.threads,
        "cache": settings.paths.state / COMPILED,
        "note": note,
        "progress": progress,
    }
    wanted = settings.runtime
    try:
        runtime = open_runtime(bundle, device=wanted.device, precision=wanted.precision, **how)
    except (UnavailableError, BundleError) as error:
        if wanted.device not in GPU_RUNTIMES or wanted.on_engine_loss != "cpu":
            raise
        note(f"recipe {name}: {wanted.device} cannot be had, the CPU judges: {error.message}")
        inspector = Inspector(bundle, open_runtime(bundle, device="cpu", **how), calibration)
        inspector.replaced_because = f"{wanted.device} cannot be had: {error.message}"
        return inspector
    return Inspector(bundle, runtime, calibration)


def calibration_of(settings: Settings, name: str, bundle: Bundle) -> Calibration | None:
    """A recipe's calibration, None where there is none yet.

    Raises:
        BundleError: it is damaged, or of another bundle.
    """
    file = settings.paths.calibration / f"{find_recipe(settings, name).calibration}.json"
    return calibration_to_load(file, bundle.digest) if file.exists() else None


def precisions_of(
    settings: Settings, name: str, bundle: Bundle, calibration: Calibration | None, note: Note
) -> Precisions | None:
    """Which precisions beside fp32 may judge; none where that cannot be trusted, which `note` is told."""
    if calibration is None:
        return None
    try:
        found = load_precisions(bundle, calibration.digest)
        if found is not None and (trusted := trusted_keys(settings)) is not None:
            check_signature(bundle.folder / PRECISIONS, "edge/precisions/1", found.digest, trusted, name)
    except BundleError as error:
        note(f"{error.message}, so fp32 judges ({error.hint})")
        return None
    return found


def load_engine(settings: Settings, name: str) -> Bundle:
    """A recipe's bundle, checked, and signed where that is required: what may run here.

    Raises:
        ConfigError: no such recipe, or no trusted key can be read.
        BundleError: missing, damaged, or not signed where it must be.
    """
    bundle = load_bundle(engine_to_load(settings.paths.engines / find_recipe(settings, name).engine))
    if (trusted := trusted_keys(settings)) is not None:
        check_signature(bundle.folder / MANIFEST, "edge/bundle/1", bundle.digest, trusted, name)
    return bundle


def open_on_cpu(settings: Settings, bundle: Bundle, note: Note = no_note) -> Runtime:
    """The CPU runtime of a bundle, whatever device the configuration names: for one that is lost.

    Raises:
        BundleError: its files are no longer those that were loaded.
    """
    return open_runtime(
        bundle,
        device="cpu",
        threads=settings.runtime.threads,
        cache=settings.paths.state / COMPILED,
        note=note,
    )


def sign_recipe(settings: Settings, name: str, key: Ed25519PrivateKey) -> tuple[Path, ...]:
    """Sign a recipe's bundle, and its calibration if there is one; gives the signature files.

    Raises:
        ConfigError: no such recipe.
        BundleError: one of them is damaged, or does not fit the other; nothing was signed.
        CannotWriteError: a signature cannot be written.
    """
    recipe = find_recipe(settings, name)
    bundle = load_bundle(engine_to_load(settings.paths.engines / recipe.engine))
    file = settings.paths.calibration / f"{recipe.calibration}.json"
    calibration = load_calibration(file, bundle.digest) if file.exists() else None
    signed = [sign(bundle.folder / MANIFEST, "edge/bundle/1", bundle.digest, key)]
    if calibration is not None:
        signed.append(sign(file, "edge/calibration/1", calibration.digest, key))
        if (precisions := load_precisions(bundle, calibration.digest)) is not None:
            signed.append(sign(bundle.folder / PRECISIONS, "edge/precisions/1", precisions.digest, key))
    return tuple(signed)


def check_state(settings: Settings) -> None:
    """Database, evidence and compiled engines go there; made if it is missing.

    Raises:
        CannotWriteError: it cannot be written.
    """
    state = settings.paths.state
    try:
        state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state):
            pass
    except OSError as error:
        raise CannotWriteError(
            f"{state}: cannot be written: {error.strerror}",
            hint=f"set paths.state in {settings.file} to a folder this user may write, or free some space",
        ) from None


def find_recipe(settings: Settings, name: str) -> Recipe:
    """A recipe by its name: from config.toml, or as `edge learn` left it in engines/ and calibration/.

    Raises:
        ConfigError: there is neither.
        UsageError: not a recipe's name.
    """
    check_recipe_name(name)
    if name in settings.recipe:
        return settings.recipe[name]
    if (engine_to_load(settings.paths.engines / name) / MANIFEST).is_file():
        return Recipe(engine=name, calibration=name)
    learned = {file.parent.name for file in settings.paths.engines.glob(f"*/{MANIFEST}")}
    known = sorted({*settings.recipe, *(folder for folder in learned if not folder.startswith("."))})
    raise ConfigError(
        f"recipe {name!r}: neither in {settings.file} nor in {settings.paths.engines}",
        hint=f"known: {', '.join(known)}" if known else f"learn it: edge learn IMAGES --recipe {name}",
    )


def check_views(settings: Settings, name: str, calibration: Calibration) -> None:
    """Hold a calibration to the views that the site's recipe expects.

    Raises:
        ConfigError: some have no thresholds.
    """
    if calibration.adaptive is not None:  # views never seen have estimated thresholds
        return
    missing = [view for view in find_recipe(settings, name).views if view not in calibration.views]
    if missing:
        raise ConfigError(
            f"{settings.file}: recipe.{name}.views expects {', '.join(missing)}, which the calibration does "
            f"not know; it knows {', '.join(calibration.views)}",
            hint="learn or calibrate with good frames of those views, or take them out of the list",
        )


def naming_of(settings: Settings, recipe: str) -> Naming:
    """How the sources of a recipe name frames, for frames given by hand; no rule where it has no source.

    Raises:
        UsageError: they do it differently.
    """
    rules = {(s.template, s.pattern, s.dicom) for s in settings.source if s.recipe == recipe}
    if len(rules) > 1:
        raise UsageError(
            f"{settings.file}: the sources of recipe {recipe!r} name frames in different ways",
            hint="say with --template or --pattern how these are named",
        )
    template, pattern, dicom = rules.pop() if rules else (None, None, None)
    return compile_naming(template, pattern, dicom.model_dump() if dicom else None)


def value_range_of(settings: Settings, recipe: str) -> tuple[float, float] | None:
    """The stored values that are black and white, as the sources of a recipe have it.

    Raises:
        UsageError: they differ.
    """
    ranges = {s.value_range for s in settings.source if s.recipe == recipe}
    if len(ranges) > 1:
        raise UsageError(
            f"{settings.file}: the sources of recipe {recipe!r} have different value ranges",
            hint="say with --value-range which one holds for these frames",
        )
    return ranges.pop() if ranges else None


def open_recipes(settings: Settings, note: Note = no_note, progress: Note = no_note) -> dict[str, Inspector]:
    """All recipes that sources use, each opened once."""
    names = {source.recipe for source in settings.source}
    return {name: open_recipe(settings, name, note=note, progress=progress) for name in names}

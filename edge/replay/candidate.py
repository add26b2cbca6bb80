"""The candidate: the recipe with the engine and the calibration that are to be tried in it."""

from __future__ import annotations

from pathlib import Path

from edge.config import Recipe, Settings
from edge.errors import MissingInputError
from edge.infer.bundle import MANIFEST
from edge.recipes import find_recipe


def candidate_site(
    settings: Settings, name: str, engine: str | None = None, calibration: str | None = None
) -> Settings:
    """The site with a candidate's engine and calibration in a recipe's place.

    `engine` is a name in the site's engines, or a bundle's folder; it comes with the calibration of its own
    name unless another is given: by name, or as a .json file.

    Raises:
        ConfigError: no such recipe.
        MissingInputError: no such calibration file.
    """
    recipe = find_recipe(settings, name)
    taken, thresholds = recipe.engine, recipe.calibration
    if engine is not None:
        taken, thresholds = _engine(settings, engine), Path(engine).name
    if calibration is not None:
        thresholds = _calibration(calibration)
    changed = Recipe(
        engine=taken, calibration=thresholds, views=recipe.views, part_timeout_s=recipe.part_timeout_s
    )
    return settings.model_copy(update={"recipe": {**settings.recipe, name: changed}})


def _engine(settings: Settings, engine: str) -> str:
    """As it is joined to the engines' folder: a name, or an absolute path."""
    is_name = (settings.paths.engines / engine / MANIFEST).is_file()
    return str(Path(engine).absolute()) if not is_name and (Path(engine) / MANIFEST).is_file() else engine


def _calibration(calibration: str) -> str:
    if not calibration.endswith(".json"):
        return calibration
    file = Path(calibration)
    if not file.is_file():
        raise MissingInputError(f"{file}: no such calibration", hint="check the path, or give its name")
    return str(file.absolute()).removesuffix(".json")

"""Where a recipe's engine and calibration lie: the configured site, or else the current directory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edge import config as configuration
from edge.decode import Limits
from edge.errors import UsageError


@dataclass(frozen=True, slots=True)
class Site:
    """Folders of a site, and what its configuration says of recipes and budgets."""

    engines: Path
    calibration: Path
    compiled: Path
    settings: configuration.Settings | None = None

    def files(self, recipe: str) -> tuple[Path, Path]:
        """(engine folder, calibration file) of a recipe, as the configuration names them.

        Raises:
            UsageError: not a recipe's name.
        """
        check_name(recipe)
        known = self.settings.recipe.get(recipe) if self.settings else None
        engine, calibration = (known.engine, known.calibration) if known else (recipe, recipe)
        return self.engines / engine, self.calibration / f"{calibration}.json"

    @property
    def limits(self) -> Limits:
        """What a frame may ask for."""
        runtime = self.settings.runtime if self.settings else configuration.Runtime()
        return Limits(max_pixels=runtime.max_pixels, max_pages=runtime.max_pages)


def site_of(config: Path | None) -> Site:
    """The site of `--config`, EDGE_CONFIG or ./config.toml; without any of them the current directory.

    Raises:
        ConfigError: the configuration was named but is not there, or is wrong.
    """
    path = configuration.find(config)
    if config is None and "EDGE_CONFIG" not in os.environ and not path.exists():
        return Site(Path("engines"), Path("calibration"), Path("var/compiled"))
    settings = configuration.load(path)
    paths = settings.paths
    return Site(paths.engines, paths.calibration, paths.state / "compiled", settings)


def check_name(recipe: str) -> None:
    """Recipe names become folders, topics and labels.

    Raises:
        UsageError: anything but letters, digits, '.', '_' and '-', starting with a letter or digit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", recipe):
        raise UsageError(
            f"{recipe!r} cannot be a recipe's name",
            hint="letters, digits, '.', '_' and '-' only, starting with a letter or digit",
        )

"""The site that `edge demo` runs in: a folder, its configuration, and the demo recipe that came with edge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edge.errors import CannotWriteError, MissingInputError
from edge.simulate.broker import HOST
from edge.simulate.shots import ALL_VIEWS

SETTLE_S = 0.5
INCOMPLETE_AFTER_S = 3.0
PART_TIMEOUT_S = 10.0
MARK = "# written by `edge demo`; it may be overwritten by the next one"


@dataclass(frozen=True, slots=True)
class Site:
    """The folder of a demonstration and the ports it uses."""

    folder: Path
    http_port: int
    mqtt_port: int

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def incoming(self) -> Path:
        return self.folder / "incoming"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http_port}"


def shipped_site() -> Path:
    """The site that holds the demo recipe: inside the installed package, else the repository.

    Raises:
        MissingInputError: neither has it.
    """
    package = Path(__file__).resolve().parents[1]
    for site in (package / "_site", package.parent):
        if (site / "engines/demo/bundle.json").is_file() and (site / "calibration/demo.json").is_file():
            return site
    raise MissingInputError(
        f"the demo recipe is neither in {package / '_site'} nor in {package.parent}",
        hint="learn it: edge simulate /tmp/good --parts 60 --defect-share 0 --burst && "
        "edge learn /tmp/good --recipe demo --template '{batch}/{part}_{view}'",
    )


def write_site(site: Site, recipes: Path) -> None:
    """Write the configuration of a demonstration, and make its folders.

    Raises:
        CannotWriteError: the folder belongs to another site, or cannot be written.
    """
    if site.config.exists() and not site.config.read_text(errors="replace").startswith(MARK):
        raise CannotWriteError(
            f"{site.config} is not a demonstration's", hint="choose another folder", retryable=False
        )
    views = [f"{view:02d}" for view in ALL_VIEWS]
    text = f"""{MARK}
schema_version = 1

[station]
name = "demo"

[paths]
engines = {_toml(recipes / "engines")}
calibration = {_toml(recipes / "calibration")}
state = "var"

[[source]]
name = "scanner"
directory = "incoming"
recipe = "demo"
template = "{{batch}}/{{part}}_{{view}}"
settle_s = {SETTLE_S}
incomplete_after_s = {INCOMPLETE_AFTER_S}
rescan_s = 1.0

[recipe.demo]
views = {json.dumps(views)}
part_timeout_s = {PART_TIMEOUT_S}

[mqtt]
host = "{HOST}"
port = {site.mqtt_port}
protocol = 311  # all that the embedded broker speaks

[http]
listen = "{HOST}:{site.http_port}"
"""
    try:
        site.incoming.mkdir(parents=True, exist_ok=True)
        site.config.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotWriteError(f"{site.folder}: cannot be written: {error}") from None


def _toml(path: Path) -> str:
    return json.dumps(str(path.resolve()), ensure_ascii=False)  # a JSON string is a TOML string

"""`edge spc`: a site's database in; a table, JSON, CSV and charts out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner, Result

from edge.errors import CannotWriteError, ConfigError, MissingInputError, UsageError
from edge.record.batches import ChartRow
from edge.record.store import Store
from edge.spc_cli import spc

RUNNER = CliRunner()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two views; in the last batch of the second, frames score 1.6 times what they should."""
    (tmp_path / "config.toml").write_text('[paths]\nstate = "var"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    store = Store(tmp_path / "var" / "edge.sqlite3")
    charts = {view: ChartRow("r", view, "c" * 64, 0.02, 0.2, 40) for view in ("01", "02")}
    with store.transaction():
        for view, levels in (("01", (1.0, 1.01, 0.99)), ("02", (1.0, 1.0, 1.6))):
            for at, level in enumerate(levels):
                for frame in range(10):
                    score, unix_s = level + 0.01 * (frame - 4.5), 1e9 + 1000.0 * at + frame
                    store.add_to_batch(charts[view], f"=B{at}", "", score, unix_s)
    store.close()
    return tmp_path


def run(*words: str, recipe: str = "r") -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(spc)
    return RUNNER.invoke(app, ["--recipe", recipe, *words], catch_exceptions=False)


def test_a_line_a_batch_and_1_where_one_is_out_of_control(site: Path) -> None:
    result = run()
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[v, f"=B{k}"] for v in ("01", "02") for k in range(3)]
    assert lines[3].endswith("in control")
    assert lines[6].endswith("OUT: above_limit, ewma_above")
    assert " 1.0100 " in lines[2]
    assert run("--view", "01").exit_code == 0
    assert len(run("--last", "1").stdout.splitlines()) == 3


def test_a_batch_that_was_out_stays_in_sight_after_a_better_one(site: Path) -> None:
    store = Store(site / "var" / "edge.sqlite3")
    with store.transaction():
        for frame in range(40):
            store.add_to_batch(ChartRow("r", "02", "c" * 64, 0.02, 0.2, 40), "B3", "", 0.7, 2e9 + frame)
    store.close()
    lines = run("--view", "02").stdout.splitlines()
    assert "OUT: above_limit" in lines[3]
    assert lines[4].startswith("02         B3")


def test_why_there_are_no_limits_is_said(site: Path) -> None:
    store = Store(site / "var" / "edge.sqlite3")
    with store.transaction():
        store.add_to_batch(ChartRow("few", "", "d" * 64, 0.02, None, 5), "B1", "", 1.0, 1e9)
        store.add_to_batch(ChartRow("same", "", "d" * 64, 0.02, None, 9), "B1", "", 1.0, 1e9)
    store.close()
    result = run("--plot", "few.html", recipe="few")
    assert "few: no limits: fewer than 8 calibration frames (5)" in result.stdout
    assert "fewer than 8 calibration frames (5)" in (site / "few.html").read_text()
    assert "same: no limits: all calibration frames have the same score" in run(recipe="same").stdout


def test_recipes_and_views_that_there_are_not_are_refused(site: Path) -> None:
    (site / "config.toml").write_text('[paths]\nstate = "var"\n[recipe.known]\n')
    with pytest.raises(ConfigError, match=r"'strange'(.|\n)*known: known"):
        run(recipe="strange")
    with pytest.raises(UsageError, match=r"--view 03(.|\n)*there are: 01, 02"):
        run("--view", "03")


@pytest.mark.parametrize("option", ["--csv", "--plot"])
def test_a_folder_that_is_not_there_is_not_made(site: Path, option: str) -> None:
    with pytest.raises(CannotWriteError, match="no folder none"):
        run(option, "none/all.html")
    assert not (site / "none").exists()


def test_json_is_one_object_with_every_batch(site: Path) -> None:
    answer = json.loads(run("--json").stdout)
    assert [chart["view"] for chart in answer["charts"]] == ["01", "02"]
    points = answer["charts"][1]["points"]
    assert [point["frames"] for point in points] == [10, 10, 10]
    assert points[2]["nqi"] == pytest.approx(1.6)
    assert points[0]["firstAt"] == "2001-09-09T01:46:40.000Z"
    last = json.loads(run("--json", "--last", "1").stdout)["charts"][1]["points"]
    assert last == points[2:]


def test_csv_holds_a_row_a_batch_and_no_formula(site: Path) -> None:
    run("--csv", "out.csv")
    with (site / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert [row["batch"] for row in rows[:3]] == ["'=B0", "'=B1", "'=B2"]
    assert float(rows[5]["nqi"]) == pytest.approx(1.6)
    assert rows[5]["rules"] == "above_limit ewma_above"


def test_a_page_with_all_views_or_a_picture_of_one(site: Path) -> None:
    run("--plot", "all.html")
    page = (site / "all.html").read_text()
    assert page.count("<svg") == 2
    assert "=B2: nQI 1.600 of 10 frames" in page
    assert "<script" not in page
    assert page.replace("http://www.w3.org/2000/svg", "").count("http") == 0
    run("--plot", "one.svg", "--view", "02")
    assert ElementTree.parse(site / "one.svg").getroot().tag.endswith("svg")
    with pytest.raises(UsageError, match="holds one view, there are: 01, 02"):
        run("--plot", "two.svg")
    with pytest.raises(UsageError, match=r"neither .html nor .svg"):
        run("--plot", "two.png")


def test_nothing_counted_yet_is_said(site: Path) -> None:
    (site / "config.toml").write_text('[paths]\nstate = "var"\n[recipe.known]\n')
    result = run("--plot", "none.html", recipe="known")
    assert (result.exit_code, result.stdout) == (0, "known: no frame counted yet\n")
    assert "No frame counted yet" in (site / "none.html").read_text()
    assert json.loads(run("--json", recipe="known").stdout) == {"recipe": "known", "charts": []}


def test_a_site_without_a_database_is_named(site: Path) -> None:
    (site / "config.toml").write_text('[paths]\nstate = "elsewhere"\n')
    with pytest.raises(MissingInputError, match=r"edge\.sqlite3: no database"):
        run()
    assert not (site / "elsewhere").exists()

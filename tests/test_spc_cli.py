"""`edge spc`: a site's database in; a table, JSON, CSV and charts out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner, Result

from edge.errors import MissingInputError, UsageError
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


def run(*words: str) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(spc)
    return RUNNER.invoke(app, ["--recipe", "r", *words], catch_exceptions=False)


def test_a_line_a_view_and_1_where_one_is_out_of_control(site: Path) -> None:
    result = run()
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[1].startswith("01 ")
    assert lines[1].endswith("in control")
    assert lines[2].endswith("OUT: above_limit, ewma_above")
    assert run("--view", "01").exit_code == 0


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
    result = run("--view", "03", "--plot", "none.html")
    assert (result.exit_code, result.stdout) == (0, "r: no frame counted yet\n")
    assert "No frame counted yet" in (site / "none.html").read_text()
    assert json.loads(run("--view", "03", "--json").stdout) == {"recipe": "r", "charts": []}


def test_a_site_without_a_database_is_named(site: Path) -> None:
    (site / "config.toml").write_text('[paths]\nstate = "elsewhere"\n')
    with pytest.raises(MissingInputError, match=r"edge\.sqlite3: no database"):
        run()
    assert not (site / "elsewhere").exists()

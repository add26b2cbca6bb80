"""The benches' own parts: the page that holds their figures, and the list of what there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.context import Context, FailedError, SkippedError, wait
from bench.machine import ROOT
from bench.section import HEAD, Section, place, render, table, write
from bench.weld_xray import fragments
from edge.preprocess import TileSpec, Tiling

ORDER = ("first", "second", "third")


def rendered(name: str, line: str) -> str:
    return render(name, Section(f"About {name}", [line]), ["*a machine*"], ["edge check"])


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_section_replaces_only_itself() -> None:
    document = place("", "third", rendered("third", "3"), ORDER)
    document = place(document, "first", rendered("first", "1"), ORDER)
    again = place(document, "third", rendered("third", "new"), ORDER)
    assert again.count("bench third: begin") == 1
    assert "\n3\n" not in again
    assert "\nnew\n" in again
    assert rendered("first", "1") in again


def test_sections_stand_in_the_order_of_the_list_however_they_were_run() -> None:
    document = ""
    for name in ("third", "first", "second"):
        document = place(document, name, rendered(name, name), ORDER)
    assert document.startswith(HEAD)
    assert [document.index(f"## About {name}") for name in ORDER] == sorted(
        document.index(f"## About {name}") for name in ORDER
    )


def test_a_section_of_a_bench_that_is_gone_goes_too() -> None:
    document = place("", "first", rendered("first", "1"), ORDER)
    assert "About first" not in place(document, "second", rendered("second", "2"), ORDER[1:])


def test_writing_twice_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "docs/results.md"
    for _ in range(2):
        write(file, "second", rendered("second", "2"), ORDER)
    assert file.read_text() == place("", "second", rendered("second", "2"), ORDER)


def test_a_section_says_where_and_how_it_was_measured() -> None:
    text = rendered("first", "1")
    assert "*a machine*" in text
    assert "edge check" in text


def test_table_is_markdown() -> None:
    assert table(["a", "b"], [["x", 1]]) == ["| a | b |", "| :-- | --: |", "| x | 1 |"]


@pytest.mark.parametrize("name", command.ORDER)
def test_every_bench_can_be_run_and_says_what_it_shows(name: str) -> None:
    module = command._module(name)
    assert callable(module.run)
    assert module.__doc__.splitlines()[0].endswith(".")


def test_list_names_every_bench_and_runs_none() -> None:
    done = bench("--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(command.ORDER)


def test_an_unknown_bench_is_a_usage_error() -> None:
    done = bench("nanofiber")
    assert done.returncode == 64
    assert "nanofibre" in done.stderr


def test_absent_data_is_skipped_in_so_many_words_and_a_failure_where_all_is_required(tmp_path: Path) -> None:
    skipped = bench("nanofibre", EDGE_DATA=str(tmp_path), EDGE_REQUIRE_ALL="0")
    assert skipped.returncode == 0
    assert "skipped: data absent" in skipped.stderr
    required = bench("nanofibre", EDGE_DATA=str(tmp_path), EDGE_REQUIRE_ALL="1")
    assert required.returncode == 1
    assert "FAILED: data absent" in required.stderr


def test_a_dataset_that_is_absent_skips_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DATA", str(tmp_path))
    with pytest.raises(SkippedError, match="data absent"):
        Context(tmp_path).dataset("weld_xray")


def test_a_command_that_fails_fails_the_bench_with_its_words(tmp_path: Path) -> None:
    context = Context(tmp_path, say=lambda text: None)
    with pytest.raises(FailedError, match="no-such-recipe"):
        context.edge("inspect", tmp_path, "--recipe", "no-such-recipe")
    assert context.commands == [f"edge inspect {tmp_path} --recipe no-such-recipe"]


def test_waiting_has_an_end() -> None:
    with pytest.raises(FailedError, match="not within 0 s: the moon"):
        wait(lambda: False, "the moon", 0)


@pytest.mark.parametrize("size", [(4919, 835), (64, 64), (40, 65), (97, 4000)])
def test_fragments_are_counted_as_the_tiling_cuts_them(size: tuple[int, int]) -> None:
    width, height = size
    assert fragments(width, height) == len(
        Tiling(height, width, TileSpec(size_px=64, keep_px=64, step_px=32))
    )

"""Presets: choices that are options, and that what is typed goes before."""

import inspect
import re
from pathlib import Path

import pytest

from edge.errors import DataError, UsageError
from edge.learn import cli
from edge.learn.models import MODELS
from edge.learn.presets import PRESETS, with_preset

OPTIONS = {name: p.default for name, p in inspect.signature(cli.learn).parameters.items()}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_choice_of_a_preset_is_an_option_that_can_be_given_alone(name: str) -> None:
    assert set(PRESETS[name]) <= set(OPTIONS)
    assert PRESETS[name]["model"] in MODELS
    chosen = with_preset(OPTIONS, name, lambda _: False)
    assert {key: chosen[key] for key in PRESETS[name]} == PRESETS[name]
    cli.preprocess_from(chosen)


def test_what_is_typed_goes_before_a_preset() -> None:
    chosen = with_preset({**OPTIONS, "min_recall": 0.9}, "solder", lambda name: name == "min_recall")
    assert (chosen["min_recall"], chosen["model"]) == (0.9, "supervised-ae-256")


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no preset") as caught:
        with_preset(OPTIONS, "welds", lambda _: False)
    assert "weld-fragments" in str(caught.value)


def test_a_scale_that_is_typed_goes_before_a_presets_size() -> None:
    chosen = with_preset({**OPTIONS, "scale": 0.5}, "bricks", lambda name: name == "scale")
    assert (chosen["size"], chosen["scale"]) == (None, 0.5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": "64x64", "scale": 0.5}, "two ways to say the same"),
        ({"clahe_clip": 3.0}, "no effect without --clahe"),
        ({"mask_polarity": "dark"}, "no effect without --mask"),
        ({"mask": "otsu", "mask_recipe": "m"}, "uses no recipe"),
        ({"mask": "unet"}, "needs the recipe"),
    ],
)
def test_preparation_that_would_have_no_effect_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        cli.preprocess_from({**OPTIONS, **changes})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"size_px": [80, 60], "points": {"*": [[0,0],[9,9],[9,0],[0,9]]}}', r"r\.json: view \*: .*crosses"),
        ('{"size_px": [80, 60]}', r"r\.json: rectify needs points or homographies"),
        ('{"size_px": [80, 60], "homographies": {"*": [[1,0,0],[0,1,0],[0,0,1]]}}', r"nine numbers in a row"),
        ("no json", r"r\.json: "),
    ],
)
def test_geometry_that_cannot_be_is_refused_with_its_file(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError) as caught:
        cli.preprocess_from({**OPTIONS, "rectify": tmp_path / "r.json"})
    assert re.search(says, str(caught.value))

"""Presets: choices that are options, and that what is typed goes before."""

import inspect

import pytest

from edge.errors import UsageError
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

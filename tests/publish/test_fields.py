"""What of a verdict a sink is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.config import load
from edge.errors import ConfigError
from edge.publish import Message
from edge.publish.fields import ALWAYS, Selection, known_fields

BODY = {
    "schema": "edge/verdict/1", "resultId": "R1", "resultType": "frame", "creationTime": "2026-11-28T00Z",
    "station": "st", "resultEvaluation": "NotOK", "score": 1.5, "statistics": {"max": 1.0, "mse": 0.5},
    "image": {"path": "a.png", "sha256": "00", "width": 4}, "defects": [{"class": "anomaly"}],
}  # fmt: skip


def applied(*fields: str, kind: Any = "frame") -> dict[str, Any]:
    message = Message(1, kind, "R1", json.dumps(BODY).encode())
    found: dict[str, Any] = json.loads(Selection.of(fields).apply(message).body)
    return found


def test_without_fields_a_body_stays_as_it_is_byte_for_byte() -> None:
    message = Message(1, "frame", "R1", b'{"a" : 1}')
    assert Selection.of(()).apply(message) is message


def test_fields_to_keep_come_with_those_that_are_always_sent() -> None:
    assert set(applied("score", "image.path")) == {*ALWAYS, "score", "image"}
    assert applied("score", "image.path")["image"] == {"path": "a.png"}


def test_fields_to_leave_out_are_left_out() -> None:
    body = applied("-statistics", "-image.sha256", "-defects")
    assert set(body) == set(BODY) - {"statistics", "defects"}
    assert body["image"] == {"path": "a.png", "width": 4}


def test_a_review_is_always_whole() -> None:
    assert applied("score", kind="review") == BODY


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("score", "-image"), "not both"),
        (("scores",), "is no field"),
        (("-resultId",), "always sent"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(fields: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Selection.of(fields)


def test_fields_inside_others_are_known() -> None:
    assert {"image.path", "model.sha256", "score", "views"} <= known_fields()


def config(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text("schema_version = 1\n" + text)
    return file


def test_sinks_are_configured_with_paths_of_the_site(tmp_path: Path) -> None:
    settings = load(
        config(
            tmp_path,
            '[[sink]]\nname = "log"\ntype = "file"\ndirectory = "out"\nkinds = ["part"]\n'
            '[[sink]]\nname = "mes"\ntype = "webhook"\nurl = "https://mes.example/v"\nsecret_file = "s"\n',
        )
    )
    log, mes = settings.sink
    assert log.type == "file"
    assert log.directory == tmp_path / "out"
    assert mes.type == "webhook"
    assert mes.secret_file == tmp_path / "s"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[sink]]\nname = "a"\ntype = "ftp"\n', "sink"),
        ('[[sink]]\nname = "mqtt"\ntype = "file"\ndirectory = "o"\n', "called 'mqtt' already"),
        ('[[sink]]\nname = "a"\ntype = "webhook"\nurl = "ftp://x/y"\n', "https://HOST"),
        (
            '[[sink]]\nname = "a"\ntype = "webhook"\nurl = "http://x"\nheaders = {"a" = "b\\nc"}\n',
            "one line",
        ),
        ('[[sink]]\nname = "a"\ntype = "file"\ndirectory = "o"\nfields = ["scroe"]\n', "scroe"),
        ('[mqtt]\nfields = ["scroe"]\n', "scroe"),
    ],
)
def test_a_sink_that_cannot_work_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(config(tmp_path, text))

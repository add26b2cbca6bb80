"""The Containerfile, which no test can build: what it copies exists, what it runs are edge's commands."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

from edge.cli import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
STAGES = re.split(r"(?m)^(?=FROM )", TEXT)[1:]


def lines(stage: str, word: str) -> list[str]:
    return re.findall(rf"(?m)^{word} (.*)$", stage)


def test_all_that_is_copied_exists_and_reaches_the_build() -> None:
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    sources = [
        source for stage in STAGES for line in lines(stage, "COPY") if "--from" not in line
        for source in line.split()[:-1]
    ]  # fmt: skip
    assert len(sources) >= 5
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in let_in), source


def test_what_the_wheel_forces_in_is_there_when_it_is_built() -> None:
    import tomllib

    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = " ".join(lines(STAGES[0], "COPY"))
    for file in [*wheel["packages"], *wheel["force-include"]]:
        assert file in copied, file


def test_the_last_stage_has_no_tools_and_no_root() -> None:
    last = STAGES[-1]
    assert not re.search(r"apt-get|pip |gcc|curl", last)
    user = last.index("USER 10001")
    assert user < last.index("ENTRYPOINT")
    assert "RUN" not in last[user:]
    assert len({stage.split()[1] for stage in STAGES}) == 1  # the environment's interpreter is in both


def test_it_runs_commands_that_there_are() -> None:
    commands = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    (health,) = lines(STAGES[-1], "HEALTHCHECK")
    (entry,), (default,) = lines(STAGES[-1], "ENTRYPOINT"), lines(STAGES[-1], "CMD")
    probe = json.loads(health[health.index("[") :])
    assert json.loads(entry) == ["edge"] == probe[:1]
    assert {probe[1], *json.loads(default)} <= commands

"""What is wrong with a running line, and what to do about it, in an operator's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "fault"]
WAITING_FRAMES = 100  # of a source: from here on the line does not keep up
WAITING_VERDICTS = 1000  # for a consumer


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    what: str
    fix: str = ""

    def document(self) -> dict[str, Any]:
        """As the page has it."""
        return asdict(self)


# by the first part of a condition's name: what it is when it is well, and what to do when it is not
_CONDITIONS = {
    "source": (
        "The scanner's folder can be read.",
        "Look whether the scanner's folder is there and its network drive is connected; then at the "
        "permissions of the folder (edge doctor names them). Frames wait there meanwhile, none is lost.",
    ),
    "database": (
        "Verdicts are being written.",
        "Free space on the disk that paths.state is on, and look at its health. Verdicts that are made are "
        "held and written as soon as it works again.",
    ),
    "database_damaged": (
        "The database is whole.",
        "A damaged database was set aside, and what could be read of it was taken over. Keep the named file "
        "for whoever looks into it, then move it away; let the disk be checked.",
    ),
    "disk": (
        "There is enough free space.",
        "Free space on the disk that paths.state is on, or lower evidence.max_bytes in config.toml. The "
        "oldest pictures are removed by themselves; verdicts are not.",
    ),
    "decoders": (
        "Pictures are being read.",
        "The processes that read pictures cannot start. Look at memory and process limits of the service "
        "(edge doctor), then restart it.",
    ),
    "engine": (
        "The engine answers.",
        "Restart the service. If it comes back, look at the graphics card with edge doctor.",
    ),
}


def checks_of(
    conditions: Mapping[str, tuple[bool, str]],
    silent: Mapping[str, str],
    status: Mapping[str, Any],
) -> list[Check]:
    """All that is known, faults first.

    `conditions` and `silent` are those of `edge.observe.health.Health`, `status` is what /api/v1/status says.
    """
    found = [_condition(name, ok, why) for name, (ok, why) in conditions.items()]
    found += [
        Check(
            f"loop:{name}", "fault", f"A part of the program does not answer: {why}.",
            "Wait a minute; systemd restarts the service if it stays so. Without systemd restart edge run.",
        )
        for name, why in silent.items()
    ]  # fmt: skip
    if not conditions:
        found.append(Check("start", "warning", "The daemon is starting.", "Wait a moment."))
    found += [*_backlogs(status), *_outboxes(status), *_engines(status), *_drifts(status), *_reload(status)]
    order: dict[State, int] = {"fault": 0, "warning": 1, "ok": 2}
    return sorted(found, key=lambda check: (order[check.state], check.name))


def _condition(name: str, ok: bool, why: str) -> Check:
    well, fix = _CONDITIONS.get(name.partition(":")[0], ("Well.", "Look at the service's log."))
    return Check(name, "ok", well) if ok else Check(name, "fault", why or "not yet", fix)


def _backlogs(status: Mapping[str, Any]) -> list[Check]:
    found = []
    for name, backlog in (status.get("backlog") or {}).items():
        waiting = backlog.get("waiting") or 0
        if waiting < WAITING_FRAMES:
            found.append(Check(f"backlog:{name}", "ok", f"{waiting} frames wait."))
            continue
        found.append(
            Check(
                f"backlog:{name}", "warning", f"{waiting} frames of {name} wait to be judged.",
                "If the number keeps rising, the machine is too slow for the scanner: see edge bench, or let "
                "the scanner pause. After a standstill it falls by itself.",
            )
        )  # fmt: skip
    return found


def _outboxes(status: Mapping[str, Any]) -> list[Check]:
    found = []
    for name, outbox in (status.get("outbox") or {}).items():
        depth, connected = outbox.get("depth") or 0, outbox.get("connected")
        if connected and depth < WAITING_VERDICTS:
            found.append(Check(f"outbox:{name}", "ok", f"Connected; {depth} verdicts wait to be sent."))
            continue
        error = f": {outbox['lastError']}" if outbox.get("lastError") else ""
        what = f"{depth} verdicts wait to be sent to {name}."
        if not connected:
            what = f"No connection to {name}{error}. {what}"
        found.append(
            Check(
                f"outbox:{name}", "warning", what,
                "Look whether the receiver (the broker) runs and can be reached, and at its user and "
                "certificate (edge doctor tries all of it). No verdict is lost meanwhile.",
            )
        )  # fmt: skip
    return found


def _engines(status: Mapping[str, Any]) -> list[Check]:
    found = []
    for recipe, model in (status.get("recipes") or {}).items():
        why, runs = model.get("engineReplacedBecause"), f"{model.get('runtime')}, {model.get('precision')}"
        if not why:
            found.append(Check(f"engine:{recipe}", "ok", f"Judges with {runs}."))
            continue
        found.append(
            Check(
                f"engine:{recipe}", "warning", f"Judges with {runs} instead of what is configured: {why}.",
                "Verdicts are as good, but may take longer. Look at the graphics card and its driver with "
                "edge doctor, then reload or restart the service.",
            )
        )  # fmt: skip
    return found


def _drifts(status: Mapping[str, Any]) -> list[Check]:
    found = []
    for recipe, views in (status.get("drift") or {}).items():
        for view, said in views.items():
            name, of_view = f"drift:{recipe}:{view}", f"{recipe}, view {view or 'default'}"
            if said.get("state") == "too_few":
                why = f": {said['why']}" if said.get("why") else ""
                found.append(Check(name, "ok", f"Whether scores of {of_view} drift is not known yet{why}."))
                continue
            if said.get("state") not in ("watch", "alarm"):
                found.append(Check(name, "ok", f"Scores of {of_view} show no drift."))
                continue
            why = f": {said['why']}" if said.get("why") else ""
            found.append(
                Check(
                    name, "warning", f"Scores of {of_view} move away from calibration{why}.",
                    "Look at the latest pictures: is the lens clean, the light as bright, the part placed as "
                    "before? If good parts look different now, calibrate again with some of them.",
                )
            )  # fmt: skip
    return found


def _reload(status: Mapping[str, Any]) -> list[Check]:
    last = status.get("lastReload")
    if not last or last.get("ok"):
        return []
    what = f"The changed configuration was refused: {last.get('error')}"
    hint = last.get("hint") or "correct what it names"
    fix = f"{hint[:1].upper()}{hint[1:]}; then"
    return [Check("configuration", "warning", what, f"{fix} reload. edge check says whether all is well.")]

"""`edge simulate mes`: what arrives at an MES, printed and checked, without an MES.

It subscribes with QoS 1 and drops repeats by their `resultId`. Its session ends with it, unless one is named:
one that nobody comes back to would take verdicts that `mqtt.wait_for_consumer` keeps for the real MES.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge import config as configuration
from edge.config import Settings
from edge.errors import ConfigError, UnavailableError
from edge.publish.connection import read_password, tls_context
from edge.publish.fields import ALWAYS
from edge.publish.schema import document

SESSION_S = 3600  # a named session: the broker keeps what comes while we are away
CONNECT_S = 10.0
RETAINED_S = 5.0  # within which retained messages are there
MOST_PROBLEMS = 20  # told; all are counted
SCHEMAS = {
    "result/frame": "verdict-1",
    "result/part": "verdict-1",
    "result/review": "review-1",
    "info": "info-1",
    "state": "state-1",
}
RETAINED = ("available", "info", "state")


@dataclass(slots=True)
class Ledger:
    """What arrived below a station's topics, and what is wrong with it."""

    valid: Callable[[str, Any], str]  # (schema, document) → what is wrong, or ''
    counts: Counter[str] = field(default_factory=Counter)
    evaluations: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    problems: list[str] = field(default_factory=list)
    retained: set[str] = field(default_factory=set)
    _digests: dict[str, bytes] = field(default_factory=dict)  # of bodies, by kind and id
    _frames: dict[str, str] = field(default_factory=dict)  # resultId → evaluation
    _newest: dict[str, str] = field(default_factory=dict)  # kind → creationTime

    def take(self, name: str, body: bytes) -> dict[str, Any] | None:
        """A message on the topic of that name below the station's; its document, if it is a new result."""
        self.counts[name] += 1
        if name in RETAINED:
            self.retained.add(name)
        if name == "available":
            if body not in (b"online", b"offline"):
                self._wrong(f"available says {body[:40]!r}: online or offline is expected")
            return None
        try:
            said = json.loads(body)
        except ValueError:
            self._wrong(f"{name}: no JSON: {body[:60]!r}")
            return None
        if not isinstance(said, dict):
            self._wrong(f"{name}: no JSON object: {body[:60]!r}")
            return None
        if (schema := SCHEMAS.get(name)) and (why := self.valid(schema, said)):
            self._wrong(f"{name} {said.get('resultId', '')}: {why}")
        return self._result(name, body, said) if name.startswith("result/") else None

    def _result(self, name: str, body: bytes, said: Mapping[str, Any]) -> dict[str, Any] | None:
        key = str(said.get("reviewId" if name == "result/review" else "resultId"))
        digest = hashlib.blake2b(body, digest_size=16).digest()
        before = self._digests.get(f"{name} {key}")
        if before is not None:
            self.repeats += 1
            if before != digest:
                self._wrong(f"{name} {key}: came again and says something else")
            return None
        self._digests[f"{name} {key}"] = digest
        if name == "result/review":
            return dict(said)
        self.evaluations[f"{said.get('resultType')} {said.get('resultEvaluation')}"] += 1
        made = str(said.get("creationTime"))
        if made < self._newest.get(name, ""):
            self._wrong(f"{name} {key}: made at {made}, after one of {self._newest[name]} had come")
        self._newest[name] = max(made, self._newest.get(name, ""))
        if name == "result/frame":
            self._frames[key] = str(said.get("resultEvaluation"))
        else:
            self._part(key, said)
        return dict(said)

    def _part(self, key: str, said: Mapping[str, Any]) -> None:
        """A part says of its views what they said themselves, and is OK only if all are."""
        views = said.get("views") or []
        for view in views:
            own = self._frames.get(str(view.get("resultId")))
            if own is not None and own != view.get("resultEvaluation"):
                self._wrong(f"part {key}: view {view.get('view')} is {own}, the part says otherwise")
        bad = [view for view in views if view.get("resultEvaluation") != "OK"] or said.get("missingViews")
        if said.get("resultEvaluation") == "OK" and bad:
            self._wrong(f"part {key}: OK, and not all of its views are")

    def ended(self) -> list[str]:
        """All that was wrong, what is missing included."""
        missing = [name for name in RETAINED if name not in self.retained]
        return self.problems + [f"{name}: no retained message" for name in missing]

    def _wrong(self, what: str) -> None:
        self.problems.append(what)


def validator(fields: Sequence[str] = ()) -> Callable[[str, Any], str]:
    """Checks documents against the schemas that edge ships; of verdicts that are sent without some of their
    `fields`, what is left.

    Raises:
        UnavailableError: the library for that is not installed.
    """
    try:
        import jsonschema
    except ImportError:
        raise UnavailableError(
            "checking payloads needs jsonschema", hint='pip install "edge-inspect[mes]"'
        ) from None
    validators: dict[str, Any] = {}

    def wrong(name: str, said: Any) -> str:
        if name not in validators:
            validators[name] = jsonschema.Draft202012Validator(document(name))
        errors = sorted(validators[name].iter_errors(said), key=lambda error: list(map(str, error.path)))
        if fields and name == "verdict-1":
            if missing := [field for field in ALWAYS if field not in said]:
                return f"it: {', '.join(missing)} must always be sent"
            errors = [error for error in errors if error.validator != "required"]
        return "; ".join(f"{'.'.join(map(str, e.path)) or 'it'}: {e.message[:120]}" for e in errors[:3])

    return wrong


def run_mes(
    *,
    config: Path | None,
    seconds: float | None,
    frames: int | None,
    session: str | None,
    json: bool,
    environ: Mapping[str, str],
) -> int:
    """Listen until `frames` results of frames came, `seconds` are over, or Ctrl-C; 1 if anything was wrong.

    Raises:
        ConfigError: no broker is configured.
        UnavailableError: it cannot be reached, or refuses.
    """
    settings = configuration.load(configuration.find(config))
    if not settings.mqtt.enabled:
        raise ConfigError(f"{settings.file}: mqtt.enabled = false: nothing arrives", hint="set it to true")
    ledger = Ledger(validator(settings.mqtt.fields))
    root = f"{settings.mqtt.prefix}/{settings.station.name}"
    inbox: queue.SimpleQueue[tuple[str, bytes] | Exception] = queue.SimpleQueue()
    client = _connected(settings, f"{root}/#", session, inbox, environ)
    deadline_s = time.monotonic() + seconds if seconds else float("inf")
    # whoever is content with few frames still hears what is retained
    patience_s = time.monotonic() + RETAINED_S
    try:
        while time.monotonic() < deadline_s:
            enough = frames is not None and ledger.counts["result/frame"] - ledger.repeats >= frames
            if enough and (ledger.retained == set(RETAINED) or time.monotonic() > patience_s):
                break
            try:
                came = inbox.get(timeout=min(0.2, max(0.01, deadline_s - time.monotonic())))
            except queue.Empty:
                continue
            if isinstance(came, Exception):
                raise came
            topic, body = came
            said = ledger.take(topic.removeprefix(f"{root}/"), body)
            if said is not None and not json:
                print(line_of(said), flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        client.disconnect()
        client.loop_stop()
    return _summed_up(ledger, json)


def _connected(
    settings: Settings,
    topic: str,
    session: str | None,
    inbox: queue.SimpleQueue[tuple[str, bytes] | Exception],
    environ: Mapping[str, str],
) -> Any:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    mqtt = settings.mqtt
    v5 = mqtt.protocol == 5
    client = Client(
        CallbackAPIVersion.VERSION2, client_id=session or f"edge-mes-{os.getpid()}",
        clean_session=None if v5 else session is None,
        protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
    )  # fmt: skip
    if mqtt.username is not None:
        client.username_pw_set(mqtt.username, read_password(mqtt.password_file, environ))
    if mqtt.tls is not None:
        client.tls_set_context(tls_context(mqtt.tls))

    def subscribe(_c: Any, _u: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            hint = "as for the daemon: [mqtt] in config.toml"
            inbox.put(UnavailableError(f"{mqtt.host}:{mqtt.port} refused: {reason}", hint=hint))
        else:
            client.subscribe(topic, qos=1)

    def subscribed(_c: Any, _u: Any, _mid: Any, reasons: Any, _p: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            hint = "let this user read it: see systemd/mosquitto-acl.example"
            inbox.put(UnavailableError(f"{topic} may not be read: {reasons[0]}", hint=hint))

    client.on_connect, client.on_subscribe = subscribe, subscribed
    client.on_message = lambda _c, _u, message: inbox.put((message.topic, bytes(message.payload)))
    arguments: dict[str, Any] = {"keepalive": mqtt.keepalive_s}
    if v5:
        arguments["clean_start"] = session is None
        arguments["properties"] = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        arguments["properties"].SessionExpiryInterval = SESSION_S if session else 0
    client.connect_timeout = CONNECT_S
    try:
        client.connect(mqtt.host, mqtt.port, **arguments)
    except OSError as error:
        raise UnavailableError(
            f"cannot connect to {mqtt.host}:{mqtt.port}: {error}", hint="`edge doctor` tries it step by step"
        ) from None
    client.loop_start()
    return client


def line_of(said: Mapping[str, Any]) -> str:
    """A result in a line."""
    if "reviewId" in said:
        who = f"{said['evaluation']} by {said['reviewer']}"
        return f"{said['createdAt'][11:19]}  review        {said['resultId']}  {who}"
    who = said.get("partId") or (said.get("image") or {}).get("path", "")
    view = said.get("view") or ("part" if said["resultType"] == "part" else "-")
    score = said.get("score")
    why = ", ".join(said.get("reasons") or ())
    return (
        f"{said['creationTime'][11:19]}  {said['resultEvaluation']:12}  {who:16}  {view:6}"
        f"  {'' if score is None else f'{score:6.2f}'}  {why}"
    ).rstrip()


def _summed_up(ledger: Ledger, as_json: bool) -> int:
    problems = ledger.ended()
    if as_json:
        counts = {name: n for name, n in sorted(ledger.counts.items())}
        found = {"messages": counts, "evaluations": dict(sorted(ledger.evaluations.items()))}
        print(json.dumps({"ok": not problems, **found, "repeats": ledger.repeats, "problems": problems}))
        return 1 if problems else 0
    made = ", ".join(f"{n} {what}" for what, n in sorted(ledger.evaluations.items())) or "no results"
    print(f"{made}; {ledger.repeats} repeats dropped", file=sys.stderr)
    for problem in problems[:MOST_PROBLEMS]:
        print(f"edge: {problem}", file=sys.stderr)
    if len(problems) > MOST_PROBLEMS:
        print(f"edge: and {len(problems) - MOST_PROBLEMS} more", file=sys.stderr)
    if not problems:
        print("all as the schemas and promises say", file=sys.stderr)
    return 1 if problems else 0

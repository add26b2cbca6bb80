"""The broker, as the daemon would meet it: reached, trusted, logged in to, allowed to publish.

Nothing of the daemon's is disturbed: the client has an identifier of its own and no will, and what it
publishes goes to `…/response/doctor`, not retained, where nobody waits for an answer.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from edge.config import Mqtt, is_loopback
from edge.doctor.finding import Finding, count
from edge.publish.connection import (
    CONNECT_TIMEOUT_S,
    Acked,
    Connection,
    Down,
    Event,
    Publication,
    Up,
    tls_context,
)

ANSWER_S = 5.0
RENEW_DAYS = 21  # before a certificate expires somebody has to know
DAY_S = 86400.0
T = TypeVar("T", bound=Event)


def check_broker(settings: Mqtt, station: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """TCP, TLS, log-in, ACL; ends where the first of them fails, as the rest would say the same.

    `station` is that of the topics; None: of Sparkplug, at whose QoS 0 no broker says what it allows.
    """
    try:
        with socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S) as plain:
            found = [] if settings.tls is None else list(_over_tls(settings, plain))
    except OSError as error:
        yield Finding("broker", "fault", f"{_where(settings)}: {_why(error)}", _to_reach(settings))
        return
    yield Finding("broker", "ok", f"{_where(settings)} answers")
    yield from found
    if not any(finding.level == "fault" for finding in found):
        yield from _session(settings, station, environ)


def _where(settings: Mqtt) -> str:
    return f"{settings.host}:{settings.port}"


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _to_reach(settings: Mqtt) -> str:
    if is_loopback(settings.host):
        return (
            "start it (systemctl status mosquitto), or set mqtt.host and mqtt.port; verdicts wait until then"
        )
    return (
        "see mqtt.host and mqtt.port, firewall and name server, and IPAddressAllow= in the unit's drop-in; "
        "verdicts wait until then"
    )


def _over_tls(settings: Mqtt, plain: socket.socket) -> Iterator[Finding]:
    """The handshake, and how long the certificates of both sides last."""
    assert settings.tls is not None
    try:
        with tls_context(settings.tls).wrap_socket(plain, server_hostname=settings.host) as secured:
            version, theirs = secured.version(), secured.getpeercert()
    except ssl.SSLCertVerificationError as error:
        fix = "mqtt.host must be a name in the broker's certificate, and mqtt.tls.ca_file of who signed it"
        yield Finding("broker TLS", "fault", f"its certificate is refused: {error.verify_message}", fix)
        return
    except (ssl.SSLError, OSError) as error:
        fix = "see [mqtt.tls] in config.toml; 8883 is the usual port with TLS, 1883 without"
        yield Finding("broker TLS", "fault", f"no TLS with it: {error}", fix)
        return
    expires = ssl.cert_time_to_seconds(str((theirs or {})["notAfter"]))
    yield _lasts("broker TLS", f"{version}, its certificate is good", (expires - time.time()) / DAY_S)
    if settings.tls.cert_file is not None:
        yield _own(settings.tls.cert_file)


def _own(file: Path) -> Finding:
    ends = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    return _lasts("our certificate", str(file), (ends - datetime.now(UTC)).total_seconds() / DAY_S)


def _lasts(topic: str, says: str, days: float) -> Finding:
    if days < 0:
        return Finding(topic, "fault", f"{says}; expired {-days:.0f} days ago", "renew it")
    left = f"{says}, for {count(int(days), 'day')} more"
    if days < RENEW_DAYS:
        return Finding(topic, "warning", left, "renew it; files are read anew at each connection")
    return Finding(topic, "ok", left)


def _session(settings: Mqtt, station: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """CONNECT, one PUBLISH, and the SUBSCRIBE that requests need."""
    wake = threading.Event()
    name = f"edge-doctor-{os.getpid()}"
    connection = Connection(settings, client_id=name, will=None, environ=environ, wake=wake)
    connection.open()
    try:
        came = _next(connection, Up)
        if not isinstance(came, Up):
            why = came.why if came is not None else f"no answer within {ANSWER_S:.0f} s"
            fix = "see mqtt.username, mqtt.password_file, mqtt.protocol, and the broker's log"
            yield Finding("broker login", "fault", why, fix)
            return
        yield Finding("broker login", "ok", f"accepted {settings.username or 'without a user name'}")
        if station is not None:
            yield from _acl(connection, settings, f"{settings.prefix}/{station}")
    finally:
        connection.disconnect()
        _next(connection, Down)
        connection.abandon()


def _acl(connection: Connection, settings: Mqtt, root: str) -> Iterator[Finding]:
    topic = f"{root}/response/doctor"
    connection.publish(Publication(topic, b'{"schema":"edge/doctor/1"}'))
    yield _allowed(_next(connection, Acked), settings, "publish to", topic, f"{root}/#")
    if settings.requests:
        connection.subscribe(f"{root}/request/+")
        yield _allowed(_next(connection, Acked), settings, "hear", f"{root}/request/+", f"{root}/request/+")


def _allowed(answer: Acked | Down | None, settings: Mqtt, what: str, topic: str, rule: str) -> Finding:
    if isinstance(answer, Acked) and not answer.refused:
        if settings.protocol == 5:
            return Finding("broker ACL", "ok", f"may {what} {topic}")
        fix = "set mqtt.protocol = 5 where the broker can: MQTT 3.1.1 acknowledges what it refuses"
        return Finding("broker ACL", "note", f"{topic}: acknowledged, which says little in 3.1.1", fix)
    why = answer.refused if isinstance(answer, Acked) else "no answer" if answer is None else answer.why
    fix = f"allow {settings.username or 'our user'} {rule!r}, as systemd/mosquitto-acl.example does"
    return Finding("broker ACL", "fault", f"may not {what} {topic}: {why}", fix)


def _next(connection: Connection, kind: type[T]) -> T | Down | None:
    """The next event of a kind, or the end of the connection; None: nothing within the time."""
    ends_s = time.monotonic() + ANSWER_S
    while (left_s := ends_s - time.monotonic()) > 0:
        try:
            event = connection.events.get(timeout=left_s)
        except queue.Empty:
            break
        if isinstance(event, kind | Down):
            return event
    return None

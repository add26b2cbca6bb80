"""Verdicts to an HTTP server: what it says is taken at its word, and it can prove who speaks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge.config import WebhookSink
from edge.errors import ConfigError
from edge.publish import Message, Settled
from edge.publish.threaded import UnavailableNowError
from edge.publish.webhook import WebhookReceiver, _rest_s, read_secret
from tests.brokers import until
from tests.publish.rigs import HttpServer, WebhookRig, message, settle_until, step_until


@pytest.fixture
def server() -> Iterator[HttpServer]:
    server = HttpServer()
    yield server
    server.stop()


def send(rig: WebhookRig, *rows: int) -> Settled:
    step_until(rig.sink, lambda: rig.sink.capacity() >= len(rows), "capacity")
    for row in rows:
        rig.sink.send(message(row))
    return settle_until(
        rig.sink, lambda total: len(total.delivered + total.refused + total.lost) == len(rows), "settled"
    )


def test_a_request_says_which_verdict_it_carries_and_proves_who_sent_it(server: HttpServer) -> None:
    secret = b"a secret of sufficient length"
    rig = WebhookRig(server, secret=secret, headers={"x-line": "7"})
    assert send(rig, 5).delivered == (5,)
    headers, body = server.requests[0]
    assert headers["webhook-id"] == json.loads(body)["resultId"] == "R5"
    assert headers["x-line"] == "7"
    assert headers["content-type"] == "application/json"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    covered = f"R5.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(secret, covered, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    rig.sink.close(1.0)


@pytest.mark.parametrize("status", [500, 502, 503, 408, 425, 429])
def test_a_server_in_trouble_is_tried_again_and_loses_nothing(server: HttpServer, status: int) -> None:
    rig = WebhookRig(server)
    server.answer = status, "overloaded", {}
    settled = send(rig, 1, 2)
    assert settled == Settled(lost=(1, 2))
    assert not rig.sink.connected
    assert str(status) in rig.sink.last_error
    assert "overloaded" in rig.sink.last_error
    server.answer = 200, "", {}
    assert send(rig, 1, 2).delivered == (1, 2)
    assert rig.received() == ["R1", "R2"]
    rig.sink.close(1.0)


def test_it_is_left_alone_for_as_long_as_it_asks(server: HttpServer) -> None:
    rig = WebhookRig(server)
    server.answer = 429, "", {"retry-after": "120"}
    send(rig, 1)
    now_s = time.monotonic()
    rig.sink.step(now_s + 100)
    assert rig.sink._worker is None
    rig.sink.step(now_s + 121)
    assert rig.sink._worker is not None
    rig.sink.close(1.0)


def test_what_it_refuses_is_not_overtaken_by_what_comes_after(server: HttpServer) -> None:
    rig = WebhookRig(server)
    server.answer = 422, "no such part", {}
    settled = send(rig, 1, 2, 3)
    assert [row for row, _ in settled.refused] == [1]
    assert settled.lost == (2, 3)
    assert rig.sink.connected
    assert "no such part" in rig.sink.last_error
    server.answer = 200, "", {}
    assert send(rig, 1, 2, 3).delivered == (1, 2, 3)
    assert rig.received() == ["R1", "R2", "R3"]
    rig.sink.close(1.0)


def test_a_redirect_is_refused_not_followed(server: HttpServer) -> None:
    rig = WebhookRig(server)
    server.answer = 302, "", {"location": "http://elsewhere.example/"}
    [(_, why)] = send(rig, 1).refused
    assert "302" in why
    assert "redirects are not followed" in why
    rig.sink.close(1.0)


def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(server: HttpServer) -> None:
    rig = WebhookRig(server)
    assert send(rig, 1).delivered == (1,)
    server.stop()
    server.start()
    rig.sink.send(message(2))
    assert settle_until(rig.sink, lambda total: total.delivered, "delivered").delivered == (2,)
    rig.sink.close(1.0)


def test_a_server_that_never_answers_is_given_up(server: HttpServer) -> None:
    rig = WebhookRig(server, timeout_s=0.2)
    server.frozen.set()
    assert send(rig, 1).lost == (1,)
    assert "timed out" in rig.sink.last_error
    rig.sink.close(1.0)


def test_one_that_answers_byte_by_byte_is_given_up_as_well(server: HttpServer) -> None:
    rig = WebhookRig(server, timeout_s=60)
    step_until(rig.sink, lambda: rig.sink.capacity(), "capacity")
    server.frozen.set()
    rig.sink.send(message(1))
    rig.sink.step(time.monotonic() + 26)
    assert rig.sink.settled().lost == (1,)
    assert not rig.sink.connected
    rig.sink.close(1.0)


def test_a_wait_is_seconds_or_a_date_and_has_an_end() -> None:
    assert _rest_s("7", 0) == 7
    assert _rest_s(formatdate(1_000_100, usegmt=True), 1_000_000) == 100
    assert _rest_s("soon", 0) == 0
    assert _rest_s("-5", 0) == 0
    assert _rest_s("1e9", 0) == 3600


def test_secrets_are_read_as_the_standard_writes_them_or_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("whsec_" + base64.b64encode(b"0123456789abcdef").decode() + "\n")
    assert read_secret(file) == b"0123456789abcdef"
    file.write_text("0123456789abcdef0123\n")
    assert read_secret(file) == b"0123456789abcdef0123"
    file.write_text("short")
    with pytest.raises(ConfigError, match="fewer than 16 bytes") as error:
        read_secret(file)
    assert "'short'" not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(tmp_path / "none")


def test_it_stops_at_once_where_the_server_hangs(server: HttpServer) -> None:
    rig = WebhookRig(server)
    step_until(rig.sink, lambda: rig.sink.capacity(), "capacity")
    server.frozen.set()
    rig.sink.send(message(1))
    began = time.monotonic()
    rig.sink.close(0.3)
    assert time.monotonic() - began < 2
    assert rig.sink.settled().lost == (1,)
    until(lambda: not rig.sink.connected)


def test_a_review_is_no_repeat_of_its_verdict(server: HttpServer) -> None:
    rig = WebhookRig(server)
    step_until(rig.sink, lambda: rig.sink.capacity() >= 2, "capacity")
    rig.sink.send(message(1))
    rig.sink.send(Message(2, "review", "R1", b'{"reviewId":"V1","resultId":"R1"}'))
    settle_until(rig.sink, lambda total: len(total.delivered) == 2, "settled")
    assert [headers["webhook-id"] for headers, _ in server.requests] == ["R1", "V1"]
    rig.sink.close(1.0)


def test_a_2xx_whose_body_never_comes_is_not_sent_again(server: HttpServer) -> None:
    rig = WebhookRig(server, timeout_s=0.3)
    server.answer = 200, "", {"content-length": "10"}
    assert send(rig, 1, 2).delivered == (1, 2)
    assert rig.received() == ["R1", "R2"]
    rig.sink.close(1.0)


def test_an_ipv6_address_without_a_port_is_not_taken_for_one() -> None:
    options: dict[str, Any] = {"headers": {}, "secret": None, "ca_file": None, "timeout_s": 1.0}
    for url, port in (("http://[2001:db8::1]/x", 80), ("https://[2001:db8::1]/x", 443)):
        connection = WebhookReceiver(url, **options)._new_connection()
        assert (connection.host, connection.port) == ("2001:db8::1", port)


@pytest.mark.parametrize("wrong", [{"url": "http://h:99999/"}, {"url": "http://h:0/"}, {"kinds": []}])
def test_what_could_never_deliver_is_refused_in_the_configuration(wrong: dict[str, Any]) -> None:
    good = {"name": "a", "type": "webhook", "url": "http://h/"}
    WebhookSink.model_validate(good)
    with pytest.raises(ValidationError):
        WebhookSink.model_validate(good | wrong)


def test_a_ca_file_that_holds_no_certificate_is_down_not_a_fault(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    receiver = WebhookReceiver(
        "https://127.0.0.1:1/", headers={}, secret=None, ca_file=tmp_path / "ca.pem", timeout_s=1.0
    )
    with pytest.raises(UnavailableNowError, match="cannot connect"):
        receiver.open()

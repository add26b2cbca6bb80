"""Sparkplug B as a host sees it that is not ours: births, data, deaths, and nothing lost between them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from edge.observe.metrics import Metrics
from edge.publish import Message, Sink
from edge.publish.fields import Selection
from edge.publish.memory import MemoryOutbox
from edge.publish.outbox import Delivery
from edge.publish.sparkplug import BirthCount, SparkplugSink
from edge.publish.sparkplug_payload import METRICS, wants_rebirth
from tests.brokers import Mosquitto, until
from tests.publish.rigs import Subscriber, new_sparkplug, settle_until, step_until
from tests.publish.sparkplug_consumer import Host

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def host(broker: Mosquitto) -> Iterator[Host]:
    host = Host(broker.port)
    yield host
    host.close()


def verdict(row_id: int, created_unix_s: float | None = None, **fields: Any) -> Message:
    created = datetime.fromtimestamp(time.time() if created_unix_s is None else created_unix_s, UTC)
    body = {
        "resultId": f"R{row_id}", "resultType": "frame", "recipeId": "bracket", "partId": "P1",
        "batchId": "B1", "creationTime": created.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "view": "01",
        "resultState": 1, "resultEvaluation": "NotOK", "reasons": ["score_above_threshold", "dark"],
        "score": 1.5, "threshold": 1.0, "defects": [{}, {}], "isPartial": False, "isSimulated": False,
    }  # fmt: skip
    return Message(row_id, "frame", f"R{row_id}", json.dumps(body | fields).encode())


def born(sink: SparkplugSink) -> SparkplugSink:
    step_until(sink, lambda: sink.connected, "births are out")
    return sink


def stepped(sink: SparkplugSink, now_s: float, condition: Callable[[], bool]) -> None:
    """Stepped at one moment until `condition()`."""

    def done() -> bool:
        sink.step(now_s)
        return condition()

    until(done, "stepped")


def deliver(sink: SparkplugSink, messages: list[Message]) -> None:
    """Hand over as an outbox does, until all are delivered."""
    left = list(messages)

    def sent() -> bool:
        while left and sink.capacity() > 0:
            sink.send(left.pop(0))
        return not left

    settled = settle_until(sink, lambda total: sent() and len(total.delivered) == len(messages), "delivered")
    assert (settled.lost, settled.refused) == ((), ())


def test_birth_then_data_then_death(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path))
    deliver(sink, [verdict(1)])
    sink.close(5.0)
    until(lambda: host.of("NDEATH"), "death")
    assert [message["verb"] for message in host.messages] == ["NBIRTH", "DBIRTH", "DDATA", "NDEATH"]
    assert [message["seq"] for message in host.messages] == [0, 1, 2, None]
    # pysparkplug subscribes at QoS 1, so that it sees what was published
    assert [message["qos"] for message in host.messages] == [0, 0, 0, 1]
    assert not any(message["retain"] for message in host.messages)
    birth, device, data, death = host.messages
    assert birth["values"]["bdSeq"] == death["values"]["bdSeq"] == 0
    assert birth["types"]["bdSeq"] == "INT64"
    assert birth["values"]["Node Control/Rebirth"] is False
    assert device["device"] == data["device"] == "bracket"
    assert set(data["values"]) <= set(device["values"]), "every metric is born before it comes"
    assert device["values"]["Properties/bundle"] == "bracket"
    values = data["values"]
    assert (values["frame/resultId"], values["frame/resultEvaluation"]) == ("R1", "NotOK")
    assert (values["frame/score"], values["frame/defects"]) == (1.5, 2)
    assert values["frame/reasons"] == "score_above_threshold, dark"
    assert values["frame/scoreRaw"] is None
    assert json.loads(values["frame/json"])["partId"] == "P1"
    assert len(values) == len(METRICS["frame"])
    assert data["historical"] == [False]


def test_sequence_has_no_gap_over_600_verdicts(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path))
    deliver(sink, [verdict(row) for row in range(600)])
    until(lambda: len(host.of("DDATA")) == 600, "all of them")
    assert [message["seq"] for message in host.messages] == [number % 256 for number in range(602)]
    assert host.frames() == [f"R{row}" for row in range(600)]
    sink.close(1.0)


def test_rebirth_is_done_on_request_and_shows_the_last_verdict(
    broker: Mosquitto, host: Host, tmp_path: Path
) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path, rebirth_rest_s=0.0))
    deliver(sink, [verdict(1)])
    host.ask_rebirth()
    step_until(sink, lambda: len(host.of("DBIRTH")) == 2, "born again")
    first, again = host.of("NBIRTH")
    assert again["values"]["bdSeq"] == first["values"]["bdSeq"]
    assert again["seq"] == 0
    assert host.of("DBIRTH")[1]["values"]["frame/resultId"] == "R1"
    deliver(sink, [verdict(2)])
    until(lambda: host.frames() == ["R1", "R2"], "it goes on")
    assert host.of("DDATA")[1]["seq"] == 2
    assert host.of("DDATA")[1]["historical"] == [False]
    assert host.of("NDEATH") == []
    sink.close(1.0)


def test_many_requests_for_a_rebirth_are_one(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    sink = new_sparkplug(broker.port, tmp_path, rebirth_rest_s=10.0)
    clock_s = time.monotonic()
    stepped(sink, clock_s, lambda: sink.connected)
    commands = Subscriber(broker.port, "spBv1.0/plant/NCMD/#")
    for _ in range(5):
        host.ask_rebirth()
    until(lambda: len(commands.messages) == 5, "all asked")
    stepped(sink, clock_s + 9, lambda: sink._rebirth_asked)
    assert len(host.of("NBIRTH")) == 1
    sink.step(clock_s + 10)
    sink.step(clock_s + 11)
    until(lambda: len(host.of("NBIRTH")) == 2, "one rebirth")
    sink.close(1.0)
    until(lambda: host.of("NDEATH"), "death")
    assert len(host.of("NBIRTH")) == 2
    commands.close()


@pytest.mark.parametrize("body", [b"", b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", b"{}" * 5000])
def test_command_that_makes_no_sense_asks_for_nothing(body: bytes) -> None:
    assert not wants_rebirth(body)


def test_retained_command_is_no_command(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    someone = Subscriber(broker.port, "spBv1.0/plant/NCMD/#")
    host.ask_rebirth()
    until(lambda: someone.messages, "the bytes of a request")
    someone.publish("spBv1.0/plant/NCMD/st", bytes(someone.messages[0].payload), retain=True)
    until(lambda: len(someone.messages) == 2, "it lies there")
    sink = born(new_sparkplug(broker.port, tmp_path, rebirth_rest_s=0.0))
    deliver(sink, [verdict(1)])  # its proof subscribes again, so that the command comes again
    deliver(sink, [verdict(2)])
    until(lambda: host.frames() == ["R1", "R2"], "both")
    assert len(host.of("NBIRTH")) == 1
    sink.close(1.0)
    someone.close()


def test_bd_seq_counts_connections_over_restarts_and_wraps(tmp_path: Path) -> None:
    assert [BirthCount(tmp_path / "n").next() for _ in range(3)] == [0, 1, 2]
    (tmp_path / "n").write_text("254")
    assert [BirthCount(tmp_path / "n").next() for _ in range(3)] == [255, 0, 1]
    (tmp_path / "n").write_text("garbage")
    assert BirthCount(tmp_path / "n").next() == 0


def test_bd_seq_that_cannot_be_kept_is_said_and_tried_again(broker: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sink = new_sparkplug(broker.port, tmp_path, count=BirthCount(tmp_path / "file" / "bdseq"))
    sink.step(time.monotonic())
    assert "bdSeq" in sink.last_error
    (tmp_path / "file").unlink()
    (tmp_path / "file").mkdir()
    born(sink)
    sink.close(1.0)


def test_broker_restart_loses_nothing_and_flags_what_waited(
    broker: Mosquitto, host: Host, tmp_path: Path
) -> None:
    store, wake = MemoryOutbox(), threading.Event()
    sink = new_sparkplug(broker.port, tmp_path, wake=wake)
    delivery = outbox(sink, store, wake)
    for row in range(1, 31):
        store.add(verdict(row))
    until(lambda: (delivery.step(time.monotonic()), store.depth("sparkplug") == 0)[1], "first")
    before = host.subscribed
    broker.kill()
    until(lambda: (delivery.step(time.monotonic()), not sink.connected)[1], "gone")
    for row in range(31, 61):
        store.add(verdict(row))
    broker.start()
    until(lambda: host.subscribed > before, "the host is back")
    until(lambda: (delivery.step(time.monotonic()), store.depth("sparkplug") == 0)[1], "the rest")
    until(lambda: len(set(host.frames())) == 60, "all of them")
    flags = {message["values"]["frame/resultId"]: message["historical"] for message in host.of("DDATA")}
    assert flags["R60"] == [True]
    assert flags["R1"] in ([False], [True])  # made before the first birth, or after it
    assert [message["values"]["bdSeq"] for message in host.of("NBIRTH")][-1] >= 1
    store.add(verdict(61))
    until(lambda: (delivery.step(time.monotonic()), "R61" in host.frames())[1], "and on")
    assert host.of("DDATA")[-1]["historical"] == [False]
    delivery.close(2.0)


def outbox(sink: Sink, store: MemoryOutbox, wake: threading.Event) -> Delivery:
    metrics = Metrics(CollectorRegistry())
    return Delivery(sink, store, wake=wake, meter=metrics, log=structlog.get_logger(), jitter=lambda: 0.0)


def test_primary_host_that_is_offline_loses_nothing(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    store, wake = MemoryOutbox(), threading.Event()
    sink = new_sparkplug(broker.port, tmp_path, wake=wake, primary_host="scada")
    delivery = outbox(sink, store, wake)
    store.add(verdict(1))
    until(lambda: (delivery.step(time.monotonic()), "no word" in sink.last_error)[1], "waits for the host")
    assert not sink.connected
    host.state(True, 1000)
    until(lambda: (delivery.step(time.monotonic()), store.depth("sparkplug") == 0)[1], "host is there")
    until(lambda: host.frames() == ["R1"], "the verdict")
    assert host.of("DDATA")[0]["historical"] == [True]
    host.state(False, 999)  # of an older session: it does not count
    store.add(verdict(2))
    until(lambda: (delivery.step(time.monotonic()), "R2" in host.frames())[1], "still there")
    assert host.of("DDATA")[1]["historical"] == [False]
    host.state(False, 1000)
    until(lambda: (delivery.step(time.monotonic()), host.of("NDEATH"))[1], "death")
    store.add(verdict(3))
    until(lambda: (delivery.step(time.monotonic()), "offline" in sink.last_error)[1], "waits again")
    assert store.depth("sparkplug") == 1
    host.state(True, 2000)
    until(lambda: (delivery.step(time.monotonic()), "R3" in host.frames())[1], "delivered after all")
    assert host.frames() == ["R1", "R2", "R3"]
    assert host.of("DDATA")[2]["historical"] == [True]
    first, second = (message["values"]["bdSeq"] for message in host.of("NBIRTH"))
    assert second > first
    assert host.of("NDEATH")[0]["values"]["bdSeq"] == first
    delivery.close(2.0)


@pytest.mark.parametrize(
    "body", [b"ONLINE", b"[]", b'{"online": true}', b'{"online": "true", "timestamp": 1}']
)
def test_state_that_makes_no_sense_does_not_count(broker: Mosquitto, tmp_path: Path, body: bytes) -> None:
    someone = Subscriber(broker.port, "spBv1.0/STATE/#")
    someone.publish("spBv1.0/STATE/scada", body, retain=True)
    until(lambda: someone.messages, "it lies there")
    sink = new_sparkplug(broker.port, tmp_path, primary_host="scada")
    step_until(sink, lambda: sink._limits is not None and not sink._asked, "subscribed")
    someone.publish("spBv1.0/STATE/scada", b'{"online": true, "timestamp": 5}')
    born(sink)
    sink.close(1.0)
    someone.close()


def test_change_of_recipes_ends_devices_and_begins_others(
    broker: Mosquitto, host: Host, tmp_path: Path
) -> None:
    info: dict[str, Any] = {"recipes": {"bracket": {}, "gear": {}}}
    sink = born(new_sparkplug(broker.port, tmp_path, info=lambda: dict(info)))
    info["recipes"] = {"bracket": {}, "lid": {}}
    step_until(sink, lambda: len(host.of("NBIRTH")) == 2 and len(host.of("DBIRTH")) == 4, "born again")
    assert [message["device"] for message in host.of("DDEATH")] == ["gear"]
    assert [message["device"] for message in host.of("DBIRTH")] == ["bracket", "gear", "bracket", "lid"]
    sink.close(1.0)


def test_verdict_of_a_recipe_that_is_no_more_gets_its_birth(
    broker: Mosquitto, host: Host, tmp_path: Path
) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path))
    deliver(sink, [verdict(1, recipeId="old"), verdict(2, recipeId="old")])
    until(lambda: host.frames() == ["R1", "R2"], "both")
    assert [message["device"] for message in host.of("DBIRTH")] == ["bracket", "old"]
    sink.close(1.0)


def test_parts_and_reviews_are_data_of_their_own(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path))
    part = Message(1, "part", "R1", verdict(1, resultType="part", missingViews=["02"]).body)
    said = {
        "reviewId": "V1", "resultId": "R1", "evaluation": "OK", "agrees": False, "reason": "dust",
        "reviewer": "Kim", "createdAt": "2026-11-20T10:15:30.123456Z", "recipeId": "bracket",
    }  # fmt: skip
    review = Message(2, "review", "R1", json.dumps(said).encode())
    deliver(sink, [part, review])
    until(lambda: len(host.of("DDATA")) == 2, "both")
    first, second = (message["values"] for message in host.of("DDATA"))
    assert (first["part/resultId"], first["part/missingViews"]) == ("R1", "02")
    assert (second["review/reviewId"], second["review/agrees"], second["review/reason"]) == (
        "V1",
        False,
        "dust",
    )
    assert second["review/createdAt"].startswith("2026-11-20T10:15:30.123")
    assert not any(name.startswith("frame/") for name in (*first, *second))
    sink.close(1.0)


def test_repeat_after_a_lost_connection_has_the_same_result_id(
    broker: Mosquitto, host: Host, tmp_path: Path
) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path))
    row = verdict(1)
    sink.send(row)  # no step: nobody asks for a proof of it
    until(lambda: host.frames() == ["R1"], "it arrives")
    before = host.subscribed
    broker.restart()
    settle_until(sink, lambda total: total.lost == (1,), "its proof does not")
    until(lambda: host.subscribed > before, "the host is back")
    deliver(born(sink), [row])
    until(lambda: host.frames() == ["R1", "R1"], "once more, told by its resultId")
    assert host.of("DDATA")[1]["historical"] == [True]
    sink.close(1.0)


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"[]",
        b'{"recipeId": "b", "resultState": -1}',
        b'{"recipeId": "b", "view": "\\ud800"}',
        b'{"resultId": "R"}',
        b'{"recipeId": "b", "score": []}',
        b'{"recipeId": "b", "reasons": [3]}',
    ],
)
def test_row_that_is_no_verdict_is_refused_not_fatal(broker: Mosquitto, tmp_path: Path, body: bytes) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path))
    sink.send(Message(1, "frame", "R1", body))
    assert [row for row, _ in sink.settled().refused] == [1]
    deliver(sink, [verdict(2)])
    assert sink.last_error == ""
    sink.close(1.0)


def test_broker_that_stops_answering_is_given_up(broker: Mosquitto, tmp_path: Path) -> None:
    sink = new_sparkplug(broker.port, tmp_path, ack_timeout_s=3.0)
    now_s = time.monotonic()
    stepped(sink, now_s, lambda: sink.connected)
    broker.freeze()
    sink.send(verdict(1))
    sink.step(now_s)
    sink.step(now_s + 3)
    assert sink.connected
    sink.step(now_s + 3.1)
    assert not sink.connected
    assert "acknowledge" in sink.last_error
    assert sink.settled().lost == (1,)
    broker.thaw()
    sink.close(1.0)


def test_nothing_counts_as_delivered_before_the_broker_read_it(broker: Mosquitto, tmp_path: Path) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path))
    broker.freeze()
    sink.send(verdict(1))
    for _ in range(50):
        sink.step(time.monotonic())
    assert sink.settled().delivered == ()
    assert sink.capacity() == 19
    broker.thaw()
    settle_until(sink, lambda total: total.delivered == (1,), "read")
    sink.close(1.0)


def test_fields_that_are_left_out_are_null(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    select = Selection.of(("-score", "-recipeId", "-reasons")).apply
    sink = born(new_sparkplug(broker.port, tmp_path, select=select))
    deliver(sink, [verdict(1)])
    until(lambda: host.frames() == ["R1"], "the verdict")
    [data] = host.of("DDATA")
    assert data["device"] == "bracket"
    assert data["values"]["frame/score"] is data["values"]["frame/reasons"] is None
    assert "score" not in json.loads(data["values"]["frame/json"])
    assert data["values"]["frame/threshold"] == 1.0
    sink.close(1.0)


def test_goodbye_waits_for_the_proof_of_what_was_sent(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    sink = born(new_sparkplug(broker.port, tmp_path))
    for row in range(20):
        sink.send(verdict(row))
    sink.close(5.0)
    assert sink.settled().delivered == tuple(range(20))
    until(lambda: host.of("NDEATH"), "death")
    assert [message["verb"] for message in host.messages] == ["NBIRTH", "DBIRTH", *["DDATA"] * 20, "NDEATH"]
    assert len(host.of("NDEATH")) == 1, "the broker keeps the will to itself"


def test_command_that_is_too_long_is_not_even_read(broker: Mosquitto, host: Host, tmp_path: Path) -> None:
    someone = Subscriber(broker.port, "spBv1.0/plant/NCMD/#")
    host.ask_rebirth()
    until(lambda: someone.messages, "the bytes of a request")
    sink = born(new_sparkplug(broker.port, tmp_path, rebirth_rest_s=0.0))
    request = bytes(someone.messages[0].payload)
    someone.publish("spBv1.0/plant/NCMD/st", request * 10_000)
    until(lambda: len(someone.messages) == 2, "it was sent")
    deliver(sink, [verdict(1)])
    deliver(sink, [verdict(2)])
    until(lambda: host.frames() == ["R1", "R2"], "both")
    assert len(host.of("NBIRTH")) == 1
    someone.publish("spBv1.0/plant/NCMD/st", request)
    step_until(sink, lambda: len(host.of("NBIRTH")) == 2, "one of the usual length counts")
    sink.close(1.0)
    someone.close()


def test_absences_of_the_host_do_not_add_up_to_longer_and_longer_waits(
    broker: Mosquitto, tmp_path: Path
) -> None:
    someone = Subscriber(broker.port, "spBv1.0/STATE/#")
    sink = new_sparkplug(broker.port, tmp_path, primary_host="scada")
    now_s = time.monotonic()
    for number in range(1, 6):  # each time connected for a quarter of an hour
        someone.publish(
            "spBv1.0/STATE/scada", b'{"online": true, "timestamp": %d}' % (2 * number), retain=True
        )
        stepped(sink, now_s, lambda: sink.connected)
        now_s += 900
        someone.publish(
            "spBv1.0/STATE/scada", b'{"online": false, "timestamp": %d}' % (2 * number + 1), retain=True
        )
        stepped(sink, now_s, lambda: sink._connection is None)
        assert sink._next_attempt_s - now_s <= 0.5
        now_s += 1
    sink.close(1.0)
    someone.close()

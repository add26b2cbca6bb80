"""The MQTT sink with amqtt, the broker inside `edge demo`, which speaks 3.1.1 only."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.brokers import Amqtt, until
from tests.publish.rigs import Subscriber, message, new_sink, settle_until, step_until


@pytest.fixture
def embedded() -> Iterator[Amqtt]:
    broker = Amqtt().start()
    yield broker
    broker.stop()


def test_verdicts_and_announcements_pass(embedded: Amqtt) -> None:
    consumer = Subscriber(embedded.port, session="mes")
    sink = new_sink(embedded.port, protocol=311)
    step_until(sink, lambda: sink.capacity() == 20, "connected and announced")
    for row_id in range(1, 21):
        sink.send(message(row_id))
    settle_until(sink, lambda total: total.delivered == tuple(range(1, 21)), "acknowledged")
    until(lambda: len(consumer.result_ids()) == 20, "received")
    assert consumer.result_ids() == [f"R{row}" for row in range(1, 21)]
    sink.close(5.0)
    until(lambda: consumer.bodies("available") == [b"online", b"offline"], "goodbye")
    assert [json.loads(body) for body in consumer.bodies("info")] == [{"version": "1"}]
    consumer.close()

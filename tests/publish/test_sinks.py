"""The contract of a sink, over the real one and the double."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edge.publish import MAX_IN_FLIGHT, Settled
from tests.brokers import until
from tests.publish.rigs import Rig, message, settle_until, step_until


def send(rig: Rig, row_ids: Sequence[int]) -> Settled:
    """Hand over and wait until all rows are settled."""
    before = step_until(rig.sink, lambda: rig.sink.capacity() >= len(row_ids), "capacity")
    assert before == Settled()
    for row_id in row_ids:
        rig.sink.send(message(row_id))

    def all_settled(total: Settled) -> bool:
        return len(total.delivered) + len(total.refused) + len(total.lost) == len(row_ids)

    return settle_until(rig.sink, all_settled, "settled")


def test_takes_nothing_before_it_is_connected(rig: Rig) -> None:
    assert not rig.sink.connected
    assert rig.sink.capacity() == 0


def test_connects_by_stepping_and_takes_at_most_twenty(rig: Rig) -> None:
    step_until(rig.sink, lambda: rig.sink.capacity() > 0)
    assert rig.sink.connected
    assert rig.sink.capacity() <= MAX_IN_FLIGHT
    assert rig.sink.last_error == ""


def test_rows_arrive_in_order_and_are_settled_once(rig: Rig) -> None:
    rows = list(range(1, 16))
    settled = send(rig, rows)
    assert settled == Settled(delivered=tuple(rows))
    until(lambda: len(rig.received()) == 15, "all received")
    assert rig.received() == [f"R{row}" for row in rows]
    rig.sink.step(1e9)
    assert rig.sink.settled() == Settled()


def test_capacity_shrinks_by_what_is_in_flight(rig: Rig) -> None:
    step_until(rig.sink, lambda: rig.sink.capacity() == MAX_IN_FLIGHT, "announcements are through")
    rig.sink.send(message(1))
    rig.sink.send(message(2))
    assert rig.sink.capacity() == MAX_IN_FLIGHT - 2


def test_connection_lost_gives_every_row_back_and_it_reconnects(rig: Rig) -> None:
    step_until(rig.sink, lambda: rig.sink.capacity() >= 5)
    rig.freeze()
    for row_id in range(5):
        rig.sink.send(message(row_id))
    rig.go_down()
    settled = step_until(rig.sink, lambda: not rig.sink.connected)
    assert rig.sink.capacity() == 0
    assert settled == Settled(lost=(0, 1, 2, 3, 4))
    assert rig.sink.last_error
    rig.come_up()
    assert send(rig, [0, 1]).delivered == (0, 1)
    until(lambda: rig.received()[-2:] == ["R0", "R1"], "received after all")


@pytest.mark.parametrize(
    "rig", ["memory", "mqtt-5", "webhook"], indirect=True
)  # the others have no word for it
def test_refused_rows_come_back_with_the_reason(rig: Rig) -> None:
    rig.refuse(True)
    settled = send(rig, [7])
    assert settled.delivered == settled.lost == ()
    [(row, reason)] = settled.refused
    assert row == 7
    assert "authorized" in reason.lower()
    assert "authorized" in rig.sink.last_error.lower()
    assert rig.received() == []
    rig.refuse(False)
    assert send(rig, [7]).delivered == (7,)
    assert rig.sink.last_error == ""


def test_close_is_final_and_can_be_repeated(rig: Rig) -> None:
    step_until(rig.sink, lambda: rig.sink.capacity() > 0)
    rig.sink.send(message(1))
    rig.sink.close(5.0)
    rig.sink.close(5.0)
    assert not rig.sink.connected
    assert rig.sink.settled().delivered == (1,)
    rig.sink.step(1e9)
    assert not rig.sink.connected
    assert rig.sink.capacity() == 0


def test_close_before_connecting_returns(rig: Rig) -> None:
    rig.sink.close(1.0)
    assert not rig.sink.connected

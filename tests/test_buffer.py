import threading

from edge.buffer import Buffer


def test_weight_bounds_what_is_inside() -> None:
    buffer: Buffer[str] = Buffer(10)
    assert buffer.put("a", 6, timeout_s=0)
    assert not buffer.put("b", 6, timeout_s=0)
    assert buffer.has_room()
    assert buffer.take(5) == ["a"]
    assert buffer.put("huge", 99, timeout_s=0)
    assert not buffer.has_room()


def test_taking_stops_at_the_weight_but_gives_at_least_one() -> None:
    buffer: Buffer[int] = Buffer(100)
    for item in range(4):
        buffer.put(item, 10)
    assert buffer.take(9, max_weight=25) == [0, 1]
    assert buffer.take(9, max_weight=1) == [2]
    assert buffer.take(9) == [3]
    assert buffer.take(9) == []


def test_a_waiting_producer_goes_on_when_there_is_room() -> None:
    buffer: Buffer[int] = Buffer(1)
    buffer.put(1)
    producer = threading.Thread(target=buffer.put, args=(2,))
    producer.start()
    assert buffer.take(1, timeout_s=5) == [1]
    assert buffer.take(1, timeout_s=5) == [2]
    producer.join(5)
    assert not producer.is_alive()

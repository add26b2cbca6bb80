"""A sink and an outbox in memory, with faults on demand: the doubles that the contract suites run over."""

from __future__ import annotations

from collections.abc import Sequence

from edge.publish import MAX_IN_FLIGHT, Message, Settled


class MemorySink:
    """A receiver that can be told to misbehave.

    `up = False`: cannot be reached. `refuse = "reason"`: refuses everything, or only the kinds in
    `refused_kinds`. `hold = True`: acknowledges nothing. `disconnect()`: breaks the connection under what is
    in flight.
    """

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.connected = False
        self.last_error = ""
        self.up = True
        self.refuse = ""
        self.refused_kinds: tuple[str, ...] = ()  # empty: all of them
        self.hold = False
        self.received: list[Message] = []  # as the consumer saw them; a lost row may be here as well
        self.connections = 0
        self._in_flight: list[Message] = []
        self._settled = Settled()
        self._closed = False

    def step(self, now_s: float) -> None:
        if self.connected and not self.up:
            self.disconnect()
        if not self.connected and self.up and not self._closed:
            self.connected = True
            self.connections += 1
            self.last_error = ""
        if self.connected and not self.hold:
            self.acknowledge(len(self._in_flight))

    def capacity(self) -> int:
        return MAX_IN_FLIGHT - len(self._in_flight) if self.connected else 0

    def send(self, message: Message) -> None:
        if not self.connected:
            self._settle(lost=(message.row_id,))
            return
        self._in_flight.append(message)

    def settled(self) -> Settled:
        settled, self._settled = self._settled, Settled()
        return settled

    def close(self, timeout_s: float) -> None:
        if self.connected and not self.hold:
            self.acknowledge(len(self._in_flight))
        self.disconnect()
        self._closed = True

    def acknowledge(self, count: int) -> None:
        """Answer the first `count` messages in flight: refused if `refuse` says so, else received."""
        answered, self._in_flight = self._in_flight[:count], self._in_flight[count:]
        for message in answered:
            if self.refuse and (not self.refused_kinds or message.kind in self.refused_kinds):
                self.last_error = self.refuse
                self._settle(refused=((message.row_id, self.refuse),))
            else:
                self.received.append(message)
                self.last_error = ""
                self._settle(delivered=(message.row_id,))

    def disconnect(self, arrived: int = 0) -> None:
        """Break the connection; the first `arrived` messages in flight did reach the consumer."""
        self.received += self._in_flight[:arrived]
        lost, self._in_flight = self._in_flight, []
        self.connected = False
        self.last_error = "disconnected"
        self._settle(lost=tuple(message.row_id for message in lost))

    def _settle(
        self,
        delivered: tuple[int, ...] = (),
        refused: tuple[tuple[int, str], ...] = (),
        lost: tuple[int, ...] = (),
    ) -> None:
        old = self._settled
        self._settled = Settled(old.delivered + delivered, old.refused + refused, old.lost + lost)


class MemoryOutbox:
    """An `OutboxStore` in a dict; `fail` is raised by the next call, once."""

    def __init__(self, created_unix_s: float = 0.0) -> None:
        self.rows: dict[int, Message] = {}
        self.fail: Exception | None = None
        self._created_unix_s = created_unix_s

    def add(self, message: Message) -> None:
        self.rows[message.row_id] = message

    def pending(self, sink: str, after_row_id: int, limit: int) -> list[Message]:
        self._maybe_fail()
        return [self.rows[row] for row in sorted(self.rows) if row > after_row_id][:limit]

    def delete(self, sink: str, row_ids: Sequence[int]) -> None:
        self._maybe_fail()
        for row_id in row_ids:
            self.rows.pop(row_id, None)

    def depth(self, sink: str) -> int:
        return len(self.rows)

    def oldest_unix_s(self, sink: str) -> float | None:
        return self._created_unix_s if self.rows else None

    def _maybe_fail(self) -> None:
        error, self.fail = self.fail, None
        if error is not None:
            raise error

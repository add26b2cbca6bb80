"""Getting verdicts to whoever waits for them: an outbox of rows, driven into sinks that may come and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge.types import Message

__all__ = ["MAX_IN_FLIGHT", "Message", "Settled", "Sink"]

MAX_IN_FLIGHT = 20  # handed over and not yet settled, per sink


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of messages since the last call; each handed-over row is in exactly one list, once."""

    delivered: tuple[int, ...] = ()  # acknowledged by the receiver
    refused: tuple[tuple[int, str], ...] = ()  # row, the receiver's reason
    lost: tuple[int, ...] = ()  # the connection ended first: nobody knows whether they arrived


class Sink(Protocol):
    """A receiver of verdicts. All methods are called from one thread; the properties from any."""

    @property
    def name(self) -> str: ...

    @property
    def connected(self) -> bool: ...

    @property
    def last_error(self) -> str:
        """Why it is not connected or what it last refused; empty when all is well."""
        ...

    def step(self, now_s: float) -> None:
        """Connect or reconnect when due, look after the connection; never waits for the network."""
        ...

    def capacity(self) -> int:
        """How many messages it takes now: 0 when not connected, at most MAX_IN_FLIGHT."""
        ...

    def send(self, message: Message) -> None:
        """Hand over without waiting. Only when `capacity()` is positive; the row comes back in `settled`."""
        ...

    def settled(self) -> Settled:
        """What has been settled since the last call."""
        ...

    def close(self, timeout_s: float) -> None:
        """Say goodbye, waiting at most `timeout_s`; what is still in flight comes back as lost."""
        ...

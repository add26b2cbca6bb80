"""A TCP proxy that knows where MQTT packets end, stands between a sink and a real broker, and does harm."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress

from tests.brokers import free_port

PUBLISH, PUBACK = 3, 4  # packet types, MQTT 5, 2.1.2
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero: close sends RST


class Proxy:
    """Forwards `port` to a broker on `target_port`, packet by packet; faults can be set and unset any time.

    `drop_puback_every` n: every n-th PUBACK to the client disappears (1: all, 0: none) ·
    `bytes_per_s`: no faster, towards the broker (0: as fast as it goes) ·
    `half_open`: accepts and swallows everything, both ways, and ends nothing ·
    `reset_after_publishes` n: `reset()` when the n-th publication from now comes ·
    `reset()`: breaks all connections, as a firewall does · `inject(bytes)`: says what the broker did not.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.drop_puback_every = 0
        self.bytes_per_s = 0
        self.half_open = False
        self.reset_after_publishes = 0
        self.seen: Counter[int] = Counter()  # packets by type, from either side
        self.dropped_pubacks = self.connections = 0
        self._target_port = target_port
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def inject(self, garbage: bytes) -> None:
        with self._lock:
            for client in self._sockets[::2]:
                client.sendall(garbage)

    def reset(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            with suppress(OSError):
                one.shutdown(socket.SHUT_RD)  # ends the thread that reads it
            one.close()

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                broker = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()  # as if the broker itself were not there
                continue
            for one in (client, broker):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets += [client, broker]
            for source, target, to_broker in ((client, broker, True), (broker, client, False)):
                threading.Thread(target=self._pump, args=(source, target, to_broker), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, to_broker: bool) -> None:
        received = bytearray()
        with suppress(OSError):
            while chunk := source.recv(65536):
                received += chunk
                while packet := _take_packet(received):
                    self._forward(packet, target, to_broker)
            if not self.half_open:
                target.shutdown(socket.SHUT_WR)

    def _forward(self, packet: bytes, target: socket.socket, to_broker: bool) -> None:
        kind = packet[0] >> 4
        self.seen[kind] += 1
        if self.half_open:
            return
        if to_broker and self.bytes_per_s:
            time.sleep(len(packet) / self.bytes_per_s)
        if to_broker and kind == PUBLISH and self.reset_after_publishes:
            self.reset_after_publishes -= 1
            if self.reset_after_publishes == 0:
                self.reset()
                return
        drop_every = self.drop_puback_every if kind == PUBACK and not to_broker else 0
        if drop_every and self.seen[PUBACK] % drop_every == 0:
            self.dropped_pubacks += 1
            return
        target.sendall(packet)


def _take_packet(received: bytearray) -> bytes:
    """Cut the first whole packet off; empty while there is none. Remaining length: MQTT 5, 1.5.5."""
    length = 0
    for position in range(1, min(5, len(received))):
        length |= (received[position] & 0x7F) << 7 * (position - 1)
        if received[position] < 0x80:
            end = position + 1 + length
            if len(received) < end:
                return b""
            packet = bytes(received[:end])
            del received[:end]
            return packet
    return b""

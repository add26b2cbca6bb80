"""A Sparkplug host that shares nothing with edge: pysparkplug, in a process of its own, as JSON lines.

pysparkplug wants paho-mqtt 1, edge 2: `make` puts it into a folder of its own, `.venv/sparkplug`.
As a program it prints a line for each message; lines on its standard input are commands: "rebirth", or
"state HOST true|false UNIX_MS".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

PACKAGES = Path(os.environ.get("EDGE_SPARKPLUG", Path(sys.prefix) / "sparkplug"))
GROUP, NODE = "plant", "st"


class Host:
    """What the consumer saw, oldest first; each message as a dictionary."""

    def __init__(self, port: int) -> None:
        import pytest

        from tests.brokers import until

        if not (PACKAGES / "pysparkplug").is_dir():
            reason = f"pysparkplug is not in {PACKAGES} (make test puts it there)"
            if os.environ.get("EDGE_REQUIRE_ALL") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        self.messages: list[dict[str, Any]] = []
        self.subscribed = 0
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(PACKAGES)},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        until(lambda: self.subscribed, "the host is subscribed")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said == "subscribed":
                self.subscribed += 1
            else:
                self.messages.append(said)

    def of(self, verb: str) -> list[dict[str, Any]]:
        return [message for message in list(self.messages) if message["verb"] == verb]

    def frames(self) -> list[str]:
        return [message["values"]["frame/resultId"] for message in self.of("DDATA")]

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask_rebirth(self) -> None:
        self._say("rebirth")

    def state(self, online: bool, unix_ms: int, host: str = "scada") -> None:
        self._say(f"state {host} {str(online).lower()} {unix_ms}")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join()
        self._process.stdout.close()


def _main(port: int) -> None:
    import pysparkplug as spb

    def show(line: object) -> None:
        print(json.dumps(line), flush=True)

    def plain(value: Any) -> Any:
        return value.isoformat() if hasattr(value, "isoformat") else value

    def heard(_client: object, message: Any) -> None:
        topic, payload = message.topic, message.payload
        metrics = getattr(payload, "metrics", None)
        if metrics is None and hasattr(payload, "bd_seq_metric"):
            metrics = (payload.bd_seq_metric,)
        metrics = metrics or ()
        show(
            {
                "verb": topic.message_type.value,
                "device": topic.device_id,
                "qos": int(message.qos),
                "retain": bool(message.retain),
                "seq": getattr(payload, "seq", None),
                "values": {m.name: plain(m.value) for m in metrics},
                "types": {m.name: m.datatype.name for m in metrics},
                "historical": sorted({m.is_historical for m in metrics}),
            }
        )  # fmt: skip

    client = spb.Client("host")
    topics = [spb.Topic(group_id=GROUP, message_type="+", edge_node_id=NODE)]
    topics.append(spb.Topic(group_id=GROUP, message_type="+", edge_node_id=NODE, device_id="+"))

    def connected(_client: object) -> None:
        # pysparkplug has no word for SUBACK; paho, which is its own, has
        client._client.on_subscribe = lambda *_: acknowledged()
        for topic in topics:
            client.subscribe(topic, spb.QoS.AT_LEAST_ONCE, heard)

    left = [len(topics)]

    def acknowledged() -> None:
        left[0] -= 1
        if left[0] == 0:
            show("subscribed")
            left[0] = len(topics)

    client.connect("127.0.0.1", port=port, callback=connected)
    for line in sys.stdin:
        verb, *words = line.split()
        if verb == "rebirth":
            metric = spb.Metric(
                spb.get_current_timestamp(), "Node Control/Rebirth", spb.DataType.BOOLEAN, value=True
            )
            message = spb.Message(
                spb.Topic(group_id=GROUP, message_type=spb.MessageType.NCMD, edge_node_id=NODE),
                spb.NCmd(spb.get_current_timestamp(), (metric,)), spb.QoS.AT_MOST_ONCE, False,
            )  # fmt: skip
            client.publish(message, include_dtypes=True)
        else:
            host, online, unix_ms = words
            state = spb.State(int(unix_ms), online == "true")
            topic = spb.Topic(message_type=spb.MessageType.STATE, sparkplug_host_id=host)
            client.publish(spb.Message(topic, state, spb.QoS.AT_LEAST_ONCE, True))
    client.disconnect()


if __name__ == "__main__":
    _main(int(sys.argv[1]))

"""Stands in for `edge run` in the tests of the demonstration: verdicts from file names, no inspection.

Started as `fake_daemon.py CONFIG MODE`. Modes: `honest` answers for every frame and part; `forgetful` leaves
out view 03; `gullible` calls the truncated frame OK; `dead` exits at once; `stubborn` exits with code 70.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import tomllib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

PNG_END = b"IEND\xaeB`\x82"
INCOMPLETE_AFTER_LOOKS = 40  # at 25 a second


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"edge_frames_total 1\n" if self.path == "/metrics" else b"ok\n")

    def log_message(self, *_: object) -> None:
        pass


def verdict(kind: str, path: str, evaluation: str, reasons: list[str]) -> bytes:
    batch, name = path.split("/")
    part, _, view = name.removesuffix(".png").rpartition("_")
    return json.dumps(
        {
            "resultId": f"{kind}:{batch}/{part}" + (f"_{view}" if kind == "frame" else ""),
            "resultType": kind,
            "creationTime": "2026-11-20T10:15:30.123456Z",
            "partId": part,
            "batchId": batch,
            "view": view,
            "resultEvaluation": evaluation,
            "reasons": reasons,
            "image": {"path": path},
        }
    ).encode()


def look(incoming: Path, mode: str, client: Client, done: set[str], looks: Counter[str]) -> None:
    """One scan: answer for complete frames, and for cut off ones after a while."""
    for file in sorted(incoming.rglob("*.png")):
        path = file.relative_to(incoming).as_posix()
        looks[path] += 1
        cut = not file.read_bytes().endswith(PNG_END)
        if path in done or (cut and looks[path] < INCOMPLETE_AFTER_LOOKS):
            continue
        done.add(path)
        if mode == "forgetful" and path.endswith("_03.png"):
            continue
        told = ("NotDecidable", ["truncated"]) if cut and mode != "gullible" else ("OK", [])
        client.publish("edge/demo/result/frame", verdict("frame", path, *told), qos=1)
        stem = path.rpartition("_")[0]
        if sum(other.startswith(stem) for other in done) == 6:
            client.publish("edge/demo/result/part", verdict("part", path, *told), qos=1)


def main() -> int:
    config, mode = Path(sys.argv[1]), sys.argv[2]
    if mode == "dead":
        print("engine refused: just a test")
        return 65
    settings = tomllib.loads(config.read_text())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
    client.connect(settings["mqtt"]["host"], settings["mqtt"]["port"])
    client.loop_start()
    host, port = settings["http"]["listen"].split(":")
    server = ThreadingHTTPServer((host, int(port)), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done: set[str] = set()
    looks: Counter[str] = Counter()
    while not stop.wait(0.04):
        look(config.parent / "incoming", mode, client, done, looks)
    client.disconnect()
    client.loop_stop()
    return 70 if mode == "stubborn" else 0


if __name__ == "__main__":
    sys.exit(main())

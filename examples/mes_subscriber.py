"""A consumer of verdicts: `python mes_subscriber.py [HOST [PORT]]`. Needs only paho-mqtt 2."""

import json
import sqlite3
import sys

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

database = sqlite3.connect("verdicts.sqlite3", check_same_thread=False, isolation_level=None)
database.execute("CREATE TABLE IF NOT EXISTS verdicts (id TEXT PRIMARY KEY, part TEXT, evaluation TEXT)")


def store(client, _userdata, message):
    verdict = json.loads(message.payload)
    row = verdict["resultId"], verdict["partId"], verdict["resultEvaluation"]
    new = database.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", row).rowcount  # no repeats
    client.ack(message.mid, message.qos)  # only now: what is not acknowledged, the broker sends again
    if new:
        print(*row, flush=True)


# a fixed name and no clean session: the broker keeps what comes while this program is away
client = Client(CallbackAPIVersion.VERSION2, "mes-1", clean_session=False, manual_ack=True)
client.on_message = store
client.on_connect = lambda client, *_: client.subscribe("edge/+/result/part", qos=1)
client.connect(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1", int((sys.argv[2:] or ["1883"])[0]))
client.loop_forever()

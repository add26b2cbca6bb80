"""A thousand frames at once while the broker goes away: nothing lost, copies carry the same resultId."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.context import Context, wait
from bench.recipes import blur_recipe
from bench.section import Section, table
from bench.site import Consumer, Daemon, Site, running, site_with_broker
from tests.brokers import Mosquitto

FRAMES = 1000
SIZE = "64x48"
TILE_PX = 32
TEMPLATE = "{batch}/{part}_{view}"
BROKER_AWAY_S = 2.0
QUIET_S = 3.0  # nothing has come for so long, and the outbox is empty: nothing will
# How the broker ends: by SIGTERM as an administrator would, or by SIGKILL as in a power cut; then it saves
# sessions at once instead of every 30 minutes (as Debian ships it), or it would have forgotten its consumers.
ENDS = {"stop": (), "kill": ("autosave_on_changes true", "autosave_interval 1")}


def run(context: Context) -> Section:
    """One burst for each way the broker can end in the middle of it."""
    frames = context.size(FRAMES, 150)
    context.edge("simulate", context.folder / "good", "--parts", 10, "--size", SIZE, "--defect-share", 0,
                 "--burst", "--seed", 7)  # fmt: skip
    context.edge("simulate", context.folder / "staged", "--frames", frames, "--size", SIZE, "--burst",
                 "--seed", 8)  # fmt: skip
    blur_recipe(context, context.folder / "good", TILE_PX, "--template", TEMPLATE)
    outcomes = {end: _burst(context, end, frames) for end in ENDS}
    rows = [
        [f"`{end}` after {o['before']}", f"{o['verdicts']} of {frames}", o["stored"], o["acknowledged"],
         o["duplicates"], o["ids_differ"], f"{o['wall_s']:.1f}", f"{frames / o['wall_s']:.0f}"]
        for end, o in outcomes.items()
    ]  # fmt: skip
    lines = [
        f"{frames:,} PNG frames of {SIZE.replace('x', '×')} px moved into the source within "
        f"{max(o['dropped_s'] for o in outcomes.values()):.2f} s; after a third of the verdicts the broker "
        f"ended, by SIGTERM (`stop`) or SIGKILL (`kill`), and came back {BROKER_AWAY_S:g} s later. The "
        "consumer has a persistent session, QoS 1. Wall time: from the first frame in the folder to the last "
        "verdict at the consumer, the settle time and the broker's absence included.",
        "",
        *table(
            ["broker's end, after so many frames", "frames with a verdict at the consumer", "stored",
             "acknowledged by the broker", "messages more than once", "frames with several resultIds",
             "wall s", "frames/s"],
            rows,
        ),
        "",
        f"Acknowledged counts frames and parts ({outcomes['stop']['parts_expected']} complete parts). What a "
        "killed broker had acknowledged and not passed on is the broker's loss; it was set to "
        f"`{'`, `'.join(ENDS['kill'])}` for that round. "
        f"Part verdicts at the consumer: {', '.join(str(o['parts']) for o in outcomes.values())}.",
    ]  # fmt: skip
    return Section("1,000 frames in one burst, the broker restarted in the middle", lines, outcomes)


def _burst(context: Context, end: str, frames: int) -> dict[str, Any]:
    """Drop the frames, end the broker, count what arrives."""
    folder = context.folder / end
    folder.mkdir()
    for name in ("engines", "calibration"):
        (folder / name).symlink_to(context.folder / name)
    with site_with_broker(folder, *ENDS[end]) as (site, broker, consumer):
        views = [f"{view:02d}" for view in range(1, 7)]
        site.configure("blur", views=views, source={"template": TEMPLATE, "settle_s": 0.3, "rescan_s": 1.0})
        with running(site) as daemon:
            daemon.ready()
            began_s = time.monotonic()
            drop(context.folder / "staged", site.incoming)
            dropped_s = time.monotonic() - began_s
            before = _restart(broker, consumer, end, frames)
            wait(lambda: daemon.judged() >= frames, f"{frames} frames judged", 300)
            wait(lambda: _is_quiet(daemon, consumer), "the last verdict", 120)
            acknowledged = _sum(daemon.metrics(), "edge_outbox_delivered_total")
        return {"dropped_s": dropped_s, "before": before, "wall_s": consumer.verdicts[-1][0] - began_s,
                "acknowledged": acknowledged, "parts_expected": frames // len(views),
                "parts": _complete_parts(consumer), **count(site, consumer)}  # fmt: skip


def count(site: Site, consumer: Consumer) -> dict[str, int]:
    """What arrived, against what is stored."""
    copies = consumer.copies()
    more = [ids for ids in copies.values() if len(ids) > 1]
    return {
        "verdicts": len(copies),
        "stored": len(site.files()),
        "duplicates": sum(len(ids) - 1 for ids in more),
        "ids_differ": sum(len(set(ids)) > 1 for ids in more),
    }


def drop(staged: Path, incoming: Path) -> None:
    """Hard-link every staged frame into the source's folder: there at once, and complete."""
    for file in sorted(staged.rglob("*.png")):
        target = incoming / file.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(file)


def _restart(broker: Mosquitto, consumer: Consumer, end: str, frames: int) -> int:
    """End the broker in the middle and start it again; gives how many verdicts had come by then."""
    wait(lambda: len(consumer.copies()) >= frames // 3, "a third of the verdicts", 120)
    getattr(broker, end)()
    before = len(consumer.copies())
    time.sleep(BROKER_AWAY_S)
    broker.start()
    return before


def _complete_parts(consumer: Consumer) -> int:
    return len({verdict["resultId"] for verdict in consumer.parts() if not verdict["isPartial"]})


def _is_quiet(daemon: Daemon, consumer: Consumer) -> bool:
    """Nothing waits in the outbox, and nothing has come for a while."""
    silent_s = time.monotonic() - consumer.verdicts[-1][0]
    return _sum(daemon.metrics(), "edge_outbox_depth") == 0 and silent_s > QUIET_S


def _sum(metrics: dict[str, float], name: str) -> int:
    return round(sum(value for series, value in metrics.items() if series.partition("{")[0] == name))

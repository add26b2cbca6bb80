"""What a daemon's installation weighs, that it needs no torch, and how long it takes to its first verdict."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.burst import drop
from bench.context import Context, FailedError, wait
from bench.section import Section, table
from bench.site import running, site_with_broker
from bench.venv import InstallError, Venv, clean_environment, install

LIMIT_MB = 600
LARGEST = 10
SETTLE_S = 1.0  # as shipped


def run(context: Context) -> Section:
    """Install without extras, weigh it, start it twice."""
    context.commands.append("python3 -m venv venv && venv/bin/pip install -c constraints.txt .")
    began_s = time.monotonic()
    try:
        venv = install(context.folder / "venv")
    except InstallError as error:
        raise FailedError(f"pip install .: {error}") from None
    install_s = time.monotonic() - began_s
    sizes = venv.sizes_mb()
    tried = venv.run(venv.python, "-c", "import torch", cwd=venv.folder)
    no_torch = "No module named 'torch'" in tried.stderr
    size = context.size(1024, 256), context.size(700, 192)
    starts = _starts(context, venv, f"{size[0]}x{size[1]}")
    total = sum(sizes.values())
    lines = [
        f"`pip install -c constraints.txt .` into a fresh environment ({install_s:.0f} s here; no extras) "
        f"adds **{total:.0f} MB to site-packages** (limit {LIMIT_MB}: "
        f"{'kept' if total <= LIMIT_MB else 'BROKEN'}; disk blocks, byte code included). "
        f"`import torch` there: {'no such module, as it should be' if no_torch else 'WORKS, it should not'}.",
        "",
        *table(["largest", "MB"], [[name, f"{mb:.1f}"] for name, mb in sizes.most_common(LARGEST)]),
        "",
        f"`venv/bin/edge run` with a `cae` engine and one {size[0]}×{size[1]} frame waiting, from the start "
        f"of the process, in seconds; of the time to the verdict {SETTLE_S:g} s is the settle time. "
        "The page cache is warm in both.",
        "",
        *table(
            ["start", "/readyz", "first verdict at the consumer"],
            [[name, f"{s['ready_s']:.2f}", f"{s['verdict_s']:.2f}"] for name, s in starts.items()],
        ),
    ]
    facts = {"site_packages_mb": total, "largest_mb": dict(sizes.most_common(LARGEST)), "no_torch": no_torch,
             "install_s": install_s, "starts": starts}  # fmt: skip
    return Section("Installed size and start", lines, facts)


def _starts(context: Context, venv: Venv, size: str) -> dict[str, dict[str, Any]]:
    """A first start without compiled engine, and one that finds it compiled."""
    context.edge("simulate", context.folder / "good", "--frames", 24, "--views", "01", "--size", size,
                 "--defect-share", 0, "--burst")  # fmt: skip
    context.edge("learn", context.folder / "good", "--recipe", "cae", "--model", "cae", "--steps", 4)
    context.commands.append("venv/bin/edge run --config config.toml")
    starts = {}
    with site_with_broker(context.folder) as (site, _, consumer):
        site.configure("cae", source={"template": "{batch}/{part}_{view}", "settle_s": SETTLE_S})
        for name in ("nothing compiled", "compiled before"):
            batch = context.folder / name.split()[0]
            context.edge("simulate", batch, "--frames", 1, "--size", size, "--views", "01", "--burst",
                         "--batch", name.split()[0], note=False)  # fmt: skip
            drop(batch, site.incoming)
            seen = len(consumer.verdicts)
            with running(site, command=[str(venv.edge)], env=clean_environment()) as daemon:
                ready_s = daemon.ready()
                wait(lambda n=seen: len(consumer.frames()) > n, "the first verdict", 60)  # type: ignore[misc]
                starts[name] = {
                    "ready_s": ready_s,
                    "verdict_s": consumer.verdicts[seen][0] - daemon.started_s,
                    "evaluation": consumer.frames()[-1]["resultEvaluation"],
                }
    _check_outside_checkout(venv, context.folder)
    return starts


def _check_outside_checkout(venv: Venv, folder: Path) -> None:
    """What was started is what was installed."""
    where = venv.run(venv.python, "-c", "import edge; print(edge.__file__)", cwd=folder).stdout.strip()
    if not Path(where).is_relative_to(venv.folder):
        raise FailedError(f"the environment imports edge from {where}")

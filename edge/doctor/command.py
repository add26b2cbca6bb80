"""The command: every check in turn, for people or programs."""

from __future__ import annotations

import json as jsonlib
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from edge import __version__
from edge.config import Settings
from edge.doctor import installation, machine, site
from edge.doctor.finding import Finding, count, read

EXIT_FAULT = 1


def run_doctor(*, config: Path | None, gpu: bool, json: bool) -> int:
    """Look at everything and print it; 0 if nothing keeps edge from running, 1 if something does.

    Raises:
        UnavailableError: with `gpu`, no GPU can be used.
        BundleError: with `gpu`, one answers wrongly.
    """
    findings, settings = examine(config)
    proof = None
    if gpu:
        from edge.gpu_proof import prove_gpus

        proof = prove_gpus(settings, progress=lambda sentence: print(sentence, file=sys.stderr))
    if json:
        document = {
            "ok": not _faults(findings),
            "edge": __version__,
            "findings": [asdict(f) for f in findings],
        }
        print(jsonlib.dumps(document | ({} if proof is None else {"gpu": proof.document()})))
    else:
        print("\n".join([*lines(findings), *([] if proof is None else ["", *proof.lines()])]))
    if proof is not None:
        proof.raise_if_bad()
    return EXIT_FAULT if _faults(findings) else 0


def examine(config: Path | None, root: Path = Path("/")) -> tuple[list[Finding], Settings | None]:
    """Every check, and the site if its configuration can be read. `root` holds proc, sys, etc, for tests."""
    about_config, settings = site.check_config(config)
    findings = [
        *installation.check_python(sys.version_info[:2]),
        *installation.check_packages(),
        *installation.check_engine(),
        *machine.check_cpu(root),
        *machine.check_cores(root, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0),
        *machine.check_memory(root),
        *machine.check_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        *machine.check_inotify(root),
        *machine.check_disk(Path.cwd() if settings is None else settings.paths.state),
        *machine.check_clock(time.time(), machine.clock_state()),
        *machine.check_confinement(read(root / "proc/self/status"), machine.landlock_version()),
        *installation.check_gpu(root),
        *about_config,
    ]
    if settings is not None:
        findings += _of_site(settings, root)
    return findings, settings


def _of_site(settings: Settings, root: Path) -> Iterator[Finding]:
    from edge.doctor.agreement import check_agreement
    from edge.doctor.broker import check_broker

    yield from site.check_sources(settings, root)
    yield from site.check_service_user(settings, root)
    yield from check_agreement(settings)
    if settings.mqtt.enabled:
        yield from check_broker(settings.mqtt, settings.station.name, os.environ)
    broker = settings.sparkplug.broker(settings.mqtt)
    if settings.sparkplug.enabled and not (settings.mqtt.enabled and broker == settings.mqtt):
        yield from check_broker(broker, None, os.environ)


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """For people: what needs doing stands out, and comes once more in the last line."""
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        mark = {"ok": "   ok", "note": " note", "warning": " WARN", "fault": "FAULT"}[finding.level]
        yield f"{mark}  {finding.topic:<{width}}  {finding.says}"
        if finding.fix:
            yield f"{'':>{width + 9}}fix: {finding.fix}"
    faults, warnings = len(_faults(findings)), sum(finding.level == "warning" for finding in findings)
    yield ""
    if faults:
        yield f"{count(faults, 'fault')} to mend before edge runs well" + (
            f", and {count(warnings, 'warning')}" if warnings else ""
        )
    else:
        yield "edge can run here" + (f"; {count(warnings, 'warning')} to look at" if warnings else "")


def _faults(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "fault"]

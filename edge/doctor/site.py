"""The site: its configuration, its sources, and whether the service's user reaches them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from edge import config as configuration
from edge.config import Settings, Source
from edge.doctor.finding import Finding, read
from edge.errors import ConfigError, EdgeError
from edge.mounts import is_network_mount, mount_kind

UNITS = ("etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system")
HIDDEN = ("home", "root", "run/user", "tmp", "var/tmp")  # from the unit: ProtectHome, PrivateTmp
LOOKED_AT = 50  # files of a source that are tried
MOST_FOLDERS = 20_000  # of a source that are counted


def check_config(explicit: Path | None) -> tuple[list[Finding], Settings | None]:
    """The configuration, if there is one, and all that it names: as `edge check` does."""
    file = configuration.find(explicit)
    if explicit is None and not os.environ.get("EDGE_CONFIG") and not file.exists():
        return [
            Finding("site", "note", "no config.toml here", "`edge demo` needs none; else copy edge's own")
        ], None
    try:
        settings = configuration.load(file)
    except ConfigError as error:
        return [Finding("site", "fault", error.message, error.hint)], None
    from edge.check import notes, problems

    try:
        found = problems(settings)
    except Exception as error:  # a broken installation: the other findings say more
        return [
            Finding("site", "fault", f"{file}: cannot be checked: {type(error).__name__}: {error}")
        ], settings
    said = [Finding("site", "fault", _one_line(problem), problem.hint) for problem in found]
    said += [Finding("site", "note", note) for note in notes(settings)]
    return said or [Finding("site", "ok", f"{file}: good")], settings


def _one_line(error: EdgeError) -> str:
    return " ".join(error.message.split())


def check_sources(settings: Settings, root: Path = Path("/")) -> Iterator[Finding]:
    """Whether each source can be read, what it is mounted from, and whether its folders can be watched."""
    for source in settings.source:
        topic = f"source {source.name}"
        if not source.directory.is_dir():  # `edge check` has said so
            continue
        if unread := _unreadable(source.directory):
            yield Finding(
                topic, "fault", f"{unread} cannot be read", f"let edge's user read it: {_acl(unread)}"
            )
            continue
        if source.mount is not None and not os.path.ismount(source.mount):
            says = f"nothing is mounted at {source.mount}: the source counts as not reachable"
            yield Finding(
                topic, "fault", says, f"mount it (findmnt {source.mount}), and add it to /etc/fstab"
            )
            continue
        yield _about_mount(topic, source, root)


def _about_mount(topic: str, source: Source, root: Path) -> Finding:
    kind = mount_kind(source.directory) or "unknown"
    if is_network_mount(source.directory):
        if source.watch == "native":
            fix = 'set watch = "auto": a network mount raises no events for what others write'
            return Finding(topic, "warning", f"{source.directory} on {kind}, watched by events", fix)
        if source.mount is None:
            fix = f"set mount = {str(_mount_point(source.directory))!r}: an empty folder is then no silence"
            return Finding(topic, "warning", f"{source.directory} on {kind}, polled; mount is not set", fix)
        return Finding(topic, "ok", f"{source.directory} on {kind}, polled")
    folders, most = _folders(source), read(root / "proc/sys/fs/inotify/max_user_watches").strip()
    if source.watch != "polling" and most.isdecimal() and folders > int(most):
        fix = f'sysctl -w fs.inotify.max_user_watches={max(2 * folders, 524288)}, or watch = "polling"'
        return Finding(topic, "warning", f"{folders} folders, and {most} may be watched", fix)
    return Finding(topic, "ok", f"{source.directory} on {kind}, readable")


def _mount_point(folder: Path) -> Path:
    return next((f for f in (folder, *folder.parents) if os.path.ismount(f)), Path("/"))


def _folders(source: Source) -> int:
    return 1 if not source.recursive else sum(1 for _ in islice(os.walk(source.directory), MOST_FOLDERS))


def _unreadable(folder: Path) -> Path | None:
    """The folder, or one of its first files, if this user may not read it."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return folder
    with os.scandir(folder) as entries:
        for entry in islice(entries, LOOKED_AT):
            wanted = os.R_OK | (os.X_OK if entry.is_dir() else 0)
            if not os.access(entry.path, wanted):
                return Path(entry.path)
    return None


def _acl(path: Path) -> str:
    return f"chmod -R o+rX {path}, or put the service into its group (SupplementaryGroups= in a drop-in)"


def check_service_user(settings: Settings, root: Path = Path("/")) -> Iterator[Finding]:
    """Where the unit is installed: what its user, who is nobody in particular and in no group, cannot reach.

    For whoever runs `edge doctor` as root, to whom everything is open.
    """
    if not any((root / folder / "edge.service").exists() for folder in UNITS):
        return
    amiss = False
    paths = [(f"source {source.name}", source.directory) for source in settings.source]
    for topic, path in [*paths, ("config.toml", settings.file)]:
        hidden = next((name for name in HIDDEN if path.is_relative_to(Path("/") / name)), None)
        if hidden is not None:
            amiss = True
            fix = "move or bind-mount it below /srv, which the unit reads (BindReadOnlyPaths= in a drop-in)"
            yield Finding("service user", "fault", f"{topic}: the unit does not see /{hidden}: {path}", fix)
        elif (closed := _closed_to_others(path)) is not None:
            amiss = True
            says = f"{topic}: {closed} is open to its owner and group only"
            yield Finding("service user", "warning", says, _acl(closed))
    if not amiss:
        yield Finding("service user", "ok", "reaches the configuration and every source")


def _closed_to_others(path: Path) -> Path | None:
    """The first of the folders on the way to a path, or itself, that others may not read or enter."""
    state = Path("/var/lib")  # StateDirectory= gives what is below to the service's own user
    if path.is_relative_to(state) and path != state and path.relative_to(state).parts[0].startswith("edge"):
        return None
    for one in [*reversed(path.parents), path]:
        try:
            mode = one.stat().st_mode
        except OSError:
            return None  # other checks say it
        last = one == path
        needed = (stat.S_IROTH if last else 0) | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        if mode & needed != needed:
            return one
    return None

"""A site into one file and out of it again: whole, checked, and while a daemon inspects."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import app
from edge.backup.contents import MANIFEST
from edge.backup.make import back_up
from edge.backup.restore import restore
from edge.config import load
from edge.daemon import lock_site
from edge.errors import CannotWriteError, DataError, TryAgainError, UsageError
from edge.record.store import SCHEMA_VERSION, Store
from edge.testing import write_frame
from edge.types import KINDS, Identity, Verdict
from tests.brokers import free_port, until
from tests.sites import DaemonProcess, make_recipe, write_config

VERDICTS = 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    make_recipe(folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, recipe: Path) -> Path:
    """A site with verdicts, pictures and secrets, and no daemon."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in ("engines", "calibration"):
        (folder / name).symlink_to(recipe / name)
    file = write_config(folder, 1883, 9470)
    text = file.read_text().replace("[mqtt]", '[mqtt]\nusername = "st"\npassword_file = "secret/password"')
    file.write_text(text)
    (folder / "secret").mkdir()
    (folder / "secret/password").write_text("hunter2")
    store = Store(folder / "var" / app.DATABASE, {"mqtt": KINDS})
    for number in range(VERDICTS):
        at = 1000.0 + number
        verdict = Verdict(f"R{number}", "frame", "blur", "OK", Identity("P", "01", "B"), at, {})
        with store.transaction():
            store.add_verdict(verdict, json.dumps({"resultId": f"R{number}"}).encode(), "scanner")
    store.close()
    picture = folder / "var" / app.EVIDENCE / "2026-11-20" / "R0" / "overlay.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"picture")
    return folder


@pytest.fixture
def made(site: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(*, evidence: bool = False, secrets: bool = False) -> Path:
        target = tmp_path / "out" / "site.tar"
        target.parent.mkdir(exist_ok=True)
        settings = load(site / "config.toml")
        back_up(settings, target, with_evidence=evidence, with_secrets=secrets, force=False)
        return target

    return make


def test_no_folder_is_made_where_a_disk_may_be_missing(site: Path, tmp_path: Path) -> None:
    target = tmp_path / "mnt" / "usb" / "site.tar"
    with pytest.raises(CannotWriteError, match="mnt/usb: no such folder"):
        back_up(load(site / "config.toml"), target, with_evidence=False, with_secrets=False, force=False)
    assert not target.parent.parent.exists()


def rewritten(file: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    """The archive with every member as `change` has it; None leaves it out."""
    target = file.with_name("changed.tar")
    with tarfile.open(file) as there, tarfile.open(target, "w") as here:
        for member in there:
            stream = there.extractfile(member)
            assert stream is not None
            if (new := change(member.name, stream.read())) is not None:
                info = tarfile.TarInfo(new[0])
                info.size = len(new[1])
                here.addfile(info, io.BytesIO(new[1]))
    return target


def test_what_comes_out_is_what_went_in(made: Callable[..., Path], site: Path, tmp_path: Path) -> None:
    archive = made(evidence=True)
    assert archive.stat().st_mode & 0o077 == 0
    done = restore(archive, tmp_path / "new", force=False)
    assert (done.verdicts, done.waiting) == (VERDICTS, VERDICTS)
    for name in ("config.toml", "engines/blur/bundle.json", "calibration/blur.json",
                 "var/evidence/2026-11-20/R0/overlay.jpg"):  # fmt: skip
        assert (tmp_path / "new" / name).read_bytes() == (site / name).read_bytes(), name
    store = Store(tmp_path / "new/var" / app.DATABASE, {"mqtt": KINDS})
    try:
        assert [row.result_id for row in store.pending("mqtt", 0, 9)] == ["R0", "R1", "R2"]
    finally:
        store.close()
    assert not list((tmp_path / "new").glob(".restore-*"))
    assert list(archive.parent.iterdir()) == [archive]  # nothing half-made lies around


def test_secrets_and_pictures_stay_out_unless_asked_for(made: Callable[..., Path], tmp_path: Path) -> None:
    archive = made()
    assert b"hunter2" not in archive.read_bytes()
    done = restore(archive, tmp_path / "new", force=False)
    assert not (tmp_path / "new/secret").exists()
    assert not (tmp_path / "new/var" / app.EVIDENCE).exists()
    assert any("mqtt.password_file" in note for note in done.notes)


def test_secrets_that_were_asked_for_come_back_for_their_owner_only(
    made: Callable[..., Path], tmp_path: Path
) -> None:
    restore(made(secrets=True), tmp_path / "new", force=False)
    secret = tmp_path / "new/secret/password"
    assert secret.read_text() == "hunter2"
    assert secret.stat().st_mode & 0o077 == 0


def test_frames_that_people_reviewed_come_with_pictures_or_are_said_to_be_missing(
    made: Callable[..., Path], site: Path, tmp_path: Path
) -> None:
    frame = site / "var/reviewed/aa.png"
    frame.parent.mkdir()
    frame.write_bytes(b"frame")
    done = restore(made(), tmp_path / "without", force=False)
    assert any("frames that people reviewed" in note for note in done.notes)
    (tmp_path / "out/site.tar").unlink()
    restore(made(evidence=True), tmp_path / "with", force=False)
    assert (tmp_path / "with/var/reviewed/aa.png").read_bytes() == b"frame"


def test_a_backup_is_not_replaced_unless_forced(made: Callable[..., Path], site: Path) -> None:
    archive = made()
    before = archive.read_bytes()
    with pytest.raises(UsageError, match="there already"):
        made()
    assert archive.read_bytes() == before
    back_up(load(site / "config.toml"), archive, with_evidence=False, with_secrets=False, force=True)


def test_a_folder_with_something_in_it_is_left_alone(made: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/precious").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        restore(made(), tmp_path / "new", force=False)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["precious"]


def test_forced_over_a_site_the_old_journal_goes_and_a_running_daemon_is_in_the_way(
    made: Callable[..., Path], tmp_path: Path
) -> None:
    archive, new = made(), tmp_path / "new"
    restore(archive, new, force=False)
    wal = new / "var" / f"{app.DATABASE}-wal"
    wal.write_bytes(b"of another database")
    with lock_site(new / "var"), pytest.raises(TryAgainError, match="another edge daemon"):
        restore(archive, new, force=True)
    assert wal.exists()
    restore(archive, new, force=True)
    assert not wal.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: (name, data[:-1] + b"~") if name == "config.toml" else (name, data),
        lambda name, data: None if name.endswith("blur.json") else (name, data),
        lambda name, data: None if name == MANIFEST else (name, data),
        lambda name, data: ("../evil", data) if name == "config.toml" else (name, data),
        lambda name, data: ("/tmp/evil", data) if name == "config.toml" else (name, data),
        lambda name, data: (name, data.replace(b"edge/backup/1", b"edge/backup/9")),
    ],
    ids=["changed", "missing", "no manifest", "above", "absolute", "newer"],
)
def test_one_that_is_not_whole_or_not_safe_puts_nothing(
    made: Callable[..., Path], tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]
) -> None:
    archive = rewritten(made(), change)
    with pytest.raises(DataError, match="not a whole backup"):
        restore(archive, tmp_path / "new", force=False)
    assert list((tmp_path / "new").iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_links_are_refused(made: Callable[..., Path], tmp_path: Path) -> None:
    archive = made()
    with tarfile.open(archive, "a") as there:
        link = tarfile.TarInfo("engines/link")
        link.type, link.linkname = tarfile.SYMTYPE, "blur"
        there.addfile(link)
    with pytest.raises(DataError, match="no plain file"):
        restore(archive, tmp_path / "new", force=False)


def test_a_truncated_file_is_refused(made: Callable[..., Path], tmp_path: Path) -> None:
    archive = made()
    data = archive.read_bytes()
    for share in (0.2, 0.9):
        archive.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match="not a whole backup"):
            restore(archive, tmp_path / "new", force=False)


def test_a_database_of_a_newer_edge_is_refused(site: Path, made: Callable[..., Path], tmp_path: Path) -> None:
    database = sqlite3.connect(site / "var" / app.DATABASE)
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(DataError, match="newer edge"):
        restore(made(), tmp_path / "new", force=False)
    assert not (tmp_path / "new/config.toml").exists()


def verdicts(folder: Path) -> dict[str, str]:
    """Result id by path."""
    database = sqlite3.connect(f"file:{folder}/var/{app.DATABASE}?mode=ro", uri=True)
    found = dict(database.execute("SELECT path, result_id FROM verdicts WHERE type = 'frame'").fetchall())
    database.close()
    return found


@pytest.mark.slow
def test_backed_up_while_it_inspects_a_site_goes_on_elsewhere(recipe: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    for name in ("engines", "calibration"):
        (old / name).symlink_to(recipe / name)
    port = free_port()
    write_config(old, free_port(), port)  # no broker: every verdict waits
    frames = [old / "incoming/B1" / f"P{number:03d}_01.png" for number in range(40)]
    for number, frame in enumerate(frames):
        write_frame(frame, seed=number)
    daemon = DaemonProcess(old / "config.toml", port).ready()
    try:
        until(lambda: len(verdicts(old)) >= 5, "the first verdicts")
        back_up(load(old / "config.toml"), tmp_path / "site.tar", with_evidence=True, with_secrets=False,
                force=False)  # fmt: skip
        until(lambda: len(verdicts(old)) == len(frames), "it goes on")
        assert daemon.stop()[0] == 0
    finally:
        daemon.kill()
    done = restore(tmp_path / "site.tar", new, force=False)
    then = verdicts(new)
    assert done.verdicts >= len(then) >= 5
    assert done.waiting == done.verdicts  # none was delivered, none is lost
    assert then.items() <= verdicts(old).items()
    for frame in frames:
        target = new / frame.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(frame.read_bytes())
    daemon = DaemonProcess(new / "config.toml", port).ready()
    try:
        until(lambda: len(verdicts(new)) == len(frames), "the rest")
        assert daemon.stop()[0] == 0
    finally:
        daemon.kill()
    assert then.items() <= verdicts(new).items()  # what was judged then keeps its verdict

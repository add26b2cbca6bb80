"""The failing disk itself: what hangs does hang, and what is small fills up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import until
from tests.torture.shim import Shim

LOOK = """
import os, sys, threading, pathlib
folder, done = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
ways = {
    "stat": lambda: os.stat(folder / "a"), "list": lambda: os.listdir(folder),
    "open": lambda: open(folder / "a"), "glob": lambda: list(folder.rglob("*")),
    "other": lambda: open(done / "other-file", "w"),
}
threads = [threading.Thread(target=lambda n=n, f=f: (f(), (done / n).touch())) for n, f in ways.items()]
[t.start() for t in threads]
[t.join() for t in threads]
"""

FILL = """
import os, sys, shutil
folder = sys.argv[1]
fits = 0
def write(name, size):
    with open(os.path.join(folder, name), "wb", buffering=0) as f:
        while size:
            size -= f.write(bytes(min(size, 1000)))
free = shutil.disk_usage(folder).free
write("a", 6000)
try:
    write("b", 6000)
except OSError as error:
    print(free, os.path.getsize(os.path.join(folder, "b")), error.errno, shutil.disk_usage(folder).free)
os.unlink(os.path.join(folder, "a"))
write("c", 6000)
"""


@pytest.fixture
def shim(tmp_path: Path) -> Iterator[Shim]:
    (tmp_path / "disk").mkdir()
    (tmp_path / "done").mkdir()
    (tmp_path / "disk" / "a").write_bytes(b"a")
    shim = Shim(tmp_path / "disk")
    yield shim
    shim.close()


def test_a_hanging_mount_holds_who_looks_at_it_until_it_is_well(shim: Shim) -> None:
    done = shim.folder.parent / "done"
    hung = [shim.hang("*"), shim.hang("")]
    with shim.start("-c", LOOK, str(shim.folder), str(done)) as process:
        until(lambda: sum(map(shim.hits, hung)) >= 4, "four of them hang")
        until((done / "other").exists, "the fifth looks elsewhere")
        assert [file.name for file in done.iterdir() if not file.name.startswith("other")] == []
        shim.clear()
        assert process.wait(30) == 0
    assert {"stat", "list", "open", "glob"} <= {file.name for file in done.iterdir()}


def test_a_small_disk_fills_up_and_frees_what_is_removed(shim: Shim) -> None:
    (shim.folder / "a").unlink()
    shim.small_disk(10_240)
    said = shim.run("-c", FILL, str(shim.folder)).stdout.split()
    assert list(map(int, said))[1:3] == [4240, 28]
    assert int(said[0]) > 4096
    assert int(said[3]) == 0
    assert (shim.folder / "c").stat().st_size == 6000


def test_what_is_read_only_says_so(shim: Shim) -> None:
    shim.read_only("a")
    program = "import sys; open(sys.argv[1] + '/b', 'w').close(); open(sys.argv[1] + '/a', 'w')"
    ended = shim.run("-c", program, str(shim.folder), check=False)
    assert "Read-only file system" in ended.stderr
    assert (shim.folder / "a").read_bytes() == b"a"
    assert (shim.folder / "b").exists()

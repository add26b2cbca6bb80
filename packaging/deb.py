"""`make deb`: a Debian package that needs nothing but Debian's own Python: python packaging/deb.py --out dist

A virtual environment in /opt/edge from systemd/requirements.txt, each file by its hash, and edge's own wheel;
the units, an example configuration, the documents. dpkg-deb does the rest: no debhelper.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PREFIX = "opt/edge"
INTERPRETER = f"python{sys.version_info.major}.{sys.version_info.minor}"
# who builds packages for others says who they are: DEBFULLNAME and DEBEMAIL, as for debchange(1)
MAINTAINER = (
    f"{os.environ.get('DEBFULLNAME', 'edge')} <{os.environ.get('DEBEMAIL', 'edge@edge-inspect.invalid')}>"
)
EXECUTABLE, READABLE = 0o755, 0o644


def version() -> str:
    """As the wheel has it."""
    scope: dict[str, str] = {}
    exec((ROOT / "edge" / "__init__.py").read_text(), scope)
    return scope["__version__"]


def put_environment(root: Path, reuse: Path | None) -> None:
    """The virtual environment. With `reuse`, packages of that folder are used where they lie: for tests."""
    prefix = root / PREFIX
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin/python"), "install", "-q"]
    pip += ["--no-compile", "--no-warn-script-location"]
    if reuse is None:
        subprocess.run([*pip, "--require-hashes", "-r", ROOT / "systemd/requirements.txt"], check=True)
    else:
        (prefix / f"lib/{INTERPRETER}/site-packages/reused.pth").write_text(f"{reuse}\n")
    with tempfile.TemporaryDirectory() as wheels:
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(wheels).glob("*.whl")
        subprocess.run([*pip, "--no-deps", "--force-reinstall", wheel], check=True)
    _settle(prefix, str(root))


def _settle(prefix: Path, staged: str) -> None:
    """Say where it will lie, and whose Python it uses; compile, as the daemon may not write there."""
    for script in (prefix / "bin").iterdir():
        if script.is_symlink():
            continue
        text = script.read_text()
        if text.startswith("#!"):
            script.write_text(f"#!/{PREFIX}/bin/python3\n" + text.partition("\n")[2])
            script.chmod(EXECUTABLE)
        else:
            script.unlink()
    for name in ("activate", "activate.csh", "activate.fish", "Activate.ps1"):
        (prefix / "bin" / name).unlink(missing_ok=True)  # they name the place where they were made
    for name in ("python", "python3", INTERPRETER):
        (prefix / "bin" / name).unlink(missing_ok=True)
        (prefix / "bin" / name).symlink_to(f"/usr/bin/{INTERPRETER}")
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    compiling = [sys.executable, "-m", "compileall", "-q", "-s", staged, "-p", "/", "-j", "0"]
    subprocess.run([*compiling, "--invalidation-mode", "unchecked-hash", prefix / "lib"], check=False)


def put_files(root: Path, label: str) -> None:
    """Units, example configuration, documents, and the command."""
    systemd, documents = ROOT / "systemd", root / "usr/share/doc/edge"
    copies = {
        systemd / "edge.service": "lib/systemd/system/edge.service",
        systemd / "edge@.service": "lib/systemd/system/edge@.service",
        systemd / "edge.sysusers": "usr/lib/sysusers.d/edge.conf",
        systemd / "edge.tmpfiles": "usr/lib/tmpfiles.d/edge.conf",
        ROOT / "config.toml": "etc/edge/config.example.toml",
        ROOT / "README.md": "usr/share/doc/edge/README.md",
        ROOT / "packaging/debian/lintian-overrides": "usr/share/lintian/overrides/edge",
        ROOT / "packaging/debian/copyright": "usr/share/doc/edge/copyright",
        **{page: f"usr/share/doc/edge/{page.name}" for page in (ROOT / "docs").glob("*.md")},
        **{file: f"usr/share/doc/edge/examples/{file.name}" for file in systemd.rglob("*.example")},
    }
    for source, target in copies.items():
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / target)
        (root / target).chmod(READABLE)
    entry = f"edge ({label}) stable; urgency=medium\n\n  * See README.md and CHANGELOG of the source.\n\n"
    entry += f" -- {MAINTAINER}  Thu, 01 Jan 2026 00:00:00 +0000\n"
    with gzip.GzipFile(documents / "changelog.gz", "wb", mtime=0) as stream:
        stream.write(entry.encode())
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/edge").symlink_to(f"/{PREFIX}/bin/edge")


def put_control(root: Path, label: str, architecture: str) -> None:
    """What dpkg reads."""
    debian = root / "DEBIAN"
    debian.mkdir()
    kilobytes = sum(file.lstat().st_size for file in root.rglob("*") if not file.is_dir()) // 1024
    (debian / "control").write_text(
        f"Package: edge\nVersion: {label}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n"
        f"Installed-Size: {kilobytes}\nDepends: {INTERPRETER}, libc6, libstdc++6\n"
        "Recommends: systemd\nSuggests: mosquitto\nSection: science\nPriority: optional\n"
        "Description: inspection daemon for frames of industrial scanners\n"
        " Frames from a scanner's folder in, verdicts on MQTT out. Learns from frames\n"
        " of good parts only, on the machine's own CPU.\n"
    )
    (debian / "conffiles").write_text("/etc/edge/config.example.toml\n")
    for script in ("postinst", "prerm", "postrm"):
        shutil.copyfile(ROOT / "packaging/debian" / script, debian / script)
        (debian / script).chmod(EXECUTABLE)


def build(out: Path, label: str, reuse: Path | None) -> Path:
    """Make the package; gives its file."""
    if shutil.which("dpkg-deb") is None:
        raise SystemExit("dpkg-deb is needed: build on Debian or one of its kin")
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"edge_{label}_{architecture}.deb"
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        root.mkdir(mode=EXECUTABLE)
        put_environment(root, reuse)
        put_files(root, label)
        for folder in [root, *(one for one in root.rglob("*") if one.is_dir() and not one.is_symlink())]:
            folder.chmod(EXECUTABLE)
        put_control(root, label, architecture)
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", root, target], check=True)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Build edge's Debian package.")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--version", default=version(), help="of the package, where it is not the wheel's")
    parser.add_argument("--reuse", type=Path, help="site-packages to use where they lie: for tests only")
    arguments = parser.parse_args()
    print(build(arguments.out, arguments.version, arguments.reuse))


if __name__ == "__main__":
    main()

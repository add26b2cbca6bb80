"""On which file system a folder lies, by /proc/mounts."""

from __future__ import annotations

import os
from pathlib import Path

# Mount types whose changes by other machines raise no local events
NETWORK_MOUNTS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "glusterfs", "davfs"}
ZEROS_AS_HOLES = {"zfs"}  # what is all zeros is not stored, though it was written


def is_network_mount(directory: Path, mounts: str | None = None) -> bool:
    """Whether a folder lies on a network file system; False where that cannot be told."""
    kind = mount_kind(directory, mounts)
    return kind in NETWORK_MOUNTS or (kind.startswith("fuse.") and "ssh" in kind)


def keeps_zeros_as_holes(file: Path, mounts: str | None = None) -> bool:
    """Whether a hole in a file may have been written as zeros: on such file systems, and on servers that may
    have one."""
    return is_network_mount(file, mounts) or mount_kind(file, mounts) in ZEROS_AS_HOLES


def mount_kind(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that a path lies on, such as "ext4"; empty where that cannot be told."""
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:
            return ""
    target = os.path.realpath(path)
    found, longest = "", -1
    for line in mounts.splitlines():
        fields = line.split()
        point = fields[1].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            found, longest = fields[2], len(point)
    return found

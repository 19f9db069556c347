"""A writable folder of a job: capped in bytes and files while the job runs, a plain folder of ours afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Literal, NamedTuple

from clinloop.errors import SandboxUnavailable
from clinloop.files import harvest, remove_tree
from clinloop.memory import is_in_memory

MAX_FILES = 65_536
"""Files and folders that one writable folder may hold."""
TIERS = {
    "loop": "own ext4 image",
    "tmpfs": "sized tmpfs",
    "plain": "best effort: file size limit and watcher",
}
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Usage(NamedTuple):
    """What a folder holds."""

    bytes: int
    files: int


class Volume(NamedTuple):
    """One writable mount. Every method can be repeated, also by another process after the owner was killed."""

    source: str
    """The folder that the caller knows; the job writes there, the caller reads there."""
    image: str
    """File that holds the file system, for kind "loop"."""
    kind: Literal["loop", "tmpfs", "plain"]
    cap_bytes: int

    @property
    def cap_files(self) -> int:
        """Files and folders that it may hold: inodes are not free in a small image."""
        return max(64, min(MAX_FILES, self.cap_bytes >> 14))

    @property
    def _staging(self) -> Path:
        source = Path(self.source)
        return source.with_name(f".{source.name}.harvest")

    def attach(self, uid: int) -> None:
        """Put the capped file system over the folder, owned by `uid`; nothing for kind "plain".

        Raises:
            OSError, subprocess.CalledProcessError: it cannot be made or mounted here.
        """
        if self.kind == "loop":
            with Path(self.image).open("xb") as file:
                file.truncate(self.cap_bytes)
            extended = f"root_owner={uid}:{uid},lazy_itable_init=1,nodiscard"
            _run(
                "mkfs.ext4",
                "-q",
                "-F",
                "-m0",
                "-O",
                "^has_journal",
                "-N",
                str(self.cap_files),
                "-E",
                extended,
                self.image,
            )
            self._mount_image()
            (Path(self.source) / "lost+found").rmdir()
        elif self.kind == "tmpfs":
            options = f"nosuid,nodev,size={self.cap_bytes},nr_inodes={self.cap_files},uid={uid},gid={uid},mode=700"
            _run("mount", "-t", "tmpfs", "-o", options, "clinloop", self.source)

    def _mount_image(self) -> None:
        _run("mount", "-t", "ext4", "-o", "loop,nosuid,nodev", self.image, self.source)

    def is_full(self) -> bool:
        """Return whether nothing more fits."""
        if self.kind == "plain":
            used = measure(Path(self.source), stop_at=Usage(self.cap_bytes, self.cap_files))
            return used.bytes >= self.cap_bytes or used.files >= self.cap_files
        if not os.path.ismount(self.source):
            return False
        system = os.statvfs(self.source)
        return (
            system.f_ffree == 0
            or system.f_bavail * 200 < system.f_blocks
            or system.f_bavail * system.f_frsize < 1 << 20
        )

    def settle(self) -> list[str]:
        """Replace the folder by a copy of its regular files that we own; return what was left out, by relative path.

        The job must be dead. The copy is complete before the original goes, so a repeated call after any interruption loses nothing.
        """
        source, skipped = Path(self.source), list[str]()
        if not source.exists() and not self._staging.exists():  # the caller deleted it
            return skipped
        if not self._staging.exists():
            if self.image and Path(self.image).exists() and not os.path.ismount(source):
                with contextlib.suppress(OSError, subprocess.CalledProcessError):
                    self._mount_image()  # the machine was restarted while the job ran
            if self.kind == "plain":
                _run("chmod", "-R", "u+rwX", "--", self.source)
            if self.kind == "plain" or os.path.ismount(source):
                part = self._staging.with_name(self._staging.name + ".part")
                remove_tree(part)
                skipped = harvest(source, part, max_bytes=self.cap_bytes, max_files=self.cap_files)
                part.rename(self._staging)
        while os.path.ismount(source):
            _run("umount", "--lazy", self.source)
        if self._staging.exists():
            remove_tree(source)
            self._staging.rename(source)
        if self.image:
            Path(self.image).unlink(missing_ok=True)
        return skipped


def check_empty(source: Path) -> None:
    """Refuse a writable folder that holds something, because a job would not see it and `settle` would lose it."""
    if any(source.iterdir()):
        raise SandboxUnavailable("The writable folder of a sandbox must be empty when its job starts.")


def choose_volume(source: Path, image: Path, cap_bytes: int, uid: int) -> Volume:
    """Attach the hardest kind of capped folder that this machine offers; needs root.

    Raises:
        SandboxUnavailable: neither a loop device nor a tmpfs can be mounted.
    """
    # What the caller keeps in memory is not written to a disk by way of an image file.
    for kind in ("tmpfs",) if is_in_memory(source) else ("loop", "tmpfs"):
        volume = Volume(str(source), str(image) if kind == "loop" else "", kind, cap_bytes)
        try:
            volume.attach(uid)
        except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
            image.unlink(missing_ok=True)
            continue
        return volume
    raise SandboxUnavailable(
        "No size-capped /out can be mounted here: root without the right to mount, as in an unprivileged container."
    )


def measure(folder: Path, *, stop_at: Usage) -> Usage:
    """Count the allocated bytes and the entries below a folder without following links, up to `stop_at`."""
    size, files, pending = 0, 0, [str(folder)]
    while pending and size < stop_at.bytes and files < stop_at.files:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                files += 1
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                if files >= stop_at.files:
                    break
    return Usage(size, files)


def _run(*argv: str) -> None:
    subprocess.run(
        argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, env={"PATH": _PATH, "LC_ALL": "C"}
    )

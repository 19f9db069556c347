"""Mount sources as the sandbox uid sees them, when root starts the job: detached clones, read-only and id-mapped."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import linux
from clinloop.sandbox.base import Mount

SANDBOX_UID = 65532
"""Uid and gid of a job, inside and (as root) outside; below 65,536, which is all that a user namespace of a container may map."""


class Source(NamedTuple):
    """One open mount source."""

    fd: int
    """Detached mount (as root) or O_PATH descriptor."""
    is_folder: bool


class Sources:
    """The open sources of one job; closing the stack lets go of all that is attached nowhere."""

    def __init__(self, stack: ExitStack, own_folders: Sequence[Path]) -> None:
        self._stack, self._own_folders = stack, own_folders
        self._maps = dict[tuple[int, int], int]()

    def open(self, mount: Mount) -> Source:
        """Open a mount source as it is, without following a final link.

        Raises:
            SandboxUnavailable: it is missing, a link, or neither a folder nor a regular file.
        """
        try:
            fd = self._keep(linux.open_source(mount.source))
        except OSError as error:
            raise SandboxUnavailable(
                f"What the sandbox should see at {mount.target} cannot be used: {error.strerror}."
            ) from error
        return Source(fd, stat.S_ISDIR(os.fstat(fd).st_mode))

    def clone(self, mount: Mount) -> Source:
        """Open a mount source as a detached mount; unless it is writable, read-only and readable by the sandbox uid. Needs root."""
        opened = self.open(mount)
        facts = os.fstat(opened.fd)
        tree = self._keep(linux.clone_mount(opened.fd))
        if not mount.writable:
            self._show(mount, tree, facts)
        return Source(tree, opened.is_folder)

    def _show(self, mount: Mount, tree: int, facts: os.stat_result) -> None:
        owner = (facts.st_uid, facts.st_gid)
        if owner not in self._maps:
            self._maps[owner] = self._keep(linux.id_map(owner, SANDBOX_UID))
        try:
            linux.restrict_mount(tree, userns=self._maps[owner])
        except OSError:  # a file system without id-mapped mounts, such as overlayfs or NFS
            linux.restrict_mount(tree, userns=None)
            wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(facts.st_mode) else 0)
            if any(mount.source.is_relative_to(folder) for folder in self._own_folders):
                subprocess.run(
                    ["chmod", "-R", "o+rX", "--", str(mount.source)], check=True, env={}, timeout=600
                )  # behind a 0700 folder
            elif facts.st_mode & wanted != wanted:
                raise SandboxUnavailable(
                    f"The sandbox uid cannot read what it should see at {mount.target}: make it readable with chmod -R o+rX."
                ) from None

    def _keep(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd

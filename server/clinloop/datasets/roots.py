"""Finds a folder below a configured data root by the name that an agent gives, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from clinloop.datasets.dataset import is_name


def resolve_in_roots(name: str, roots: Sequence[Path]) -> Path | None:
    """Return the folder `name` ("isic" or "derm/isic") below the first root that has it, None if none has.

    Every part of the name is opened beneath its parent without following links, so no name leads out of a root.
    """
    if not is_name(name):
        return None
    for root in roots:
        fd = -1
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for part in name.split("/"):
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = inner
        except OSError:
            continue
        finally:
            if fd >= 0:
                os.close(fd)
        return root / name
    return None


def folder_names(roots: Sequence[Path], limit: int = 200) -> list[str]:
    """Return the names of the folders directly below the roots, sorted; links and hidden ones are left out."""
    return sorted(set(_names(roots)))[:limit]


def _names(roots: Sequence[Path]) -> Iterator[str]:
    for root in roots:
        try:
            with os.scandir(root) as entries:
                yield from (
                    entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and is_name(entry.name)
                )
        except OSError:
            continue

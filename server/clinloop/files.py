"""Files of folders that others write to and of our own: safe reading, copying out, atomic writing, removal of whatever is there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clinloop.beneath import FOLDER_FLAGS, Beneath, Entries, Entry, closing, write_all
from clinloop.errors import BadInput
from clinloop.filenames import check_path, shown_name

__all__ = [
    "Beneath",
    "Entries",
    "Entry",
    "check_path",
    "harvest",
    "remove_tree",
    "secret_file",
    "sha256_file",
    "shown_name",
    "sync_folder",
    "write_all_atomic",
    "write_atomic",
]

_REPORTED_SKIPS = 100


def harvest(source: Path, target: Path, *, max_bytes: int, max_files: int) -> list[str]:
    """Copy the regular single-link files of an untrusted folder into a new folder of ours (folders 0700, files 0600).

    Returns `name: reason` of what was left out, cleaned for display, at most 100 lines and one with the number of the others.

    Raises:
        FileExistsError: the target exists.
    """
    target.mkdir(mode=0o700)
    with Beneath(source) as root:
        listing = root.entries(max_entries=2 * max_files + 1000)
        skipped, left = list(listing.skipped), max_bytes
        for number, (path, size) in enumerate(listing.files):
            if number >= max_files:
                skipped.append(f"{shown_name(path)}: beyond the limit of {max_files:,} files")
            elif size > left:
                skipped.append(f"{shown_name(path)}: beyond the limit of {max_bytes:,} bytes")
            else:
                try:
                    left -= root.copy(path, target / path, cap=left)
                except BadInput as refusal:
                    skipped.append(f"{shown_name(path)}: {refusal}")
    if not listing.is_complete:
        skipped.append(f"…: more than {2 * max_files + 1000:,} names, the rest was not looked at")
    more = len(skipped) - _REPORTED_SKIPS
    return skipped if more <= 0 else [*skipped[:_REPORTED_SKIPS], f"…: {more:,} more"]


def secret_file(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the content of a secret file, which is made (0600) when it is missing; of processes that do so at once, one wins."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        write_atomic(draft, make())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        sync_folder(path.parent)
    return path.read_bytes()


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
    """Write a file of ours so that a reader, also after a power failure, sees the old content or the new, never a part."""
    write_all_atomic({path: data.encode() if isinstance(data, str) else data}, mode=mode)
    sync_folder(path.parent)


def write_all_atomic(contents: Mapping[Path, bytes], *, mode: int = 0o600) -> None:
    """Write several files of ours, each complete on the disk before it gets its name; missing parent folders are made (0700).

    They are synced at the same time, which costs about one flush of the disk instead of one each. The names are durable once
    `sync_folder` was called on a folder that was changed later.
    """
    drafts: dict[Path, Path] = {}
    try:
        with contextlib.ExitStack() as stack:
            fds: list[int] = []
            for path, data in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                drafts[path] = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                fds.append(stack.enter_context(closing(os.open(drafts[path], flags, 0o600))))
                write_all(fds[-1], data)
                os.fchmod(fds[-1], mode)
            if len(fds) == 1:
                os.fsync(fds[0])
            else:
                with ThreadPoolExecutor(min(8, len(fds) or 1)) as pool:
                    list(pool.map(os.fsync, fds))
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with closing(os.open(folder, FOLDER_FLAGS)) as fd:
        os.fsync(fd)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file of ours in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_tree(path: Path) -> None:
    """Delete a folder with all it holds, whatever its depth, names and permissions; links are removed, not followed.

    A missing path is fine. Sub-folders are moved up to the top before they are emptied, so three descriptors serve any depth.
    """
    try:
        top = _open_own_folder(str(path), None)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        path.unlink()
        return
    with closing(top):
        folders = _empty(top, None)
        while folders:
            name = folders.pop()
            with closing(_open_own_folder(name, top)) as fd:
                folders += _empty(fd, top)
            os.rmdir(name, dir_fd=top)
    path.rmdir()


def _empty(fd: int, top: int | None) -> list[str]:
    """Unlink the files in a folder, move its folders to `top` (None: it is the top), return the names that these have there."""
    folders: list[str] = []
    known: set[str] = set()
    while True:
        with os.scandir(fd) as found:
            names = [item.name for item in found if item.name not in known]
        if not names:
            return folders
        for name in names:
            try:
                folder = _open_own_folder(name, fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                    raise
                os.unlink(name, dir_fd=fd)
                continue
            os.close(folder)
            if top is None:
                known.add(name)
                folders.append(name)
            else:
                moved = f".clinloop-{secrets.token_hex(12)}"
                os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=top)
                folders.append(moved)


def _open_own_folder(name: str, dir_fd: int | None) -> int:
    """Open a folder, no link followed, and make it ours to change."""
    try:
        fd = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=dir_fd)
    except PermissionError:
        with closing(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)) as handle:
            Path(f"/proc/self/fd/{handle}").chmod(0o700)
        fd = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=dir_fd)
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd

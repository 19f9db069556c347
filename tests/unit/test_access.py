"""What another user can reach is computed from owners, modes and access lists exactly as the kernel grants it to a process of that user."""

from __future__ import annotations

import json
import os
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clinloop.access import Access, Client, Computed, Tried

from ..conftest import own_parents

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming a second user needs root")

SERVER, CLIENT, TEAM, OTHER = 54_321, 54_322, 54_400, 54_401
B = Client(CLIENT, CLIENT, frozenset([CLIENT, TEAM]), "b")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that every user can pass through, with folders and files of many owners and modes."""
    tmp_path = tmp_path_factory.mktemp("access")
    for parent in own_parents(tmp_path):
        parent.chmod(parent.stat().st_mode | 0o011)
    root = tmp_path / "ground"
    root.mkdir(mode=0o755)
    for owner, group in ((SERVER, SERVER), (SERVER, TEAM), (CLIENT, OTHER)):
        for folder_mode in (0o700, 0o710, 0o711, 0o750, 0o755, 0o770, 0o1777, 0o777, 0o000):
            folder = root / f"{owner}-{group}-{folder_mode:o}"
            folder.mkdir()
            for file_owner, file_group in ((SERVER, SERVER), (SERVER, TEAM), (CLIENT, OTHER)):
                for file_mode in (0o600, 0o640, 0o644, 0o660, 0o666, 0o604, 0o602, 0o000):
                    file = folder / f"{file_owner}-{file_group}-{file_mode:o}"
                    file.write_bytes(b"x")
                    os.chown(file, file_owner, file_group)
                    file.chmod(file_mode)
            (folder / "inner").mkdir(mode=0o755)
            (folder / "inner" / "file").write_bytes(b"x")
            os.chown(folder, owner, group)
            folder.chmod(folder_mode)
        (root / f"link-{owner}-{group}").symlink_to(root / f"{owner}-{group}-700" / "inner" / "file")
    (root / "up").symlink_to("../ground/54321-54321-755/inner")
    (root / "loop").symlink_to("loop")
    yield root
    for folder, names, _ in os.walk(root):
        for name in names:
            (Path(folder) / name).chmod(0o700)


def as_user(client: Client, work: Callable[[], Any]) -> Any:
    """Return what a function returns in a process of another user."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(read)
            os.setgroups(sorted(client.groups))
            os.setresgid(client.gid, client.gid, client.gid)
            os.setresuid(client.uid, client.uid, client.uid)
            with os.fdopen(write, "w", encoding="utf-8") as pipe:
                json.dump(work(), pipe)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(answer)


def everything(root: Path) -> list[Path]:
    return sorted([root, root / "missing", *root.rglob("*"), *(folder / "missing" for folder in root.iterdir())])


def answers(access: Access, paths: list[Path]) -> dict[str, list[bool]]:
    return {str(path): [access.reads(path), access.changes(path)] for path in paths}


def test_the_computation_agrees_with_the_kernel_on_every_owner_and_mode(ground: Path) -> None:
    paths = everything(ground)
    computed = answers(Computed(B), paths)
    granted = as_user(B, lambda: answers(Tried(B), paths))
    assert len(paths) > 600
    assert {path: answer for path, answer in computed.items() if granted[path] != answer} == {}
    assert {tuple(answer) for answer in computed.values()} == {(a, b) for a in (True, False) for b in (True, False)}


def naive(path: Path) -> list[bool]:
    """Return whether a plain open for reading, and one for writing, succeed."""
    found: list[bool] = []
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags))
        except OSError:
            found.append(False)
        else:
            found.append(True)
    return found


def test_whatever_a_process_of_the_user_opens_is_computed_as_reachable(ground: Path) -> None:
    files = [path for path in everything(ground) if path.is_file()]
    opened = as_user(B, lambda: {str(path): naive(path) for path in files})
    computed = answers(Computed(B), files)
    missed = [
        path for path, answer in opened.items() if any(o and not c for o, c in zip(answer, computed[path], strict=True))
    ]
    assert missed == []
    assert sum(map(any, opened.values())) > 50


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("this user", [(1, 6, 0), (2, 6, CLIENT), (4, 0, 0), (16, 6, 0), (32, 0, 0)]),
        ("this user, masked", [(1, 6, 0), (2, 6, CLIENT), (4, 0, 0), (16, 0, 0), (32, 0, 0)]),
        ("another user", [(1, 6, 0), (2, 6, OTHER), (4, 0, 0), (16, 6, 0), (32, 0, 0)]),
        ("a group of this user", [(1, 6, 0), (4, 0, 0), (8, 4, TEAM), (16, 7, 0), (32, 0, 0)]),
        ("this user is shut out", [(1, 6, 0), (2, 0, CLIENT), (4, 0, 0), (16, 7, 0), (32, 4, 0)]),
        ("another group", [(1, 6, 0), (4, 0, 0), (8, 6, OTHER), (16, 7, 0), (32, 0, 0)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_access_lists_are_computed_as_the_kernel_applies_them(
    ground: Path, name: str, entries: list[tuple[int, int, int]]
) -> None:
    file = ground / "listed"
    file.write_text("x", encoding="utf-8")
    os.chown(file, SERVER, SERVER)
    packed = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, number if tag in (2, 8) else 0xFFFFFFFF) for tag, bits, number in entries
    )
    try:
        os.setxattr(file, "system.posix_acl_access", packed)
    except OSError as error:
        pytest.skip(f"no access lists on this file system: {error}")
    opened = as_user(B, lambda: naive(file))
    assert answers(Computed(B), [file])[str(file)] == opened
    if name in ("this user", "a group of this user"):
        assert opened[0]


@pytest.mark.parametrize("kind", [Computed, Tried])
def test_one_file_that_others_may_write_is_found_deep_in_a_closed_tree(
    tmp_path: Path, kind: type[Computed] | type[Tried]
) -> None:
    for parent in own_parents(tmp_path):
        parent.chmod(0o711)
    deep = tmp_path / "tree" / "a" / "b" / "c.py"
    deep.parent.mkdir(parents=True)
    deep.touch(mode=0o644)

    def found(depth: int) -> str:
        return str(as_user(B, lambda: str(kind(B).changes_below(tmp_path / "tree", depth=depth))))

    assert found(40) == "None"
    deep.chmod(0o666)
    assert found(40) == str(deep)
    assert found(2) == "None"  # it is not looked for as deep as that
    deep.parent.chmod(0o700)  # no way there any more
    assert found(40) == "None"
    (tmp_path / "target").touch()
    (tmp_path / "target").chmod(0o666)
    (tmp_path / "tree" / "link.py").symlink_to(tmp_path / "target")
    assert found(1) == str(tmp_path / "tree" / "link.py")


def test_a_socket_is_reachable_for_those_who_may_write_to_it(ground: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = ground / "engine.sock"
        listener.bind(str(path))
        listener.listen()
        for group, mode, expected in ((SERVER, 0o660, False), (TEAM, 0o660, True), (SERVER, 0o666, True)):
            os.chown(path, SERVER, group)
            path.chmod(mode)
            assert Computed(B).connects(path) is expected
            assert as_user(B, lambda: Tried(B).connects(path)) is expected

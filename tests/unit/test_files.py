"""Files below an untrusted root: nothing outside is ever read, written or hung on."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from clinloop.errors import BadInput
from clinloop.files import Beneath, check_path, harvest, remove_tree, shown_name, write_atomic

SECRET = b"the secret outside of the root"
CAP = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a plain file, a folder, and a secret beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "plain.txt").write_bytes(b"plain")
    (folder / "sub" / "inner.txt").write_bytes(b"inner")
    return folder


@pytest.fixture(params=["openat2", "walk"])
def walk(request: pytest.FixtureRequest) -> bool:
    """Both ways to open: the kernel's and the fallback."""
    return request.param == "walk"


def _hostile(root: Path, case: str) -> str:
    """Plant one hostile case and return the path that asks for it."""
    secret = root.parent / "outside" / "secret"
    match case:
        case "symlink to a file":
            (root / "x").symlink_to(secret)
        case "symlinked first folder":
            (root / "x").symlink_to(secret.parent)
            return "x/secret"
        case "symlinked middle folder":
            (root / "sub" / "x").symlink_to(root.parent)
            return "sub/x/outside/secret"
        case "relative symlinked folder":
            (root / "x").symlink_to("../outside")
            return "x/secret"
        case "symlinked folder within the root":
            (root / "x").symlink_to("sub")
            return "x/inner.txt"
        case "symlink within the root":
            (root / "x").symlink_to("plain.txt")
        case "dot dot":
            return "../outside/secret"
        case "dot dot in the middle":
            return "sub/../../outside/secret"
        case "absolute":
            return str(secret)
        case "NUL":
            return "plain.txt\0.py"
        case "named pipe":
            os.mkfifo(root / "x")
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                here = Path.cwd()
                os.chdir(root)  # a socket's address has at most 108 bytes
                try:
                    listener.bind("x")
                finally:
                    os.chdir(here)
        case "device":
            try:
                os.mknod(root / "x", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            except PermissionError:
                pytest.skip("making a device needs root")
        case "sparse file of 1 TB":
            with (root / "x").open("wb") as file:
                file.truncate(1 << 40)
        case "magic link":
            (root / "x").symlink_to("/proc/self/cwd")
            return "x/secret"
        case "hard link":
            os.link(secret, root / "x")
        case "folder":
            return "sub"
        case "missing":
            return "x"
        case _:
            raise AssertionError(case)
    return "x"


HOSTILE = [
    "symlink to a file",
    "symlinked first folder",
    "symlinked middle folder",
    "relative symlinked folder",
    "symlinked folder within the root",
    "symlink within the root",
    "dot dot",
    "dot dot in the middle",
    "absolute",
    "NUL",
    "named pipe",
    "socket",
    "device",
    "sparse file of 1 TB",
    "magic link",
    "hard link",
    "folder",
    "missing",
]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_path_is_refused_for_reading_at_once(root: Path, case: str, walk: bool) -> None:
    rel = _hostile(root, case)
    begin = time.monotonic()
    with Beneath(root, walk=walk) as folder, pytest.raises(BadInput) as refusal:
        folder.read(rel, cap=CAP)
    assert time.monotonic() - begin < 1
    assert str(root.parent) not in str(refusal.value) or case == "absolute"


@pytest.mark.parametrize("case", [case for case in HOSTILE if case not in {"missing", "sparse file of 1 TB"}])
@pytest.mark.parametrize("action", ["write", "delete"])
def test_a_hostile_path_is_neither_written_nor_deleted(root: Path, case: str, action: str, walk: bool) -> None:
    rel = _hostile(root, case)
    with Beneath(root, walk=walk) as folder, pytest.raises(BadInput):
        folder.write(rel, b"changed") if action == "write" else folder.delete(rel)
    assert (root.parent / "outside" / "secret").read_bytes() == SECRET
    assert sorted(path.name for path in (root.parent / "outside").iterdir()) == ["secret"]


@pytest.mark.parametrize(
    "case", [case for case in HOSTILE if "dot" not in case and case not in {"absolute", "NUL", "missing"}]
)
def test_a_hostile_entry_is_named_and_left_out_of_listing_and_harvest(root: Path, case: str, tmp_path: Path) -> None:
    _hostile(root, case)
    with Beneath(root) as folder:
        listing = folder.entries()
    skipped = harvest(root, tmp_path / "mine", max_bytes=CAP, max_files=100)
    taken = sorted(
        str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()
    )
    assert taken == ["plain.txt", "sub/inner.txt"]
    if case == "folder":
        assert skipped == listing.skipped == []
    else:
        assert [line.split(":")[0] for line in skipped] == ["sub/x" if case == "symlinked middle folder" else "x"]


def test_plain_files_are_read_written_listed_and_deleted(root: Path, walk: bool) -> None:
    with Beneath(root, walk=walk) as folder:
        assert folder.read("./sub//inner.txt", cap=5) == b"inner"
        assert folder.read_tail("plain.txt", cap=3) == b"ain"
        (root / "plain.txt").chmod(0o640)
        folder.write("plain.txt", b"new")
        folder.write("a/b/c.txt", b"deep")
        assert [tuple(entry) for entry in folder.entries().files] == [
            ("a/b/c.txt", 4),
            ("plain.txt", 3),
            ("sub/inner.txt", 5),
        ]
        assert stat.S_IMODE(folder.stat("plain.txt").st_mode) == 0o640
        folder.delete("a/b/c.txt")
        assert (folder.exists("a"), folder.exists("sub"), folder.exists("no/such")) == (False, True, False)


def test_a_file_over_the_cap_is_refused_and_one_at_the_cap_is_read(root: Path) -> None:
    with Beneath(root) as folder:
        assert folder.read("plain.txt", cap=5) == b"plain"
        with pytest.raises(BadInput, match="larger than 4 bytes"):
            folder.read("plain.txt", cap=4)


def test_a_root_that_is_a_link_or_is_gone_is_refused(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    for path in (root.parent / "link", root.parent / "gone", root / "plain.txt"):
        with pytest.raises(BadInput):
            Beneath(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "  ",
        ".",
        "/",
        "~/x",
        "~root",
        "a\\b",
        "a\nb",
        "a\x1bb",
        "a\u202eb",
        "a\u200bb",
        "a\udcffb",
        "a" * 256,
        "é" * 128,
        "a/" * 40,
        ("a" * 200 + "/") * 6,
    ],
)
def test_a_path_that_no_file_should_have_is_refused(path: str) -> None:
    with pytest.raises(BadInput) as refusal:
        check_path(path)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400


def test_a_listing_stops_at_its_caps_and_says_so(root: Path) -> None:
    for number in range(50):
        os.mkfifo(root / f"pipe{number}")
    with Beneath(root) as folder:
        assert not folder.entries(max_entries=20).is_complete
        listing = folder.entries(ignore={"sub"})
    assert listing.is_complete
    assert [entry.path for entry in listing.files] == ["plain.txt"]
    assert "sub: never looked at" in listing.skipped


def test_a_harvest_keeps_its_byte_and_file_limits_and_names_what_it_left(root: Path, tmp_path: Path) -> None:
    (root / "big").write_bytes(bytes(1000))
    (root / os.fsdecode(b"bad\xff\x1b[31mname")).write_bytes(b"x")
    skipped = harvest(root, tmp_path / "bytes", max_bytes=500, max_files=10)
    assert (tmp_path / "bytes" / "plain.txt").read_bytes() == b"plain"
    assert [line.split(":")[1].strip() for line in skipped] == [
        "contains control or invisible characters",
        "beyond the limit of 500 bytes",
    ]
    assert all(line.isprintable() for line in skipped)
    assert any("limit of 1 files" in line for line in harvest(root, tmp_path / "files", max_bytes=5000, max_files=1))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "bytes").rglob("*")}
    assert modes == {0o600, 0o700}
    with pytest.raises(FileExistsError):
        harvest(root, tmp_path / "bytes", max_bytes=500, max_files=10)


def test_no_read_leaves_the_root_while_a_folder_and_a_link_change_places(root: Path, walk: bool) -> None:
    (root / "name").mkdir()
    (root / "name" / "secret").write_bytes(b"harmless")
    (root / "link").symlink_to("../outside")
    renameat2, exchange, here = ctypes.CDLL(None).renameat2, 2, -100
    names = here, os.fsencode(root / "name"), here, os.fsencode(root / "link"), exchange
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            renameat2(*names)

    attacker = threading.Thread(target=swap)
    attacker.start()
    outcomes = {b"harmless": 0, SECRET: 0, b"refused": 0}
    end = time.monotonic() + 1
    with Beneath(root, walk=walk) as folder:
        while time.monotonic() < end:
            try:
                outcomes[folder.read("name/secret", cap=CAP)] += 1
            except BadInput:
                outcomes[b"refused"] += 1
            try:
                folder.write("name/written", b"x")
            except BadInput:
                outcomes[b"refused"] += 1
    stop.set()
    attacker.join()
    assert outcomes[SECRET] == 0
    assert outcomes[b"harmless"] > 0
    assert outcomes[b"refused"] > 0
    assert sorted(path.name for path in (root.parent / "outside").iterdir()) == ["secret"]


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file.json", "{}")
    write_atomic(tmp_path / "file.json", "ä".encode(), mode=0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    assert (tmp_path / "file.json").read_text(encoding="utf-8") == "ä"
    assert stat.S_IMODE((tmp_path / "file.json").stat().st_mode) == 0o644
    with pytest.raises(IsADirectoryError):
        (tmp_path / "folder").mkdir()
        write_atomic(tmp_path / "folder", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "folder"]


def test_a_tree_of_any_depth_names_and_modes_is_removed_and_nothing_else(root: Path) -> None:
    (root / "to-outside").symlink_to(root.parent / "outside")
    os.mkfifo(root / "pipe")
    (root / ("n" * 255)).mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(3000):  # deeper than the limits on open files, on recursion and on the length of a path
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    locked = root / "locked" / "inner"
    locked.mkdir(parents=True)
    (locked / "file").write_bytes(b"x")
    locked.chmod(0o000)
    locked.parent.chmod(0o500)
    remove_tree(root)
    assert not root.exists()
    assert (root.parent / "outside" / "secret").read_bytes() == SECRET
    remove_tree(root)


def test_removing_a_link_leaves_what_it_points_to(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    remove_tree(root.parent / "link")
    assert not (root.parent / "link").is_symlink()
    assert (root / "plain.txt").exists()


def test_a_write_that_the_disk_refuses_keeps_the_old_file_and_is_no_refusal(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with Beneath(root) as folder, pytest.raises(OSError, match="File too large"):
            folder.write("plain.txt", bytes(5000))
        with pytest.raises(OSError, match="File too large"):
            write_atomic(root / "plain.txt", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in root.iterdir()} == {"plain.txt", "sub"}
    assert (root / "plain.txt").read_bytes() == b"plain"


def test_a_shown_name_is_one_printable_line() -> None:
    assert shown_name("a\nb\x1b[31mc\u202e\udcff" + "x" * 500).isprintable()
    assert len(shown_name("x" * 500)) <= 120

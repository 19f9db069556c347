"""The Python environment of an image is installed once, whole, and for every sandbox that needs it."""

import hashlib
import re
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clinloop.errors import SandboxUnavailable, Unknown
from clinloop.resources import resource
from clinloop.sandbox.base import Environment, Exit
from clinloop.sandbox.bubblewrap import Bubblewrap
from clinloop.sandbox.checks.bench import Bench
from clinloop.sandbox.environment import ensure_environment, find_environment
from clinloop.sandbox.recipes import Recipe, find_recipe
from clinloop.settings import Settings

LOCKS = sorted(resource("sandbox_images").glob("*/requirements.lock"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images with one, "tiny", that wants one local wheel."""
    wheel = tmp_path / "tiny_package-1.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_package.py", "VALUE = 42\n")
        archive.writestr(
            "tiny_package-1.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: Tiny-Package\nVersion: 1.5\n"
        )
        archive.writestr(
            "tiny_package-1.5.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_package-1.5.dist-info/RECORD", "")
    (tmp_path / "images" / "tiny").mkdir(parents=True)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = f"tiny-package @ {wheel.as_uri()} --hash=sha256:{digest}\n"
    (tmp_path / "images" / "tiny" / "requirements.lock").write_text(lock)
    (tmp_path / "images" / "tiny" / "image.toml").write_text('title = "Tiny"\n[variables]\nTINY = "yes"\n')
    return tmp_path / "images"


def _ensure(images: Path, cache: Path, lines: list[str] | None = None) -> Environment:
    return ensure_environment(_recipe(images), cache, report=[].append if lines is None else lines.append)


def _recipe(images: Path) -> Recipe:
    return find_recipe("tiny", (images,))


def test_environment_is_installed_on_first_use_and_found_afterwards(images: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    assert find_environment(_recipe(images), tmp_path / "cache") is None
    built = _ensure(images, tmp_path / "cache", lines)
    assert lines
    said = len(lines)
    assert _ensure(images, tmp_path / "cache", lines) == built
    assert len(lines) == said
    assert find_environment(_recipe(images), tmp_path / "cache") == built
    assert built.packages == {"tiny-package": "1.5"}
    found = subprocess.run(
        [built.python, "-c", "import tiny_package; print(tiny_package.VALUE)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "42\n"


def test_bytecode_is_compiled_and_files_are_readable_by_another_uid(images: Path, tmp_path: Path) -> None:
    folder = Path(_ensure(images, tmp_path / "cache").python).parent.parent
    assert list(folder.glob("lib/*/site-packages/__pycache__/tiny_package.*.pyc"))
    closed = [
        path
        for path in folder.rglob("*")
        if not path.is_symlink() and not path.stat().st_mode & 0o004 and path.name != ".lock"
    ]
    assert closed == []


def test_only_one_of_many_callers_installs(images: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: _ensure(images, tmp_path / "cache", lines), range(4)))
    assert results == [results[0]] * 4
    assert len([line for line in lines if "is ready" in line]) == 1


def test_half_an_installation_is_replaced(images: Path, tmp_path: Path) -> None:
    built = _ensure(images, tmp_path / "cache")
    folder = Path(built.python).parent.parent
    (folder / "clinloop.json").unlink()
    (folder / "left-over").touch()
    assert find_environment(_recipe(images), tmp_path / "cache") is None
    assert _ensure(images, tmp_path / "cache") == built
    assert not (folder / "left-over").exists()


def test_a_package_that_does_not_match_its_hash_is_refused_and_nothing_is_left(images: Path, tmp_path: Path) -> None:
    lock = images / "tiny" / "requirements.lock"
    lock.write_text(re.sub("sha256:.{8}", "sha256:00000000", lock.read_text()))
    with pytest.raises(SandboxUnavailable, match="could not be installed"):
        _ensure(images, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "environments").iterdir()] == [".lock"]


def test_a_changed_lock_is_another_environment(images: Path, tmp_path: Path) -> None:
    before = _ensure(images, tmp_path / "cache")
    with (images / "tiny" / "requirements.lock").open("a") as file:
        file.write("# changed\n")
    after = _ensure(images, tmp_path / "cache")
    assert before.digest != after.digest
    assert before.python != after.python


def test_unknown_image_is_refused_with_those_that_exist(images: Path) -> None:
    with pytest.raises(Unknown, match="tiny"):
        find_recipe("gpu", (images,))


@pytest.mark.sandbox
def test_environment_works_inside_a_sandbox(images: Path, tmp_path: Path) -> None:
    sandbox = Bubblewrap(Settings(state=tmp_path / "state", cache=tmp_path / "cache"))
    if not (probe := sandbox.probe()).usable:
        pytest.skip(f"bubblewrap cannot run here: {probe.problem} {probe.fix}")
    built = _ensure(images, tmp_path / "cache")
    bench = Bench(sandbox, tmp_path)
    known = {mount.target for mount in bench.job().mounts}
    extra = tuple(mount for mount in built.mounts if mount.target not in known)
    code = "import shutil, sys, tiny_package; print(tiny_package.VALUE, shutil.which('python') == sys.executable)"
    ended = bench.run(argv=(built.python, "-c", code), mounts=extra)
    assert (ended.exit, ended.log) == (Exit(0), "42 True\n")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.parent.name)
def test_a_lock_pins_every_package_by_hash_and_names_no_place(lock: Path) -> None:
    lines = lock.read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if re.match(r"[a-z0-9]", line)]
    assert pinned
    assert all(re.match(r"[a-z0-9.-]+==\S+( ; [^\\]+)? \\$", line) for line in pinned)
    rest = [line for line in lines if line not in pinned and not line.strip().startswith("#")]
    assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in rest)

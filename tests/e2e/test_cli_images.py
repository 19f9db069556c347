"""A custodian builds images and adds packages, for Docker or bubblewrap, with one command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clinloop.sandbox import images
from clinloop.settings import Settings, download_environment


def clinloop(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `clinloop images …` with state and cache below a folder."""
    own = {"CLINLOOP_CACHE": str(folder / "cache"), "COLUMNS": "200", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(
        [sys.executable, "-m", "clinloop", "images", *arguments, "--state", str(folder / "state")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**download_environment(), **own},
    )


def row(listed: subprocess.CompletedProcess[str], image: str, backend: str) -> list[str]:
    """Return the cells of a row of `images list`."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in listed.stdout.splitlines()]
    return next(cells for cells in rows if cells[:2] == [image, backend])


def test_without_docker_an_environment_is_built_once_and_packages_can_be_added(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "settings.json").write_text(json.dumps({"engine": f"unix://{tmp_path}/no.sock"}))
    built = clinloop(tmp_path, "build", "minimal")
    assert built.returncode == 0, built.stderr
    assert "No container engine answers" in built.stdout
    assert "minimal: environment" in built.stdout and "2 packages" in built.stdout
    listed = clinloop(tmp_path, "list")
    assert row(listed, "minimal", "bubblewrap")[4] == "2"
    assert row(listed, "cpu", "bubblewrap")[2] == "not built"
    assert row(listed, "detection", "bubblewrap")[5] == "ultralytics is AGPL-3.0"
    assert "no.sock" in listed.stdout
    before = row(listed, "minimal", "bubblewrap")[2]
    again = clinloop(tmp_path, "build", "minimal")
    assert "Installing" not in again.stdout and before in again.stdout
    more = clinloop(tmp_path, "build", "minimal", "--with", "colorama==0.4.6")
    assert more.returncode == 0, more.stderr
    assert "3 packages" in more.stdout
    listed = clinloop(tmp_path, "list")
    assert row(listed, "minimal", "bubblewrap")[2] not in ("not built", before)
    assert "With colorama==0.4.6." in listed.stdout
    (environment,) = (tmp_path / "cache" / "environments").glob("minimal-*/lib/python3*/site-packages/colorama")
    assert environment.is_dir()
    refused = clinloop(tmp_path, "build", "minimal", "--sandbox", "docker")
    assert refused.returncode == 1 and "No container engine answers" in refused.stderr


@pytest.mark.docker
def test_with_docker_a_container_image_is_built_once(tmp_path: Path, docker_base: str) -> None:
    built = clinloop(tmp_path, "build", "minimal", "--base-image", docker_base)
    assert built.returncode == 0, built.stderr
    settings = Settings(state=tmp_path / "state", cache=tmp_path / "cache")
    with images.connect(settings) as client:
        found = images.find_image(client, "minimal", settings)
    assert found is not None
    digest = found.id.removeprefix("sha256:")[:12]
    assert f"minimal: container image {digest}, 2 packages." in built.stdout
    again = clinloop(tmp_path, "build", "minimal")
    assert "Building" not in again.stdout and digest in again.stdout
    assert row(clinloop(tmp_path, "list"), "minimal", "docker")[2] == digest


@pytest.mark.docker
def test_a_base_that_cannot_be_had_ends_in_one_sentence(tmp_path: Path, docker_base: str) -> None:
    refused = clinloop(tmp_path, "build", "minimal", "--base-image", "nowhere.invalid/base:1")
    assert refused.returncode == 1
    assert "--base-image" in refused.stderr and "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1

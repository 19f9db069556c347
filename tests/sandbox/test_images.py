"""Container images hold exactly their lock, nothing to build with, and no root; what the custodian adds makes another image."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from clinloop.errors import BadInput, SandboxUnavailable
from clinloop.paths import StateFolder
from clinloop.resources import resource
from clinloop.sandbox import images
from clinloop.sandbox.docker import Docker
from clinloop.sandbox.recipes import all_recipes, find_recipe, folders, locked
from clinloop.sandbox.variants import add_packages
from clinloop.settings import Settings

COLORAMA = """\
colorama==0.4.6 \\
    --hash=sha256:4f1d9991f5acc0ca119f9d443620b77f9d6b33703e51011c16baf57afb285fc6
"""
PROBE = """
import importlib.util, json, os, shutil
tools = [name for name in ("pip", "pip3", "uv", "gcc", "cc", "g++", "c++", "clang", "ld", "make") if shutil.which(name)]
print(json.dumps({"uid": os.getuid(), "gid": os.getgid(), "tools": tools, "pip": importlib.util.find_spec("pip") is not None}))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state", cache=tmp_path / "cache")


@pytest.fixture
def client(settings: Settings, docker_base: str) -> Generator[APIClient]:
    """The engine; the variants that a test has built are removed."""
    shipped = {recipe.content for recipe in all_recipes((resource("sandbox_images"),))}
    with images.connect(settings) as client:
        yield client
        for recipe in all_recipes(folders(settings)):
            if recipe.content not in shipped:
                for found in client.images(filters={"label": f"{images.CONTENT}={recipe.content}"}):
                    client.remove_image(found["Id"], force=True)


def build(client: APIClient, settings: Settings, base: str = "", lines: list[str] | None = None) -> images.BuiltImage:
    return images.build_image(
        client, "minimal", settings, base=base, report=[].append if lines is None else lines.append
    )


def run(client: APIClient, image: str, code: str) -> Any:
    """Return what code prints as JSON in a container without network."""
    host = client.create_host_config(network_mode="none", read_only=True, cap_drop=["ALL"], tmpfs={"/tmp": "size=64m"})
    container = client.create_container(image, command=[images.PYTHON, "-c", code], host_config=host)["Id"]
    try:
        client.start(container)
        status = client.wait(container, timeout=60)["StatusCode"]
        said = client.logs(container).decode()
    finally:
        client.remove_container(container, force=True)
    assert status == 0, said
    return json.loads(said)


@pytest.mark.docker
def test_the_engine_runs_containers_and_has_every_image(client: APIClient, settings: Settings) -> None:
    """Where this is skipped, tests of the Docker backend are; in CI that fails."""
    if not (probe := Docker(settings).probe()).usable:
        pytest.skip(f"{probe.problem} {probe.fix}")
    shipped = (resource("sandbox_images"),)
    absent = [one.name for one in all_recipes(shipped) if images.find_image(client, one.name, settings) is None]
    if absent:
        pytest.skip(f"not built: {', '.join(absent)}; run scripts/docker_ci.sh")


@pytest.mark.docker
def test_an_image_holds_its_lock_and_a_second_build_finds_it(
    client: APIClient, settings: Settings, docker_base: str
) -> None:
    built = build(client, settings, docker_base)
    pins = locked(find_recipe("minimal", folders(settings)).lock)
    assert built.packages == pins
    assert built.python_version.startswith("3.11.")
    lines: list[str] = []
    assert build(client, settings, lines=lines) == built == images.find_image(client, "minimal", settings)
    assert build(client, settings, docker_base, lines=lines) == built
    assert lines == []
    environment = images.as_environment(built, settings)
    assert environment.image == built.id == f"sha256:{environment.digest}"


@pytest.mark.docker
@pytest.mark.parametrize("name", ["minimal", "cpu", "detection"])
def test_an_image_has_no_root_no_pip_and_no_compiler(
    client: APIClient, settings: Settings, docker_base: str, name: str
) -> None:
    if name == "minimal":
        build(client, settings, docker_base)
    found = images.find_image(client, name, settings)
    if found is None:
        pytest.skip(f"image {name} is not built: clinloop images build {name}")
    assert run(client, found.id, PROBE) == {"uid": 65532, "gid": 65532, "tools": [], "pip": False}


@pytest.mark.docker
def test_a_detector_is_made_offline_in_the_detection_image(client: APIClient, settings: Settings) -> None:
    found = images.find_image(client, "detection", settings)
    if found is None:
        pytest.skip("image detection is not built: clinloop images build detection")
    assert "AGPL-3.0" in client.inspect_image(found.id)["Config"]["Labels"][images.NOTICE]
    assert "opencv-python" not in found.packages
    code = (
        "import contextlib, io, json\nwith contextlib.redirect_stdout(io.StringIO()):\n"
        " import torch, ultralytics; model = ultralytics.YOLO('yolov8n.yaml')\n"
        "print(json.dumps([ultralytics.__version__, torch.__version__]))"
    )
    environment = images.as_environment(found, settings)
    versions = run(client, found.id, code)
    assert versions[0] == environment.packages["ultralytics"]
    cpu = images.find_image(client, "cpu", settings)
    assert cpu is not None and cpu.packages["torch"] == environment.packages["torch"] == versions[1].partition("+")[0]


@pytest.mark.docker
def test_added_packages_make_another_image_in_which_they_import(
    client: APIClient, settings: Settings, docker_base: str
) -> None:
    plain = build(client, settings, docker_base)
    add_packages("minimal", ["colorama==0.4.5"], settings, report=[].append)
    assert images.find_image(client, "minimal", settings) is None
    variant = build(client, settings)  # on the base of the first
    assert variant.id != plain.id
    assert variant.packages == {**plain.packages, "colorama": "0.4.5"}
    assert run(client, variant.id, "import colorama, json; print(json.dumps(colorama.__version__))") == "0.4.5"
    other = Settings(state=settings.state.with_name("other"), cache=settings.cache)
    assert images.find_image(client, "minimal", other) == plain


@pytest.mark.docker
def test_a_build_that_fails_ends_in_one_sentence_with_the_cause(
    client: APIClient, settings: Settings, docker_base: str
) -> None:
    own = StateFolder(settings.state).images / "minimal"
    own.mkdir(parents=True)
    lock = find_recipe("minimal", folders(settings)).lock.read_text()
    (own / "requirements.lock").write_text(re.sub("sha256:.{8}", "sha256:00000000", lock))
    with pytest.raises(SandboxUnavailable, match=r"'minimal' could not be built on .*ERROR: .*HASHES"):
        build(client, settings, docker_base)
    assert not [
        found for found in client.containers(all=True) if found["State"] != "running" and "pip" in found["Command"]
    ]


@pytest.mark.docker
def test_a_base_image_that_cannot_be_had_is_named(client: APIClient, settings: Settings) -> None:
    with pytest.raises(SandboxUnavailable, match=r"base image nowhere\.invalid/base:1 .* --base-image"):
        images.build_image(client, "minimal", settings, base="nowhere.invalid/base:1", report=[].append)


def test_without_an_engine_the_refusal_says_where_one_was_looked_for(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path, cache=tmp_path, engine=f"unix://{tmp_path}/no.sock")
    with pytest.raises(images.NoEngine, match=r"no\.sock"), images.connect(settings):
        pass


def test_every_image_says_what_it_is_for_and_has_a_lock(settings: Settings) -> None:
    for recipe in all_recipes(folders(settings)):
        assert recipe.title and recipe.lock.is_file()
        assert recipe.main_packages.keys() <= locked(recipe.lock).keys()
    assert find_recipe("cuda", folders(settings)).lock == find_recipe("cpu", folders(settings)).lock


def test_detection_pins_what_cpu_pins_and_says_agpl(settings: Settings) -> None:
    cpu, detection = (find_recipe(name, folders(settings)) for name in ("cpu", "detection"))
    pins = locked(detection.lock)
    assert {name: pins[name] for name in locked(cpu.lock)} == locked(cpu.lock)
    assert "AGPL-3.0" in detection.notice
    assert "ultralytics" in detection.main_packages and "torch" in detection.main_packages


def test_the_content_of_an_image_changes_with_its_lock_and_with_its_parents(settings: Settings) -> None:
    before = {recipe.name: recipe.content for recipe in all_recipes(folders(settings))}
    own = StateFolder(settings.state).images / "cpu"
    own.mkdir(parents=True)
    (own / "requirements.lock").write_bytes(find_recipe("cpu", folders(settings)).lock.read_bytes() + b"\n")
    after = {recipe.name: recipe.content for recipe in all_recipes(folders(settings))}
    assert [name for name in before if before[name] != after[name]] == ["cpu", "cuda", "detection"]


def test_packages_are_added_one_by_one_and_keep_what_was_locked(settings: Settings) -> None:
    plain = find_recipe("minimal", folders(settings))
    add_packages("minimal", ["colorama==0.4.5"], settings, report=[].append)
    lines: list[str] = []
    add_packages("minimal", ["Colorama==0.4.6", "toml==0.10.2"], settings, report=lines.append)
    assert lines
    recipe = find_recipe("minimal", folders(settings))
    assert recipe.added == ("Colorama==0.4.6", "toml==0.10.2")
    assert locked(recipe.lock) == {**locked(plain.lock), "colorama": "0.4.6", "toml": "0.10.2"}
    assert recipe.main_packages == {**plain.main_packages, "colorama": "0.4.6", "toml": "0.10.2"}
    said = len(lines)
    assert add_packages("minimal", ["toml==0.10.2"], settings, report=lines.append) == recipe
    assert len(lines) == said


def test_a_folder_of_the_custodian_is_an_image_of_its_own(settings: Settings) -> None:
    own = StateFolder(settings.state).images / "house"
    own.mkdir(parents=True)
    (own / "image.toml").write_text('title = "Ours"\nparent = "minimal"\n[variables]\nHOUSE = "yes"\n')
    recipe = find_recipe("house", folders(settings))
    assert recipe.lock == find_recipe("minimal", folders(settings)).lock
    assert recipe.variables == {"HOUSE": "yes"} and 'ENV HOUSE="yes"' in recipe.dockerfile
    (own / "requirements.lock").write_text(f"tiny==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    assert find_recipe("house", folders(settings)).main_packages == {"tiny": "1.0"}


@pytest.mark.parametrize(
    "pin", ["monai", "monai>=1", "monai==1.5 --index-url=x", "-r x==1", "a==1; b", "https://x/y==1", "a==*"]
)
def test_only_a_name_with_a_version_can_be_added(settings: Settings, pin: str) -> None:
    with pytest.raises(BadInput, match="NAME==VERSION"):
        add_packages("minimal", [pin], settings, report=[].append)


def test_packages_that_cannot_be_had_are_refused_and_change_nothing(settings: Settings) -> None:
    with pytest.raises(SandboxUnavailable, match=r"cannot be had together with numpy==1\.0"):
        add_packages("minimal", ["numpy==1.0"], settings, report=[].append)
    assert find_recipe("minimal", folders(settings)).added == ()


@pytest.mark.docker
def test_another_base_is_another_image_and_its_children_follow(
    client: APIClient, settings: Settings, docker_base: str
) -> None:
    own = StateFolder(settings.state).images
    for name, facts in (("house", ""), ("child", 'parent = "house"\n')):
        (own / name).mkdir(parents=True)
        (own / name / "image.toml").write_text(f'title = "Ours"\n{facts}')
    (own / "house" / "requirements.lock").write_text(COLORAMA)
    first = images.build_image(client, "child", settings, base=docker_base, report=[].append)
    assert first.packages == {"colorama": "0.4.6"}
    container = client.create_container(docker_base, command=["true"])["Id"]
    other = client.commit(container, repository="clinloop/base", tag="test-other")["Id"]
    client.remove_container(container)
    try:
        second = images.build_image(client, "child", settings, base="clinloop/base:test-other", report=[].append)
        lines: list[str] = []
        assert images.build_image(client, "child", settings, report=lines.append) == second
    finally:
        client.remove_image("clinloop/base:test-other", noprune=True)
    assert lines == []
    assert second.id != first.id and second.packages == first.packages
    parent = images.find_image(client, "house", settings)
    assert parent is not None and client.inspect_image(parent.id)["Config"]["Labels"][images.FROM] == other
    assert images.build_image(client, "child", settings, report=[].append) == second  # whatever became of the base

"""What code can import is known before the first run, and an import that fails says how to get the package."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client

from clinloop.app import build
from clinloop.paths import StateFolder
from clinloop.resources import resource
from clinloop.sandbox.recipes import find_recipe, folders, locked
from clinloop.services import Services

from .conftest import ERAS, REQUEST, SPEC, Agent

pytestmark = pytest.mark.anyio


async def test_inspection_and_task_list_what_the_image_has_with_versions(agent: Agent, services: Services) -> None:
    pins = locked(find_recipe("minimal", folders(services.settings)).lock)
    summary = await agent.call("inspect_dataset", dataset="moles")
    minimal = next(image for image in summary["images"] if image["name"] == "minimal")
    assert minimal["packages"] == {name: pins[name] for name in ("numpy", "pillow")}
    cpu = next(image for image in summary["images"] if image["name"] == "cpu")
    assert {"torch", "torchvision", "timm", "scikit-learn"} <= cpu["packages"].keys()
    task = await _task(agent)
    assert task["image"] == minimal


async def test_the_custodians_additions_and_the_licence_are_shown(services: Services) -> None:
    own = StateFolder(services.settings.state).images / "detection"
    own.mkdir(parents=True)
    lock = (resource("sandbox_images") / "detection" / "requirements.lock").read_text()
    (own / "requirements.lock").write_text(lock + "tiny-extra==1.5 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    (own / "added.txt").write_text("tiny-extra==1.5\n")
    settings = services.settings.model_copy(update={"image": "detection"})
    async with Client(build(Services(settings, accept_no_isolation=True)), mode=ERAS[0]) as client:
        agent = Agent(client)
        task = await _task(agent)
        assert task["image"]["packages"]["tiny-extra"] == "1.5"
        assert "ultralytics" in task["image"]["packages"]
        assert "AGPL-3.0" in task["image"]["licence"]
        listed = await agent.call("inspect_dataset", view="packages")
    assert "AGPL-3.0" in listed["facts"]["packages"][0]
    assert "detection: tiny-extra 1.5" in listed["facts"]["packages"]
    assert "clinloop images build" in listed["next_step"]


async def test_all_packages_of_a_built_image_are_listed_with_its_python(agent: Agent) -> None:
    await agent.run(await agent.begin())  # builds the environment of `minimal`
    listed = await agent.call("inspect_dataset", view="packages")
    header = next(line for line in listed["facts"]["packages"] if line.startswith("image minimal: "))
    assert "Python 3." in header
    assert any(line.startswith("minimal: numpy 2.") for line in listed["facts"]["packages"])


async def test_a_run_that_misses_a_package_says_how_to_get_it(agent: Agent) -> None:
    task_id = await agent.begin()
    await agent.call(
        "edit_workspace", task_id=task_id, operation="create", path="train.py", text="import monai\n", overwrite=True
    )
    run = await agent.run(task_id, mode="smoke")
    assert run["status"] == "failed"
    assert run["ran_in"].startswith("none, image minimal ")
    seen = await agent.call("read_validation", task_id=task_id)
    assert "no module 'monai'" in seen["next_step"]
    assert "clinloop images build minimal --with" in seen["next_step"]
    listed = await agent.call("read_validation", task_id=task_id, view="runs")
    assert listed["run"]["ran_in"] and not listed["runs"][0]["ran_in"]


async def _task(agent: Agent) -> dict[str, Any]:
    return await agent.call("init_task", dataset="moles", request=REQUEST, spec=SPEC, template="linear")

"""Exports of a delivered model: which model it is, and the folder of an algorithm container for grand-challenge.org."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from clinloop.datasets.dataset import Dataset
from clinloop.errors import BadInput
from clinloop.files import remove_tree, sha256_file
from clinloop.resources import resource
from clinloop.services import Services
from clinloop.store.rows import TaskRow

_SHIPPED = ("Dockerfile", "inference.py", "requirements.lock", "test_run.sh", "save.sh")
_OUTPUTS = {
    "classification": "class-probabilities",
    "detection": "detected-boxes",
    "segmentation": "segmentation",
}
"""Slug of the output interface by task type, to be changed to the one that the platform has."""
_KINDS = {
    "classification": "kind *Anything*: `{probabilities: {class: p}, positive: {class: whether p reaches the threshold}}`",
    "detection": "kind *2D bounding boxes*: corners in mm (in pixels without spacing), each with its probability",
    "segmentation": "kind *Segmentation*, in `/output/images/<slug>/`: 1 = target; the JSON beside it holds its size in pixels",
}


class Delivered(NamedTuple):
    """The model folder of an evaluated task."""

    task: TaskRow
    folder: Path
    facts: dict[str, Any]
    """Content of operating_points.json: run, classes, targets, thresholds."""


def delivered(services: Services, task_id: str) -> Delivered:
    """Return the model of a task, each of its files compared with the manifest.

    Raises:
        Unknown: there is no such task.
        BadInput: it is not evaluated yet, or a file of its model is not what was delivered.
    """
    task = services.store.task(task_id)
    folder = services.state.task(task_id).model
    if task.status != "evaluated" or not (folder / "MANIFEST.json").is_file():
        raise BadInput(f"Task {task_id} is {task.status} and has no model yet; the agent calls finalize, then it has.")
    rows = [row.detail for row in services.store.ledger(f"task:{task_id}") if row.event == "scored"]
    listed = rows[-1]["model"] if rows else {}
    present = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} - {"MANIFEST.json"}
    if present != set(listed) or any(sha256_file(folder / name) != digest for name, digest in listed.items()):
        raise BadInput(
            f"The model folder of {task_id} is not what was delivered, so it is not exported: clinloop verify names the files."
        )
    return Delivered(task, folder, json.loads((folder / "operating_points.json").read_text(encoding="utf-8")))


def new_folder(target: Path) -> Path:
    """Return the folder that an export is built in before it gets its name.

    Raises:
        BadInput: the target exists and is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target} is not empty; name a new folder with --out.")
    building = target.absolute().with_name(f".{target.name}-building")
    remove_tree(building)
    building.mkdir(parents=True)
    return building


def place(building: Path, target: Path) -> None:
    """Give a finished export its name."""
    if target.exists():
        target.rmdir()
    building.rename(target.absolute())


def grand_challenge(services: Services, task_id: str, target: Path, *, input_slug: str, output_slug: str = "") -> Path:
    """Write an algorithm container folder for grand-challenge.org: Dockerfile, inference.py, the model, scripts, README.

    Nothing is built or run here, so no code of the workspace is executed.

    Raises:
        BadInput: the model cannot be exported, a slug is none, or the target is not empty.
    """
    model = delivered(services, task_id)
    spec = model.task.spec
    slugs = input_slug, output_slug or _OUTPUTS[spec.task_type]
    if wrong := [slug for slug in slugs if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)]:
        raise BadInput(f"{wrong[0]!r} is no slug: small letters and digits, joined by hyphens, e.g. dermoscopy-image.")
    dataset = Dataset.load(services.settings.state, model.task.dataset)
    source = resource("sandbox_images") / "grand_challenge"
    building = new_folder(target)
    for name in _SHIPPED:
        text = (source / name).read_text(encoding="utf-8").replace("@TAG@", f"clinloop-{task_id}")
        (building / name).write_text(text, encoding="utf-8")
        (building / name).chmod(0o755 if name.endswith(".sh") else 0o644)
    shutil.copytree(model.folder, building / "model")
    (building / "test" / "input" / "images" / slugs[0]).mkdir(parents=True)
    interfaces = {
        "input_slug": slugs[0],
        "output_slug": slugs[1],
        "task_type": spec.task_type,
        "classes": model.facts["classes"],
        "targets": model.facts["targets"],
        "operating_points": model.facts["operating_points"],
        "attributes": list(dataset.attributes),
    }
    (building / "interfaces.json").write_text(json.dumps(interfaces, indent=1), encoding="utf-8")
    (building / "README.md").write_text(_readme(model, dataset, *slugs), encoding="utf-8")
    place(building, target)
    return target


def _readme(model: Delivered, dataset: Dataset, input_slug: str, output_slug: str) -> str:
    kind = model.task.spec.task_type
    rules = "\n".join(f"- {name}: {text}" for name, text in dataset.record.image_rules.items())
    return f"""# Algorithm container of task {model.task.id}, {model.facts["run"]}

For research use only. This is not a medical device and must not guide the care of a patient.

## What you must set on the platform
| interface | slug here | what it is |
|---|---|---|
| input | `{input_slug}` | one two-dimensional image, in `/input/images/{input_slug}/` (.mha, .tif, .png or .jpg) |
| output | `{output_slug}` | {_KINDS[kind]}; `/output/{output_slug}.json` |

Slugs are in `interfaces.json`: change them there to those of your algorithm on grand-challenge.org, nothing else depends on them.
The platform runs one image a job, without a network. `inference.py` writes it as PNG into a folder, calls the delivered `predict.py` as it is, and translates
its predictions. Attributes that the training data had are left empty: {", ".join(dataset.attributes) or "there were none"}.

## Use
- `./test_run.sh` builds the container and runs it on what you put into `test/input/images/{input_slug}/`.
- `./save.sh` writes the image as `.tar.gz`, and the model as `model.tar.gz`: uploaded by itself it is unpacked at `/opt/ml/model` and used instead of the one inside.

## Pixels
An image of more than 8 bits is scaled from its least to its greatest value. What was done to the images that the model was trained on:
{rules or "- nothing is recorded"}

If your images come from another source, do the same to them before they reach the container.
"""

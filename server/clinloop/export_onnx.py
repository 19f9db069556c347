"""The model of a task as ONNX: written by its export.py in the sandbox of its image, compared by ONNX Runtime in another, then kept.

Neither the checkpoint nor the ONNX file is ever parsed in this process. The comparison is twofold: what the ONNX file answers against
what the network answers to the same input, and, in a classification, against what predict.py answered when the run was scored. So an
export.py that does something else than predict.py is found, whatever it writes itself.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from clinloop import context, evaluation, templates
from clinloop.beneath import Beneath
from clinloop.context import TaskContext
from clinloop.datasets.pictures import prepare_predict_view
from clinloop.delivery import Frozen
from clinloop.errors import BadInput, NotNow, Refusal
from clinloop.export import delivered, new_folder, place
from clinloop.files import remove_tree
from clinloop.opening import Invalid
from clinloop.resources import resource
from clinloop.sandbox.base import Environment, Job, Mount
from clinloop.sandbox.environment import alone
from clinloop.scoring import service
from clinloop.services import Services

IMAGE = "onnx"
"""Sandbox image that compares: ONNX Runtime and no torch."""
SCRIPT = "export.py"
CASES = 16
"""Validation images that are compared."""
TOLERANCE = 1e-4
"""Largest difference of a probability between ONNX Runtime and torch: both compute in float32."""
GPU_TOLERANCE = 2e-2
"""The same against predictions that were made on a GPU in bfloat16, whose numbers have 8 bits."""
_FILES = {"model.onnx": 2 << 30, "inputs.npy": 256 << 20, "expected.npy": 256 << 20}
"""Files that export.py leaves, and their most bytes; a protobuf holds no more than 2 GiB."""
_SECONDS = 600.0
_POLL_S = 0.2


class Comparison(BaseModel):
    """What parity.py found; `rows` are the answers where they are one row an image."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    images: int
    largest_difference: float
    input_shape: list[int]
    input_type: str
    output_shape: list[int]
    rows: list[list[float]] | None


class Parity(NamedTuple):
    """How far the ONNX file is from the model."""

    images: int
    network: float
    """Largest difference from the network's own answers."""
    predictions: float | None
    """Largest difference from the predictions that the server scored; None where they are no probabilities."""
    allowed: float
    """Most that `predictions` may be."""

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        scored = "" if self.predictions is None else f", {self.predictions:.2g} from the predictions that were scored"
        return f"On {self.images} validation images it is at most {self.network:.2g} from the network{scored}."


def export_onnx(services: Services, task_id: str, target: Path, *, report: Callable[[str], None]) -> Parity:
    """Write model.onnx, parity.json and operating_points.json into a new folder; nothing is written when the comparison fails.

    Raises:
        Unknown, BadInput: no such task, no model yet, no export.py for it, or the target is not empty.
        NotNow: export.py failed, or the ONNX file answers something else than the model.
        SandboxUnavailable: an image is not built; the text says how.
    """
    model = delivered(services, task_id)
    here = context.assemble(services.store, task_id, services.launch_settings)
    checker = here.sandbox.environment(IMAGE, report=report)
    try:
        frozen = next(one for one in evaluation.read_frozen(here, services.store) if one.model == "refined")
    except Invalid as fault:
        raise NotNow(f"The model of task {task_id} cannot be used, because {fault}.") from fault
    on_gpu = bool(services.store.run(task_id, frozen.run).gpus)
    building, room = new_folder(target), here.folder.root / "export"
    with alone(here.folder.root / "export.lock"):
        remove_tree(room)
        room.mkdir(mode=0o700)
        try:
            facts = _convert_and_compare(here, frozen, checker, room, report)
            parity = judge(facts, _known(here, frozen, facts), on_gpu=on_gpu)
            shutil.copyfile(room / "kept" / "model.onnx", building / "model.onnx")
            shutil.copyfile(model.folder / "operating_points.json", building / "operating_points.json")
            (building / "parity.json").write_text(json.dumps(_about(facts, parity, frozen), indent=1), encoding="utf-8")
            place(building, target)
        finally:
            remove_tree(room)
            remove_tree(building)
    return parity


def judge(facts: Comparison, known: Sequence[Sequence[float]] | None, *, on_gpu: bool) -> Parity:
    """Return the comparison of an ONNX file.

    known: the scored predictions of the same images in the same order; None where they are no probabilities.

    Raises:
        NotNow: it differs by more than is allowed.
    """
    if facts.largest_difference > TOLERANCE:
        raise NotNow(
            f"The ONNX file answers something else than the network: a probability differs by {facts.largest_difference:.3g}, allowed are "
            f"{TOLERANCE:g}. Nothing was exported; look for layers that act differently when they are traced."
        )
    allowed = GPU_TOLERANCE if on_gpu else TOLERANCE
    if known is None:
        return Parity(facts.images, facts.largest_difference, None, allowed)
    rows = facts.rows or []
    if [len(row) for row in rows] != [len(row) for row in known]:
        raise NotNow(f"The ONNX file answers {facts.output_shape} an image, not one probability a class.")
    largest = max(abs(a - b) for row, other in zip(rows, known, strict=True) for a, b in zip(row, other, strict=True))
    if largest > allowed:
        raise NotNow(
            f"The ONNX file answers something else than predict.py did: a probability differs by {largest:.3g}, allowed are {allowed:g}. "
            f"Nothing was exported; {SCRIPT} must prepare images and average answers as predict.py does."
        )
    return Parity(facts.images, facts.largest_difference, largest, allowed)


def _known(here: TaskContext, frozen: Frozen, facts: Comparison) -> list[Sequence[float]] | None:
    """Return the scored predictions of the compared images, in order of their ids."""
    if here.scheme.task_type != "classification":
        return None
    ids = [case.case_id for case in here.val_cases]
    known = service.read_probabilities(here.folder.run(frozen.run).predictions, scheme=here.scheme, expected=ids)
    return [known[case_id] for case_id in sorted(ids)[: facts.images]]


def _about(facts: Comparison, parity: Parity, frozen: Frozen) -> dict[str, object]:
    return {
        "run": frozen.run,
        "checkpoint_sha256": frozen.checkpoint_sha256,
        "input": {"name": "images", "type": facts.input_type, "shape": ["n", *facts.input_shape]},
        "output": {"name": "probabilities", "shape": ["n", *facts.output_shape]},
        "images_compared": parity.images,
        "largest_difference_from_network": parity.network,
        "largest_difference_from_scored_predictions": parity.predictions,
        "allowed": {"network": TOLERANCE, "scored_predictions": parity.allowed},
        "note": "Research use only. How an image becomes the input: the decoding in the code of the model folder.",
    }


# in sandboxes ----------------------------------------------------------------------------------------------------


def _convert_and_compare(
    here: TaskContext, frozen: Frozen, checker: Environment, room: Path, report: Callable[[str], None]
) -> Comparison:
    code, view, kept = room / "code", room / "view", room / "kept"
    shutil.copytree(frozen.folder / "code", code)
    if not (code / SCRIPT).is_file():
        shutil.copyfile(_template_script(here), code / SCRIPT)
    cases = sorted(here.val_cases, key=lambda case: case.case_id)[:CASES]
    prepare_predict_view(cases, view)
    report(f"Converting {frozen.run} of {here.task.id} in a sandbox.")
    argv = (SCRIPT, "--images", "/predict/images", "--checkpoint", "/checkpoint", "--out", "/out")
    mounts = (Mount(code, "/workspace"), Mount(view, "/predict"), Mount(frozen.folder / "checkpoint", "/checkpoint"))
    out = _run(here, here.environment, "export", argv, mounts, room)
    kept.mkdir(mode=0o700)
    with Beneath(out) as written:
        for name, cap in _FILES.items():
            if not written.exists(name):
                raise NotNow(f"{SCRIPT} left no file {name}; it must call write_onnx of clinloop_runtime.to_onnx.")
            written.copy(name, kept / name, cap=cap)
    for path in (kept, *kept.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    report("Comparing the ONNX file with the model in another sandbox.")
    argv = ("/runtime/clinloop_runtime/parity.py", "/exported", "/out/parity.json")
    out = _run(here, checker, "parity", argv, (Mount(kept, "/exported"),), room)
    with Beneath(out) as written:
        found = written.read("parity.json", cap=16 << 20)
    try:
        facts = Comparison.model_validate_json(found)
    except ValidationError as error:
        raise NotNow("The comparison gave no result that can be read; nothing was exported.") from error
    if facts.images != len(cases):
        raise NotNow(f"{SCRIPT} exported inputs of {facts.images} images, not of the {len(cases)} that it was given.")
    return facts


def _template_script(here: TaskContext) -> Path:
    template = templates.find(here.task.template, here.task.spec.task_type)
    if not (script := template.folder / SCRIPT).is_file():
        raise BadInput(
            f"The workspace has no {SCRIPT} and neither has its template {template.name}, so nothing says how its model becomes ONNX; "
            "export it as grand-challenge, which takes predict.py as it is."
        )
    return script


def _run(
    here: TaskContext, environment: Environment, what: str, argv: Sequence[str], mounts: Sequence[Mount], room: Path
) -> Path:
    """Run a Python script to its end in a fresh sandbox and return the folder that it saw as /out.

    Raises:
        NotNow: it failed; a note for the custodian holds the end of its log.
    """
    out, log = room / f"out-{what}", room / f"log-{what}.txt"
    out.mkdir(mode=0o700)
    runtime = Mount(resource("sandbox_images") / "runtime", "/runtime")
    job = Job(
        name=f"{here.task.id}-{what}",
        argv=(environment.python, *argv),
        workdir="/workspace" if what == "export" else "/runtime",
        mounts=(*environment.mounts, runtime, *mounts, Mount(out, "/out", writable=True)),
        limits=here.settings.limits,
        wall_seconds=_SECONDS,
        log=log,
        environment={
            "PYTHONPATH": "/runtime",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            **environment.variables,
        },
        image=environment.image,
    )
    here.sandbox.stop(job.name)
    deadline = time.monotonic() + _SECONDS
    ref = here.sandbox.start(job)
    try:
        while (ending := here.sandbox.wait(ref, _POLL_S)) is None and time.monotonic() < deadline:
            pass
    finally:
        here.sandbox.stop(ref)
    if ending is None or ending.code != 0:
        how = f"ended with exit status {ending.code}" if ending else f"was ended after {_SECONDS:.0f} s"
        refusal: Refusal = NotNow(f"{Path(argv[0]).name} {how}; nothing was exported.")
        if log.is_file():
            refusal.add_note(log.read_text(encoding="utf-8", errors="replace")[-2000:])
        raise refusal
    return out

"""The export.py of each template writes an ONNX file that answers what its network answers, for any number of images."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop import templates
from clinloop.export_onnx import IMAGE, TOLERANCE, Comparison
from clinloop.resources import resource
from clinloop.sandbox.environment import ensure_environment
from clinloop.sandbox.recipes import find_recipe
from clinloop.settings import load_settings

RUNTIME = resource("sandbox_images") / "runtime"
PX, N = 64, 4
UNTRAINED = f"""
import runpy, sys
from pathlib import Path
import model
place, classes = Path(sys.argv[1]), ["a", "b", "c"]
arch = "test_resnet.r160_in1k"
net, _ = model.build(*((arch,) if sys.argv[2] == "segmentation" else (arch, len(classes))))
about = dict(arch=arch, classes=classes, px={PX}, mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.3], threshold=0.5)
model.save(place / "checkpoint", net, about)
sys.argv = ["export.py", "--images", str(place / "images"), "--checkpoint", str(place / "checkpoint"), "--out", str(place)]
runpy.run_path("export.py")
"""
"""Saves an untrained network as train.py would, and exports it."""


def python_of(image: str) -> str:
    recipe = find_recipe(image, (resource("sandbox_images"),))
    return ensure_environment(recipe, load_settings().cache, report=lambda line: None).python


@pytest.mark.parametrize("name", [t.name for t in templates.all_templates() if "export.py" in t.files])
def test_the_onnx_file_of_a_template_answers_what_its_network_answers(name: str, tmp_path: Path) -> None:
    template = next(t for t in templates.all_templates() if t.name == name)
    (tmp_path / "images").mkdir()
    drawn = np.random.default_rng(0).integers(0, 256, (N, 70, 90, 3)).astype(np.uint8)
    for number, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(tmp_path / "images" / f"c{number}.png")
    for image, argv in (
        (template.image, ["-c", UNTRAINED, str(tmp_path), template.task_types[0]]),
        (IMAGE, [str(RUNTIME / "clinloop_runtime" / "parity.py"), str(tmp_path), str(tmp_path / "parity.json")]),
    ):
        done = subprocess.run(
            [python_of(image), *argv],
            cwd=template.folder,
            env=os.environ | {"PYTHONPATH": str(RUNTIME), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    found = Comparison.model_validate_json((tmp_path / "parity.json").read_bytes())
    assert found.images == N and found.largest_difference < TOLERANCE / 10
    assert (found.input_shape, found.input_type) == ([PX, PX, 3], "uint8")
    if template.task_types[0] == "segmentation":
        assert found.output_shape == [1, PX, PX]
    else:
        np.testing.assert_allclose(
            np.sum(json.loads((tmp_path / "parity.json").read_text())["rows"], axis=1), 1, atol=1e-5
        )

"""A model becomes ONNX in sandboxes, and an export.py that answers something else than predict.py exports nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clinloop import export_onnx
from clinloop.errors import BadInput, NotNow
from clinloop.files import sha256_file

from .lab import GOOD_TRAIN, Lab, predict_code

pytestmark = pytest.mark.sandbox
COLOURS = """
import numpy as np
from PIL import Image
def colours(paths):
    return np.array([Image.open(path).convert("RGB").resize((1, 1)).getpixel((0, 0)) for path in paths], dtype=np.float32) / 255
def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
"""
PREDICT = predict_code(COLOURS + "rows = softmax(colours([path for _, path in predict_cases(args.images)])).tolist()")
SOFTMAX = (
    "CAg6bwotCgZpbWFnZXMSDXByb2JhYmlsaXRpZXMiB1NvZnRtYXgqCwoEYXhpcxgBoAECEgFnWhkKBmltYWdlcxIPCg0IARIJCgMSAW4KAggDYiAKDXByb2JhYmls"
    "aXRpZXMSDwoNCAESCQoDEgFuCgIIA0IECgAQEQ=="
)
"""An ONNX file of one operator, Softmax over three numbers, made with onnx.helper and checked with onnx.checker."""
EXPORT = f"""
import base64, sys
from pathlib import Path
from clinloop_runtime import predict_cases
{COLOURS}
arguments = dict(zip(sys.argv[1::2], map(Path, sys.argv[2::2])))
assert arguments["--checkpoint"].read_text() == "weights"
inputs = colours([path for _, path in predict_cases(arguments["--images"])])
expected = softmax(inputs)
{{change}}
out = arguments["--out"]
(out / "model.onnx").write_bytes(base64.b64decode("{SOFTMAX}"))
np.save(out / "inputs.npy", inputs)
np.save(out / "expected.npy", expected)
"""


def test_an_onnx_file_is_kept_only_when_it_answers_what_the_network_and_predict_py_answer(
    strict_lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = strict_lab
    task = lab.task(GOOD_TRAIN, PREDICT)
    lab.full(task)
    lab.finalize(task)
    assert lab.evaluated(task).status == "evaluated"

    def convert(name: str) -> export_onnx.Parity:
        return export_onnx.export_onnx(lab.services, task, tmp_path / name, report=lambda _: None)

    with pytest.raises(BadInput, match="neither has its template linear"):
        convert("none")

    script = tmp_path / "export.py"
    monkeypatch.setattr(export_onnx, "_template_script", lambda _: script)
    script.write_text(EXPORT.format(change=""))
    parity = convert("good")
    assert parity.images == export_onnx.CASES
    assert parity.predictions is not None and max(parity.network, parity.predictions) < 1e-5
    about = json.loads((tmp_path / "good" / "parity.json").read_text())
    assert about["input"] == {"name": "images", "type": "float32", "shape": ["n", 3]}
    assert about["checkpoint_sha256"] == sha256_file(lab.services.state.task(task).model / "checkpoint")
    assert sorted(path.name for path in (tmp_path / "good").iterdir()) == [
        "model.onnx",
        "operating_points.json",
        "parity.json",
    ]

    for name, change, words in (
        ("network", "expected = expected[:, ::-1]", "something else than the network"),
        ("other images", "inputs = inputs[::-1]; expected = softmax(inputs)", "something else than predict.py did"),
        (
            "link",
            "(arguments['--out'] / 'expected.npy').symlink_to('/etc/passwd'); sys.exit()",
            "left no file model.onnx",
        ),
    ):
        script.write_text(EXPORT.format(change=change))
        with pytest.raises(NotNow, match=words):
            convert(name)
        assert not (tmp_path / name).exists()
    lab.check(task)
    assert not (lab.services.state.task(task).root / "export").exists()

"""Run model.onnx on inputs.npy and say how far it is from expected.npy: python parity.py FOLDER FILE; needs ONNX Runtime."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder, target = map(Path, sys.argv[1:])
inputs, expected = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("inputs", "expected"))
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
    raise SystemExit("model.onnx must have one input and one output.")
name = session.get_inputs()[0].name
(together,) = session.run(None, {name: inputs})
(first,) = session.run(None, {name: inputs[:1]})
if together.shape != expected.shape or first.shape != expected[:1].shape or len(inputs) == 0:
    raise SystemExit(f"model.onnx answers {together.shape} and {first.shape}, the model {expected.shape}.")
largest = max(np.abs(together - expected).max(), np.abs(first - expected[:1]).max())
if not np.isfinite(largest):
    raise SystemExit("model.onnx or the model answers with numbers that are not finite.")
facts = {
    "images": len(inputs),
    "largest_difference": float(largest),
    "input_shape": list(inputs.shape[1:]),
    "input_type": str(inputs.dtype),
    "output_shape": list(together.shape[1:]),
    "rows": together.astype(float).tolist() if together.ndim == 2 else None,
}
target.write_text(json.dumps(facts), encoding="utf-8")

"""A network as an ONNX file, with what it answers to some inputs, so that `clinloop export --format onnx` can compare the two."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OPSET = 17
"""Version of the ONNX operators: the newest that torch's exporter by tracing knows, and every runtime since 2022."""


def write_onnx(net: Any, inputs: Any, out: Path) -> None:
    """Write model.onnx, inputs.npy and expected.npy into a folder.

    net: a torch module in eval mode on the CPU, one tensor (N, …) in, one tensor (N, …) of probabilities out; N stays free in the file.
    """
    import numpy as np
    import torch
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    if (
        find_spec("onnx") is None
    ):  # torch asks for it only to add functions of onnxscript, of which a plain network has none
        onnx_proto_utils._add_onnxscript_fn = lambda model, opsets: model
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        expected = net(inputs)
        torch.onnx.export(
            net,
            (inputs,),
            str(out / "model.onnx"),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_axes={"images": {0: "n"}, "probabilities": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
    np.save(out / "inputs.npy", inputs.numpy())
    np.save(out / "expected.npy", expected.numpy())

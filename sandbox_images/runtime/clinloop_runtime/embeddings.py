"""Features of images that predict.py may leave beside its predictions: on validation the server looks in them for groups of images that fail together."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAX_FEATURES = 2048
_LARGEST = 65504.0
"""Largest finite float16."""


def write_embeddings(out: Path, case_ids: Sequence[str], batches: Sequence[np.ndarray[Any, Any]]) -> None:
    """Write features, batches of (n, D) in the order of the case ids, beside the predictions file `out`.

    They are kept as float16; more than MAX_FEATURES are projected down at random, always alike. The server keeps only those of validation images,
    and a delivered model, without a server, writes nothing. Features that are not one row a case are left out with a line in the log: what is
    optional never fails a run.
    """
    import numpy as np

    if not (Path(os.environ.get("CLINLOOP_SESSION") or "/session") / "session.json").exists():
        return
    shapes = [np.shape(batch) for batch in batches]
    sizes = {shape[1:] for shape in shapes}
    if sum(shape[0] if shape else 0 for shape in shapes) != len(case_ids) or len(sizes) != 1 or len(*sizes) != 1:
        what = "none" if not shapes else f"{len(shapes)} batches, the first of shape {shapes[0]}"
        sys.stdout.write(
            json.dumps(
                {"event": "no embeddings", "why": f"one row (D,) for each of {len(case_ids)} cases; here are {what}"}
            )
            + "\n"
        )
        return
    rows = np.concatenate([np.asarray(batch, dtype=np.float32) for batch in batches])  # (N, D)
    if rows.shape[1] > MAX_FEATURES:
        size = (rows.shape[1], MAX_FEATURES)
        rows = rows @ (np.random.default_rng(0).standard_normal(size, dtype=np.float32) / rows.shape[1] ** 0.5)
    out.with_name("embeddings.txt").write_text("".join(f"{case_id}\n" for case_id in case_ids), encoding="utf-8")
    np.save(out.with_name("embeddings.npy"), np.nan_to_num(rows).clip(-_LARGEST, _LARGEST).astype(np.float16))

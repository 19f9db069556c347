"""Store what MONAI says of the seeded pairs of masks; it needs torch, which is no part of this project's environment.

uv venv /tmp/monai && uv pip install --python /tmp/monai/bin/python monai==1.6.1 torch scipy
/tmp/monai/bin/python tests/unit/scoring/oracles/store_monai.py
"""

from __future__ import annotations

import json
from pathlib import Path

import monai
import torch
from masks import PAIRS, make_pair
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

TOLERANCE = 2.0


def main() -> None:
    """Compute and write."""
    pairs: list[dict[str, float]] = []
    for number in range(len(PAIRS)):
        one, other = (torch.from_numpy(mask.copy())[None, None] for mask in make_pair(number))
        hd95 = compute_hausdorff_distance(one, other, include_background=True, percentile=95)
        nsd = compute_surface_dice(one, other, [TOLERANCE], include_background=True)
        pairs.append({"hd95": float(hd95), "nsd": float(nsd)})
    text = json.dumps({"monai": monai.__version__, "tolerance": TOLERANCE, "pairs": pairs}, indent=1)
    (Path(__file__).parent / "monai.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

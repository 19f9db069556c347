"""Predict a folder of images with the weights that train.py left."""

import argparse
import json
from pathlib import Path

import numpy as np
from clinloop_runtime import write_embeddings, write_predictions
from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument("--images", type=Path, required=True)
parser.add_argument("--checkpoint", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

model = json.loads(args.checkpoint.read_text(encoding="utf-8"))
weights, bias = np.array(model["weights"]), np.array(model["bias"])  # (D, C), (C,)
paths = sorted(args.images.iterdir())
rows, features = [], []
for path in paths:
    with Image.open(path) as image:
        thumbnail = image.convert("RGB").resize((model["px"], model["px"]), Image.Resampling.BOX)
    features.append(np.asarray(thumbnail, dtype=np.float64).reshape(-1) / 127.5 - 1.0)  # (D,)
    scores = features[-1] @ weights + bias  # (C,)
    exponentials = np.exp(scores - scores.max())
    rows.append(exponentials / exponentials.sum())
write_predictions(args.out, [path.stem for path in paths], model["classes"], np.stack(rows))
write_embeddings(args.out, [path.stem for path in paths], [np.stack(features)])

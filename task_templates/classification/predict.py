"""Predict the images of a folder with a checkpoint that train.py left: python predict.py --images DIR --checkpoint FILE --out FILE."""

import argparse
from pathlib import Path

from clinloop_runtime import log, predict_cases, write_embeddings, write_predictions
from model import decode_all, load, predict

CHUNK = 1024  # images that are in memory at once

parser = argparse.ArgumentParser()
parser.add_argument("--images", type=Path, required=True)
parser.add_argument("--checkpoint", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

net, about = load(args.checkpoint)
found = predict_cases(args.images)
case_ids, rows, features = [], [], []
# What the classifier is given, (N, n_features): there the report looks for groups of validation images that fail together.
head = getattr(net, "get_classifier", lambda: None)()
if hasattr(head, "register_forward_pre_hook"):
    head.register_forward_pre_hook(lambda _, given: features.append(given[0].flatten(1).float().cpu()))
for start in range(0, len(found), CHUNK):
    chunk = found[start : start + CHUNK]
    images = decode_all([path for _, path in chunk], about["px"])  # (N, px, px, 3) uint8
    rows += predict(net, images, about["mean"], about["std"]).tolist()  # (N, n_classes)
    case_ids += [case.case_id for case, _ in chunk]
write_predictions(args.out, case_ids, about["classes"], rows)
write_embeddings(args.out, case_ids, features)
log(event="predicted", images=len(case_ids))

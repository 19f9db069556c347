"""Predict the images of a folder with a checkpoint that train.py left: python predict.py --images DIR --checkpoint FILE --out FILE."""

import argparse
from pathlib import Path

from clinloop_runtime import log, predict_cases, write_detections
from model import letterbox_all, load, predict

CHUNK = 512  # images that are in memory at once

parser = argparse.ArgumentParser()
parser.add_argument("--images", type=Path, required=True)
parser.add_argument("--checkpoint", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

net, about = load(args.checkpoint)
found = predict_cases(args.images)
case_ids, detections = [], []
for start in range(0, len(found), CHUNK):
    chunk = found[start : start + CHUNK]
    images, places = letterbox_all([path for _, path in chunk], about["px"])  # (N, px, px, 3) uint8
    detections += predict(net, images, places)
    case_ids += [case.case_id for case, _ in chunk]
write_detections(args.out, case_ids, detections)
log(event="predicted", images=len(case_ids), boxes=sum(map(len, detections)))

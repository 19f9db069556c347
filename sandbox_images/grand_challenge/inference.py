"""One job of a grand-challenge.org algorithm: one image in /input, predict.py of the delivered model, its answer in /output."""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
INPUT = Path(os.environ.get("CLINLOOP_INPUT", "/input"))
OUTPUT = Path(os.environ.get("CLINLOOP_OUTPUT", "/output"))
UPLOADED = Path("/opt/ml/model")  # where the platform unpacks a model that was uploaded by itself
MODEL = UPLOADED if (UPLOADED / "checkpoint").is_file() else HERE / "model"
FACTS = json.loads((HERE / "interfaces.json").read_text(encoding="utf-8"))
SUFFIXES = {".mha", ".tif", ".tiff", ".png", ".jpg", ".jpeg"}
CASE = "case"


def find_image():
    """Return the one image of the job."""
    folder = INPUT / "images" / FACTS["input_slug"]
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) != 1:
        raise SystemExit(f"{folder} must hold one image ({', '.join(sorted(SUFFIXES))}); it holds {len(found)}.")
    return found[0]


def read_image(path):
    """Return the pixels, (height, width, 3) uint8, and the SimpleITK image that they came from, None for other readers."""
    if path.suffix.lower() != ".mha":
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                return as_bytes(np.asarray(file)), None
            return np.asarray(file.convert("RGB")), None
    import SimpleITK as sitk

    source = sitk.ReadImage(str(path))
    pixels = sitk.GetArrayFromImage(source)
    if source.GetDimension() == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 2 + (source.GetNumberOfComponentsPerPixel() > 1):
        raise SystemExit(f"The image has shape {pixels.shape}; this model takes one two-dimensional image.")
    return as_bytes(pixels), source


def as_bytes(pixels):
    """Return (height, width, 3) uint8; more than 8 bits are scaled from the least to the greatest value of the image."""
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = np.round((pixels.astype(np.float64) - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.ascontiguousarray(pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2))


def predict(pixels, room):
    """Return the bytes that predict.py wrote for the image; it sees what it saw on the server: /predict, /session, /out."""
    view, session, out = (room / name for name in ("view", "session", "out"))
    for folder in (view / "images", session / "answers", out):
        folder.mkdir(parents=True)
    Image.fromarray(pixels).save(view / "images" / f"{CASE}.png")
    with (view / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["case_id", *FACTS["attributes"]], [CASE, *("" for _ in FACTS["attributes"])]])
    told = {"mode": "full", "phase": "predict", "deadline_unix": time.time() + 3600, "gpus": 0, "cpus": os.cpu_count()}
    told |= {key: FACTS[key] for key in ("task_type", "classes", "targets")}
    (session / "session.json").write_text(json.dumps(told), encoding="utf-8")
    argv = [sys.executable, "predict.py", "--images", view / "images", "--checkpoint", MODEL / "checkpoint"]
    folders = {"CLINLOOP_SESSION": str(session), "CLINLOOP_OUT": str(out), "PYTHONPATH": str(MODEL)}
    argv += ["--out", out / "predictions"]
    done = subprocess.run([str(word) for word in argv], cwd=MODEL, env=os.environ | folders, check=False)
    if done.returncode:
        raise SystemExit(f"predict.py ended with exit status {done.returncode}.")
    return (out / "predictions").read_text(encoding="utf-8")


def classified(text):
    """Return the probability of each class, and what was decided at the thresholds that were fixed on validation."""
    (row,) = csv.DictReader(text.splitlines())
    probabilities = {name: float(row[f"p_{name}"]) for name in FACTS["classes"]}
    points = {name: point["threshold"] for name, point in FACTS["operating_points"].items() if name in probabilities}
    decisions = {name: probabilities[name] >= threshold for name, threshold in points.items() if threshold is not None}
    return {"probabilities": probabilities, "positive": decisions}


def detected(text, source):
    """Return the boxes as the platform's "Multiple 2D bounding boxes", corners in millimetres, or pixels where the image has no spacing."""
    spacing, origin = (source.GetSpacing()[:2], source.GetOrigin()[:2]) if source else ((1.0, 1.0), (0.0, 0.0))
    boxes = []
    for found in json.loads(text):
        x, y, width, height = found["bbox"]
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        placed = [[origin[i] + corner[i] * spacing[i] for i in (0, 1)] + [0.5] for corner in corners]
        name = FACTS["targets"][found["category_id"] - 1]
        boxes.append({"name": name, "corners": placed, "probability": found["score"]})
    return {"type": "Multiple 2D bounding boxes", "boxes": boxes, "version": {"major": 1, "minor": 0}}


def segmented(text, source):
    """Write the mask as an image of the input's size, 1 = target, and return its size."""
    (found,) = json.loads(text)
    height, width = found["size"]
    values = np.arange(len(found["counts"])) % 2  # run lengths down the columns, the first a run of zeros
    mask = np.repeat(values, found["counts"]).astype(np.uint8).reshape((height, width), order="F")
    folder = OUTPUT / "images" / FACTS["output_slug"]
    folder.mkdir(parents=True, exist_ok=True)
    if source is None:
        Image.fromarray(mask).save(folder / "output.tif")
    else:
        import SimpleITK as sitk

        shaped = mask if source.GetDimension() == 2 else mask[None]
        image = sitk.GetImageFromArray(shaped)
        image.CopyInformation(source)
        sitk.WriteImage(image, str(folder / "output.mha"), useCompression=True)
    return {"height": height, "width": width, "target_pixels": int(mask.sum())}


def main():
    pixels, source = read_image(find_image())
    with tempfile.TemporaryDirectory() as room:
        text = predict(pixels, Path(room))
    match FACTS["task_type"]:
        case "detection":
            answer = detected(text, source)
        case "segmentation":
            answer = segmented(text, source)
        case _:
            answer = classified(text)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / f"{FACTS['output_slug']}.json").write_text(json.dumps(answer, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

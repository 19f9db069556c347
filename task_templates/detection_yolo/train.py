"""Train YOLOv8 until the deadline and keep the weights that the server scores best on validation."""

import math
import tempfile
import time
from pathlib import Path

from clinloop_runtime import open_session
from model import DEVICE, build, letterbox_all, predict, save  # before ultralytics: it takes the network away from it
from PIL import Image
from ultralytics.models.yolo.detect import DetectionTrainer

ON_GPU = DEVICE.type == "cuda"
ARCH = "yolov8m" if ON_GPU else "yolov8n"  # 26 M and 3 M parameters; from scratch on a CPU: only to see that it runs
PX = 640 if ON_GPU else 160  # input side in pixels, a multiple of 32
BATCH = 16  # images
VALIDATIONS = 10  # submissions to the server, spread evenly over the training time
RECIPE = {  # arguments of ultralytics; what is not here has its default there
    "optimizer": "auto",
    "hsv_h": 0.0,  # its colour jitter is for photographs
    "hsv_s": 0.0,
    "hsv_v": 0.4,  # brightness
    "mosaic": 1.0,
    "close_mosaic": 10,  # epochs at the end without mosaic
    "fliplr": 0.5,
    "scale": 0.5,
    "translate": 0.1,
}


def as_yolo(cases, boxes, folder):
    """Write labels beside links to the images, as ultralytics reads them, and return the folder of the links."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for case in cases:
        source = session.image_path(case.case_id)
        (folder / "images" / source.name).symlink_to(source)
        with Image.open(source) as image:
            w, h = image.size
        lines = [
            f"{box.target} {(box.x + box.width / 2) / w:.6f} {(box.y + box.height / 2) / h:.6f} {box.width / w:.6f} {box.height / h:.6f}"
            for box in boxes[case.case_id]
        ]
        (folder / "labels" / f"{case.case_id}.txt").write_text("\n".join(lines), encoding="utf-8")  # empty = background
    return folder / "images"


class Trainer(DetectionTrainer):
    """Trains as ultralytics does, but time, validation and checkpoint are the server's."""

    next_validation = 1 / VALIDATIONS

    def get_dataset(self):
        """Return what to train on; validation labels are not here, so ultralytics gets training images in their place and never looks."""
        targets = dict(enumerate(session.targets))
        return {
            "path": folder,
            "train": str(images),
            "val": str(images),
            "names": targets,
            "nc": len(targets),
            "channels": 3,
        }

    def get_model(self, cfg=None, weights=None, verbose=True):
        """Return the network, from /weights where there is a file for it."""
        net, origin = build(ARCH, len(session.targets), session.weights)
        facts = {"arch": ARCH, "weights": origin, "px": PX, "device": str(DEVICE)}
        session.log(event="start", **facts, train=len(train), without_boxes=len(known) - len(train), val=len(val))
        return net

    def _setup_train(self):
        """Prepare as usual, then set the end: what ultralytics calls `time`, in hours from now."""
        super()._setup_train()
        begun = time.monotonic()
        predict(self.ema.ema, x_val, places)
        reserve_s = 2.0 + 3 * (time.monotonic() - begun)  # the last validation and saving
        self.args.time = (2.0 if session.smoke else max(2.0, session.seconds_left() - reserve_s)) / 3600
        self.begun = time.monotonic()

    def validate(self):
        """Let the server score the averaged weights after an epoch, when it is time; keep them when they are the best so far."""
        progress = (time.monotonic() - self.begun) / (self.args.time * 3600)
        if progress < self.next_validation and progress < 1:
            return {}, None
        self.next_validation = progress + 1 / VALIDATIONS
        score = session.validate(val_ids, predict(self.ema.ema, x_val, places))
        if score.best or not session.checkpoint.exists():
            about = {"arch": ARCH, "px": PX, "targets": session.targets, "epoch": self.epoch, "score": score.value}
            save(session.checkpoint, self.ema.ema, about)
        losses = {name: round(float(value), 4) for name, value in self.tloss.items()}
        session.log(event="epoch", epoch=self.epoch, progress=progress, **losses)
        return {}, score.value if math.isfinite(score.value) else None

    def save_model(self):
        """Keep no pickle."""
        return False

    def final_eval(self):
        """The server has the last word already."""


session = open_session()
boxes = session.boxes()
known = session.train_cases()
train = [case for case in known if case.case_id in boxes]  # the others have the label of the image only
val = session.val_cases()
val_ids = [case.case_id for case in val]
x_val, places = letterbox_all([session.image_path(case_id) for case_id in val_ids], PX)  # (M, px, px, 3) uint8
with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    images = as_yolo(train, boxes, folder)
    trainer = Trainer(
        overrides=RECIPE
        | {
            "model": f"{ARCH}.yaml",
            "data": "the server's",
            "imgsz": PX,
            "batch": min(BATCH, len(train)),
            "time": 1.0,  # set again when training starts
            "device": "0" if ON_GPU else "cpu",  # one GPU: its way to several cannot start from here
            "amp": "bf16" if ON_GPU else False,
            "workers": min(8, int(session.facts.get("cpus", 1))),
            "cache": "ram" if len(train) * PX * PX * 3 < 8e9 else False,  # decoded once
            "seed": session.seed,
            "deterministic": False,  # its deterministic kernels are slow
            "patience": 0,  # the deadline ends training, nothing else
            "project": str(folder / "runs"),
            "plots": False,
            "verbose": False,
        }
    )
    trainer.train()
    session.log(event="end", epochs=trainer.epoch + 1, s_per_epoch=trainer.epoch_time)

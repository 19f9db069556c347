"""Fit a softmax regression on thumbnails and keep the weights that the server scores best."""

import json

import numpy as np
from clinloop_runtime import open_session
from PIL import Image

PX = 8  # side of the thumbnail in pixels
EPOCHS = 60  # passes over the training cases
LEARNING_RATE = 0.5
L2 = 1e-3  # weight decay
VALIDATE_EVERY = 20  # epochs


def features(path):
    """Return a thumbnail as (PX * PX * 3,) float32 in [-1, 1]."""
    with Image.open(path) as image:
        thumbnail = image.convert("RGB").resize((PX, PX), Image.Resampling.BOX)
    return np.asarray(thumbnail, dtype=np.float32).reshape(-1) / 127.5 - 1.0


def softmax(scores):
    """Return probabilities (N, C) of scores (N, C)."""
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


session = open_session()
train, val = session.train_cases(), session.val_cases()
x = np.stack([features(session.image_path(case.case_id)) for case in train])  # (N, D)
x_val = np.stack([features(session.image_path(case.case_id)) for case in val])  # (M, D)
y = np.array([session.classes.index(case.label) for case in train])  # (N,)
targets = np.eye(len(session.classes), dtype=np.float32)[y]  # (N, C)

weights = np.zeros((x.shape[1], len(session.classes)), dtype=np.float32)
bias = np.zeros(len(session.classes), dtype=np.float32)
for epoch in range(1, EPOCHS + 1):
    error = (softmax(x @ weights + bias) - targets) / len(x)  # (N, C)
    weights -= LEARNING_RATE * (x.T @ error + L2 * weights)
    bias -= LEARNING_RATE * error.sum(axis=0)
    if not np.isfinite(weights).all():
        raise FloatingPointError(f"weights are not finite after epoch {epoch}")
    last = epoch == EPOCHS or session.seconds_left() < 5
    if epoch % VALIDATE_EVERY == 0 or last:
        score = session.validate([case.case_id for case in val], softmax(x_val @ weights + bias))
        session.log(epoch=epoch, score=score.value)
        if score.best:
            content = {"px": PX, "classes": session.classes, "weights": weights.tolist(), "bias": bias.tolist()}
            session.checkpoint.write_text(json.dumps(content), encoding="utf-8")
    if last:
        break

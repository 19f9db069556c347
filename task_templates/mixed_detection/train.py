"""Train a detector on the cases that have boxes until the deadline and keep the weights that the server scores best on validation."""

import math
import os
import sys
import time

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # read by torch at import: a waiting thread sleeps, the cores may be shared

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from clinloop_runtime import open_session
from model import DEVICE, RANK, STRIDE, autocast, build, centres, corners, decode_all, predict, prepare, save
from torchvision.ops import generalized_box_iou_loss

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))  # one per GPU, started by torchrun
ON_GPU = DEVICE.type == "cuda"
ARCH = "convnext_tiny" if ON_GPU else "test_byobnet"  # timm name; convnext_tiny: 28 M parameters, test_byobnet: 0.2 M
WIDTH = 128 if ON_GPU else 24  # channels of neck and heads
SIZE = (832, 512) if ON_GPU else (160, 96)  # input height and width in pixels: upright, as films of an arm are
BATCH = 16  # images per process
LEARNING_RATE = 2e-4 if ON_GPU else 4e-3  # peak; the GPU network usually starts pretrained
WEIGHT_DECAY = 0.05
WARMUP = 0.05  # of the training time
CLIP = 5.0  # gradient norm
BOX_WEIGHT = 2.0  # of the loss of the sides beside that of the heat map
VALIDATIONS = 10 if ON_GPU else 5  # submissions to the server, spread evenly over the training time
MEAN, STD = 0.45, 0.25  # of grey values in [0, 1]


def augment(x, boxes):
    """Change a batch (B, 3, height, width) with boxes (B, M, 5) of target, left, top, right, bottom; only mirrors here."""
    mirrored = torch.rand(len(x), device=x.device) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    width = x.shape[3]
    other = torch.stack([boxes[..., 0], width - boxes[..., 3], boxes[..., 2], width - boxes[..., 1], boxes[..., 4]], -1)
    return x, torch.where(mirrored[:, None, None], other, boxes)


def wanted(boxes, n_targets, shape):
    """Return what the network should say for boxes (B, M, 5): heat (B, n_targets, h, w), the box at each cell (B, 4, h, w)
    and how much each cell counts for its sides (B, h, w).

    A box is a hill of height 1 on the cell of its centre, a sixth of its sides wide; target -1 = no box.
    """
    x, y = (line[None, None] for line in centres(*shape, boxes.device))  # (1, 1, 1, w), (1, 1, h, 1)
    target, left, top, right, bottom = (boxes[..., i, None, None] for i in range(5))  # (B, M, 1, 1)
    middle_x = ((left + right) / 2 / STRIDE).floor() * STRIDE + STRIDE / 2
    middle_y = ((top + bottom) / 2 / STRIDE).floor() * STRIDE + STRIDE / 2
    wide, high = ((right - left) / 6).clamp(min=0.6 * STRIDE), ((bottom - top) / 6).clamp(min=0.6 * STRIDE)
    hills = torch.exp(-(((x - middle_x) / wide) ** 2 + ((y - middle_y) / high) ** 2) / 2) * (
        target >= 0
    )  # (B, M, h, w)
    heat = torch.stack([(hills * (target == t)).amax(1) for t in range(n_targets)], 1)
    height, nearest = hills.max(1)  # (B, h, w): the highest hill at a cell, and whose it is
    index = nearest.flatten(1)[..., None].expand(-1, -1, 4)
    box = boxes[..., 1:].gather(1, index).transpose(1, 2).unflatten(2, shape)  # (B, 4, h, w)
    return heat, box, height * (height > 0.3)


def loss_of(heat, sides, boxes):
    """Return the loss of logits (B, n_targets, h, w) and sides (B, 4, h, w) against boxes (B, M, 5).

    Heat: cross-entropy with soft targets, weighted by the squared error (quality focal loss, arXiv 2006.04388). Sides: GIoU.
    """
    goal, box, weight = wanted(boxes, heat.shape[1], heat.shape[2:])
    logits = heat.float()
    focus = (logits.detach().sigmoid() - goal) ** 2
    n_boxes = (boxes[..., 0] >= 0).sum().clamp(min=1)
    of_heat = (focus * F.binary_cross_entropy_with_logits(logits, goal, reduction="none")).sum() / n_boxes
    on = weight > 0
    of_sides = generalized_box_iou_loss(corners(sides).movedim(1, -1)[on], box.movedim(1, -1)[on], reduction="none")
    return of_heat + BOX_WEIGHT * (of_sides * weight[on]).sum() / weight.sum().clamp(min=1)


def as_tensor(drawn, scales):
    """Return the boxes of N cases as (N, M, 5) in input pixels; unused places have target -1."""
    table = torch.full((len(drawn), max(1, *map(len, drawn)), 5), -1.0)
    for row, (boxes, scale) in enumerate(zip(drawn, scales, strict=True)):
        for place, (target, x, y, width, height) in enumerate(boxes):
            sides = (x * scale, y * scale, (x + width) * scale, (y + height) * scale)
            table[row, place] = torch.tensor([target, *sides])
    return table


session = open_session()
if session.gpus > 1 and "LOCAL_RANK" not in os.environ:  # start once more, as one process per GPU
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(session.facts.get("cpus", 1)) // session.gpus))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    os.execv(sys.executable, [sys.executable, *torchrun, f"--nproc-per-node={session.gpus}", __file__])
if PROCESSES > 1:
    dist.init_process_group("cpu:gloo,cuda:nccl" if ON_GPU else "gloo")
torch.manual_seed(session.seed + RANK)
torch.backends.cudnn.benchmark = True  # every batch has the same shape: the first one tries which algorithm is fastest
rng = np.random.default_rng(session.seed + RANK)  # every process draws its own order of the cases
drawn = session.boxes()  # case id -> boxes; an empty list: an expert looked, and there is nothing
train, val = [case for case in session.train_cases() if case.case_id in drawn], session.val_cases()
if not train:
    raise SystemExit("no training case has boxes: this template starts from boxes")
val_ids = [case.case_id for case in val]
x_train, scales, _ = decode_all([session.image_path(case.case_id) for case in train], SIZE)  # (N, height, width) uint8
val_images = decode_all(
    [session.image_path(case_id) for case_id in val_ids], SIZE
)  # (M, height, width) uint8, scales, sizes
y_train = as_tensor([drawn[case.case_id] for case in train], scales).to(DEVICE)  # (N, most boxes, 5)

net, origin = build(ARCH, len(session.targets), WIDTH, session.weights)
trained = torch.nn.parallel.DistributedDataParallel(net) if PROCESSES > 1 else net  # averages gradients
optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=ON_GPU)
about = {"arch": ARCH, "targets": session.targets, "width": WIDTH, "size": SIZE, "mean": MEAN, "std": STD}
if RANK == 0:
    facts = {"arch": ARCH, "weights": origin, "size": SIZE, "device": str(DEVICE), "processes": PROCESSES}
    facts |= {"boxes": int((y_train[..., 0] >= 0).sum()), "without_boxes": len(session.train_cases()) - len(train)}
    session.log(event="start", **facts, train=len(train), val=len(val))


def seen_by_rank_0(value):
    """Return the number that process 0 has, so that all leave the loop after the same step."""
    if PROCESSES > 1:
        dist.broadcast(shared := torch.tensor(value, dtype=torch.float64), 0)
        value = float(shared)
    return value


def validate(step, progress):
    """Let the server score the network as it is; keep it when it is the best so far. For process 0 alone."""
    score = session.validate(val_ids, predict(net, *val_images, MEAN, STD))
    if score.best or not session.checkpoint.exists():
        save(session.checkpoint, net, about | {"step": step, "score": score.value})
    session.log(event="epoch", step=step, progress=progress, loss=loss.item(), lr=optimizer.param_groups[0]["lr"])


begun = time.monotonic()
if RANK == 0:
    predict(net, *val_images, MEAN, STD)
validation_s = time.monotonic() - begun  # a first guess of what the last validation will take
train_s = 2.0 if session.smoke else max(2.0, session.seconds_left() - 2.0 - 3 * validation_s)
begun = time.monotonic()
step, next_validation, order = 0, 1 / VALIDATIONS, np.empty(0, dtype=np.int64)
while (progress := seen_by_rank_0((time.monotonic() - begun) / train_s)) < 1:
    # The schedule follows the clock, not epochs: linear warm-up, then cosine to zero at the deadline.
    factor = min(1.0, progress / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * max(factor, 1e-3)
    while len(order) < BATCH:
        order = np.concatenate([order, rng.permutation(len(train))])
    rows, order = order[:BATCH], order[BATCH:]
    x, boxes = augment(prepare(x_train[rows], MEAN, STD), y_train[rows])  # (B, 3, height, width), (B, most boxes, 5)
    net.train()
    with autocast():
        heat, sides = trained(x)  # (B, n_targets, height / 4, width / 4), (B, 4, height / 4, width / 4)
    loss = loss_of(heat, sides, boxes)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
    optimizer.step()
    step += 1
    if step % 20 == 0 and not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss is {loss.item()} after {step} steps: lower the learning rate")
    if RANK == 0 and progress > next_validation:
        validate(step, progress)
        next_validation += 1 / VALIDATIONS
if RANK == 0:
    validate(step, 1.0)
    images = step * BATCH * PROCESSES
    session.log(event="end", steps=step, epochs=images / len(train), images_per_s=images / train_s)
if PROCESSES > 1:
    del trained  # it holds the group, whose threads must have ended before the interpreter does
    dist.destroy_process_group()

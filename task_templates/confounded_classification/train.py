"""Train an image classifier with an auxiliary mask head until the deadline; keep the weights that the server scores best on validation."""

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
from model import (
    DEVICE,
    MASK_STRIDE,
    RANK,
    autocast,
    build,
    decode_all,
    decode_masks,
    place,
    predict,
    prepare,
    save,
    take,
)

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))  # one per GPU, started by torchrun
ON_GPU = DEVICE.type == "cuda"
ARCH = "convnext_tiny" if ON_GPU else "test_resnet"  # timm name; convnext_tiny: 28 M parameters, test_resnet: 0.4 M
PX = 512 if ON_GPU else 64  # input side in pixels
BATCH = 32 if ON_GPU else 64  # images per process
LEARNING_RATE = 1e-4 if ON_GPU else 2e-3  # peak; the GPU network usually starts pretrained
WEIGHT_DECAY = 0.05
MASK_WEIGHT = 0.3  # of the mask's loss against the label's
WARMUP = 0.05  # of the training time
CLIP = 1.0  # gradient norm
VALIDATIONS = 6  # submissions to the server, spread evenly over what follows
FIRST_VALIDATION = 0.7  # of the training time; what knows nothing yet leans on nothing, and must not win by that
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]; what pretrained weights expect


def augment(x, masks):
    """Change a batch of training inputs (B, 3, px, px) at random, and their masks (B, 1, px / 4, px / 4) alike."""
    flip = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    x, masks = torch.where(flip, x.flip(3), x), torch.where(flip, masks.flip(3), masks)
    most = masks.shape[-1] // 16  # 6 % of the side
    down, right = (int(n) for n in rng.integers(-most, most + 1, 2))  # the whole batch moves by the same few pixels
    x = torch.roll(x, (down * MASK_STRIDE, right * MASK_STRIDE), (2, 3))
    contrast, exposure = 0.1 * torch.randn(2, len(x), 1, 1, 1, device=x.device)
    return x * (1 + contrast) + exposure, torch.roll(masks, (down, right), (2, 3))


def targets(rows):
    """Return what the classifier shall say of these training cases, (B, n_classes)."""
    return F.one_hot(y_train[rows], len(session.classes)).float()


def mask_loss(logits, masks, drawn):
    """Cross-entropy and Dice of masks (B, 1, h, w) in [0, 1], over the cases whose mask was drawn, (B,) of 0 and 1."""
    pixels = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=(1, 2, 3))  # (B,)
    p, drawn = logits.sigmoid() * drawn[:, None, None, None], drawn / drawn.sum().clamp(min=1)
    dice = 1 - (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)  # masks that nobody drew are zeros
    return (pixels * drawn).sum() + 0.5 * dice


def load_images(cases):
    """Return uint8 images (N, px, px, 3): from the server's cache when there is one of this size."""
    if (cache := session.cache(PX)) is None:
        return decode_all([session.image_path(case.case_id) for case in cases], PX)
    pixels, row = cache
    return pixels[[row[case.case_id] for case in cases]]


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
train, val = session.train_cases(), session.val_cases()
x_train, x_val = place(load_images(train)), load_images(val)  # (N, px, px, 3), (M, px, px, 3) uint8
y_train = torch.tensor([session.classes.index(case.label) for case in train], device=DEVICE)  # (N,)
m_train, drawn = decode_masks([session.mask_path(case.case_id) for case in train], PX)  # (N, 1, px / 4, px / 4), (N,)
m_train, has_mask = place(m_train), torch.tensor(drawn, dtype=torch.float32, device=DEVICE)
val_ids = [case.case_id for case in val]

net, origin = build(ARCH, len(session.classes), session.weights)
trained = torch.nn.parallel.DistributedDataParallel(net) if PROCESSES > 1 else net  # averages gradients
optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
about = {"arch": ARCH, "classes": session.classes, "px": PX, "mean": MEAN, "std": STD}
if RANK == 0:
    facts = {"arch": ARCH, "weights": origin, "px": PX, "device": str(DEVICE), "processes": PROCESSES}
    session.log(event="start", **facts, train=len(train), val=len(val), masks=int(drawn.sum()))


def seen_by_rank_0(value):
    """Return the number that process 0 has, so that all leave the loop after the same step."""
    if PROCESSES > 1:
        dist.broadcast(shared := torch.tensor(value, dtype=torch.float64), 0)
        value = float(shared)
    return value


def validate(step, progress):
    """Let the server score the network as it is; keep it when it is the best so far. For process 0 alone."""
    score = session.validate(val_ids, predict(net, x_val, MEAN, STD))
    if score.best or not session.checkpoint.exists():
        save(session.checkpoint, net, about | {"step": step, "score": score.value})
    session.log(
        event="epoch", step=step, progress=progress, loss=float(loss.detach()), lr=optimizer.param_groups[0]["lr"]
    )


begun = time.monotonic()
if RANK == 0:
    predict(net, x_val, MEAN, STD)
validation_s = time.monotonic() - begun  # a first guess of what the last validation will take
train_s = 2.0 if session.smoke else max(2.0, session.seconds_left() - 2.0 - 3 * validation_s)
begun = time.monotonic()
step, next_validation, order = 0, FIRST_VALIDATION, np.empty(0, dtype=np.int64)
while (progress := seen_by_rank_0((time.monotonic() - begun) / train_s)) < 1:
    # The schedule follows the clock, not epochs: linear warm-up, then cosine to zero at the deadline.
    factor = min(1.0, progress / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * max(factor, 1e-3)
    if len(order) < BATCH:
        order = np.concatenate([order, rng.permutation(len(train))])
    rows, order = order[:BATCH], order[BATCH:]
    masks = take(m_train, rows).float() / 255  # (B, 1, px / 4, px / 4)
    x, masks = augment(prepare(take(x_train, rows), MEAN, STD), masks)
    target = targets(rows)  # (B, n_classes)
    net.train()
    with autocast():
        logits, mask_logits, features = trained(x)  # (B, n_classes), (B, 1, px / 4, px / 4), (B, n_features)
    loss = -(target * logits.float().log_softmax(dim=1)).sum(dim=1).mean()
    loss = loss + MASK_WEIGHT * mask_loss(mask_logits.float(), masks, has_mask[rows])
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
    optimizer.step()
    step += 1
    if step % 20 == 0 and not math.isfinite(float(loss.detach())):
        raise FloatingPointError(f"the loss is {float(loss.detach())} after {step} steps: lower the learning rate")
    if RANK == 0 and progress > next_validation:
        validate(step, progress)
        next_validation += (1 - FIRST_VALIDATION) / VALIDATIONS
if RANK == 0:
    validate(step, 1.0)
    images = step * BATCH * PROCESSES
    session.log(event="end", steps=step, epochs=images / len(train), images_per_s=images / train_s)
if PROCESSES > 1:
    del trained  # it holds the group, whose threads must have ended before the interpreter does
    dist.destroy_process_group()

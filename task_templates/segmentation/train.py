"""Train a segmentation network until the deadline and keep the weights that the server scores best on validation."""

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
from model import DEVICE, RANK, autocast, build, decode_all, decode_mask, place, predict, prepare, save, take

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))  # one per GPU, started by torchrun
ON_GPU = DEVICE.type == "cuda"
ARCH = "convnext_tiny" if ON_GPU else "test_resnet"  # timm name of the encoder
PX = 512 if ON_GPU else 64  # input side in pixels
BATCH = 16  # images per process
LEARNING_RATE = 2e-4 if ON_GPU else 1e-3  # peak; the GPU network usually starts pretrained
WEIGHT_DECAY = 0.05
WARMUP = 0.05  # of the training time
CLIP = 1.0  # gradient norm
THRESHOLD = 0.5  # of the probability, above which a pixel belongs to the mask
VALIDATIONS = 10 if ON_GPU else 5  # submissions to the server, spread evenly over the training time
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]; what pretrained weights expect


def augment(x, y):
    """Change a batch of training inputs (B, 3, px, px) and their masks (B, 1, px, px) at random; only flips here."""
    flip = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(flip, x.flip(3), x), torch.where(flip, y.flip(3), y)


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
known = session.train_cases()
train = [case for case in known if session.mask_path(case.case_id)]  # the others have no mask, not even an empty one
val = session.val_cases()
x_train, _ = decode_all([session.image_path(case.case_id) for case in train], PX)  # (N, px, px, 3) uint8
x_val, val_sizes = decode_all([session.image_path(case.case_id) for case in val], PX)  # (M, px, px, 3), M of (h, w)
y_train = np.stack([decode_mask(session.mask_path(case.case_id), PX) for case in train])  # (N, px, px) uint8
share = float(y_train.mean()) / 255  # of all pixels that belong to a mask
x_train, y_train = place(x_train), place(y_train)
val_ids = [case.case_id for case in val]

net, origin = build(ARCH, session.weights)
torch.nn.init.constant_(net.head.bias, math.log((share + 1e-4) / (1 - share + 1e-4)))  # start at how frequent it is
trained = torch.nn.parallel.DistributedDataParallel(net) if PROCESSES > 1 else net  # averages gradients
optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
about = {"arch": ARCH, "px": PX, "mean": MEAN, "std": STD, "threshold": THRESHOLD}
if RANK == 0:
    facts = {"arch": ARCH, "weights": origin, "px": PX, "device": str(DEVICE), "processes": PROCESSES, "share": share}
    session.log(event="start", **facts, train=len(train), without_mask=len(known) - len(train), val=len(val))


def seen_by_rank_0(value):
    """Return the number that process 0 has, so that all leave the loop after the same step."""
    if PROCESSES > 1:
        dist.broadcast(shared := torch.tensor(value, dtype=torch.float64), 0)
        value = float(shared)
    return value


def validate(step, progress):
    """Let the server score the network as it is; keep it when it is the best so far. For process 0 alone."""
    score = session.validate(val_ids, predict(net, x_val, val_sizes, MEAN, STD, THRESHOLD))
    if score.best or not session.checkpoint.exists():
        save(session.checkpoint, net, about | {"step": step, "score": score.value})
    session.log(event="epoch", step=step, progress=progress, loss=loss.item(), lr=optimizer.param_groups[0]["lr"])


begun = time.monotonic()
if RANK == 0:
    predict(net, x_val, val_sizes, MEAN, STD, THRESHOLD)
validation_s = time.monotonic() - begun  # a first guess of what the last validation will take
train_s = 2.0 if session.smoke else max(2.0, session.seconds_left() - 2.0 - 3 * validation_s)
begun = time.monotonic()
step, next_validation, order = 0, 1 / VALIDATIONS, np.empty(0, dtype=np.int64)
while (progress := seen_by_rank_0((time.monotonic() - begun) / train_s)) < 1:
    # The schedule follows the clock, not epochs: linear warm-up, then cosine to zero at the deadline.
    factor = min(1.0, progress / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * max(factor, 1e-3)
    while len(order) < BATCH:  # a smoke test has fewer cases than a batch
        order = np.concatenate([order, rng.permutation(len(train))])
    rows, order = order[:BATCH], order[BATCH:]
    y = take(y_train, rows)[:, None].float() / 255  # (B, 1, px, px) in [0, 1]
    x, y = augment(prepare(take(x_train, rows), MEAN, STD), y)  # (B, 3, px, px), (B, 1, px, px)
    net.train()
    with autocast():
        logits = trained(x)  # (B, 1, px, px)
    loss = F.binary_cross_entropy_with_logits(logits.float(), y)
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

"""Write the model as ONNX: python export.py --images DIR --checkpoint FILE --out DIR. Keep it in step with predict.py: both are compared."""

import argparse
from pathlib import Path

import torch
from clinloop_runtime import predict_cases
from clinloop_runtime.to_onnx import write_onnx
from model import decode_all, load


class Exported(torch.nn.Module):
    """From uint8 images (N, px, px, 3) to probabilities (N, n_classes): the normalisation is inside."""

    def __init__(self, net, mean, std):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images):
        x = images.permute(0, 3, 1, 2).float() / 255  # (N, 3, px, px)
        return self.net((x - self.mean) / self.std).softmax(dim=1)


parser = argparse.ArgumentParser()
parser.add_argument("--images", type=Path, required=True)
parser.add_argument("--checkpoint", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()

net, about = load(args.checkpoint)
images = torch.from_numpy(decode_all([path for _, path in predict_cases(args.images)], about["px"]))
write_onnx(Exported(net.cpu(), about["mean"], about["std"]).eval(), images, args.out)

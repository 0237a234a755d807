"""PyTorch steps: plain SGD, and the published `absgd` package. Imports none of ours.

Run by an interpreter that has torch, see `--torch-python`; speaks as `worker` does. The
package is the authors' on PyPI. Its loss takes logits and labels, and weights once its
`updateLambda` was called in the epoch of the milestone; the optimizer is torch's SGD.

To build: `loss` ("sgd" or "absgd"), `format` ("nchw" or "channels_last"), `batch`,
`blocks`, `widths`, `platform` ("cpu", or else CUDA), `lam` and `gamma`; `dtype`
("float32" or "bfloat16", by autocast).
"""

# pyright: basic, reportMissingImports=false

import json
import os
import sys
import time
from importlib import metadata

import torch
from torch import nn
from torch.nn import functional

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of CIFAR-10


class Block(nn.Module):
    """Two 3 × 3 convolutions, and a shortcut without parameters (option A)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        """Float `[batch, channels, height, width]` to the same with other sizes."""
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        if self.stride != 1 or self.more:
            before = self.more // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, before, self.more - before))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """He et al.'s for CIFAR; 464,154 parameters as ResNet-32 for 10 classes."""

    def __init__(self, blocks=(5, 5, 5), widths=(16, 32, 64), classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        made, inputs = [], widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths)):  # noqa: B905
            for index in range(count):
                made.append(Block(inputs, width, 2 if stage and not index else 1))
                inputs = width
        self.blocks = nn.Sequential(*made)
        self.head = nn.Linear(inputs, classes)
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(part.weight)

    def forward(self, images):
        """Float `[batch, 3, 32, 32]` to logits `[batch, classes]`."""
        x = functional.relu(self.stem_norm(self.stem(images)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


def facts():
    """Versions of this interpreter; that of the package is None without it."""
    try:
        absgd = metadata.version("absgd")
    except metadata.PackageNotFoundError:
        absgd = None
    threads = torch.get_num_threads()
    return {"torch": torch.__version__, "threads": threads, "absgd": absgd}


def build(described):
    """Builds a step: facts, and a function of a number of steps."""
    device = torch.device("cpu" if described["platform"] == "cpu" else "cuda")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = ResNet(described["blocks"], described["widths"]).to(device)
    last = described["format"] == "channels_last"
    layout = torch.channels_last if last else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    batch = described["batch"]
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
    images = images.to(device).contiguous(memory_format=layout)
    labels = (torch.arange(batch) % 10).to(device)
    mean, std = (
        torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (MEAN, STD)
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-4, momentum=0.9, weight_decay=2e-4
    )
    if described["loss"] == "absgd":
        from absgd.losses import ABLoss

        criterion = ABLoss(described["lam"], abgamma=described["gamma"])
        criterion.updateLambda()  # of the first epoch; from here on it weights
    else:
        criterion = nn.CrossEntropyLoss()

    half = described.get("dtype", "float32") == "bfloat16"

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def run(steps):
        wait()
        began = time.perf_counter()
        for _ in range(steps):
            inputs = (images.float() / 255.0 - mean) / std
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits = model(inputs)
            criterion(logits.float(), labels).backward()
            optimizer.step()
        wait()
        return time.perf_counter() - began

    about = {
        "examples": batch,
        "parameters": sum(p.numel() for p in model.parameters()),
        "platform": device.type,
        **facts(),
    }
    return about, run


def main():
    """Answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    built = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "build" in request:
            answer, built["run"] = build(request["build"])
        elif "run" in request:
            answer = {"seconds": built["run"](request["run"])}
        else:
            answer = facts()
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""PyTorch in a process of its own, for `training.py`.

ResNet-50 is torchvision's, ResNet-20 that of He et al. 2015, section 4.2, with 1x1
convolutions where the shape changes, as worklab's has them.

Runs in the environment that `make parity` makes. Told a number of steps on standard
input, it runs them and answers with the seconds they took.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable

import torch

from tests.golden.peers import import_torchvision


def main() -> None:
    """Answer each line with the seconds of so many steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["training", "testing"])
    parser.add_argument("network", choices=["resnet50", "resnet20"])
    parser.add_argument("precision", choices=["float32", "bfloat16"])
    parser.add_argument("batch_size", type=int)
    options = parser.parse_args()
    step = make_step(options)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, flush=True)


def make_step(options: argparse.Namespace) -> Callable[[], object]:
    """Return a function that runs one step, in channels_last."""
    if options.network == "resnet50":
        model, size = import_torchvision().models.resnet50(weights=None), 224
    else:
        model, size = make_resnet20(), 32
    model = model.to(memory_format=torch.channels_last)
    shape = (options.batch_size, size, size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, 10, (options.batch_size,))
    mean = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    loss_of = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)

    def arithmetic() -> contextlib.AbstractContextManager[object]:
        if options.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast("cpu", torch.bfloat16)

    def prepared() -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).float()
        inputs = (pixels - mean) / std
        return inputs.contiguous(memory_format=torch.channels_last)

    def train() -> float:
        model.train()
        with arithmetic():
            loss = loss_of(model(prepared()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def test() -> torch.Tensor:
        model.eval()
        with arithmetic():
            return model(prepared()).float()

    return train if options.task == "training" else test


class Block(torch.nn.Module):
    """Two 3x3 convolutions around which the input goes."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.strides = filters // inputs
        self.conv1 = torch.nn.Conv2d(
            inputs, filters, 3, self.strides, padding=1, bias=False
        )
        self.bn1 = torch.nn.BatchNorm2d(filters)
        self.conv2 = torch.nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(filters)
        if self.strides > 1:
            self.shortcut = torch.nn.Sequential(
                torch.nn.Conv2d(inputs, filters, 1, self.strides, bias=False),
                torch.nn.BatchNorm2d(filters),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        y = torch.nn.functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.strides > 1:
            x = self.shortcut(x)
        return torch.nn.functional.relu(x + y)


def make_resnet20() -> torch.nn.Module:
    """Return the network of 20 layers."""
    layers: list[torch.nn.Module] = [
        torch.nn.Conv2d(3, 16, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
    ]
    inputs = 16
    for filters in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(inputs, filters))
            inputs = filters
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))


if __name__ == "__main__":
    main()

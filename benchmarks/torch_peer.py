"""ResNet-50 of torchvision in a process of its own, for `training.py`.

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
    parser.add_argument("precision", choices=["float32", "bfloat16"])
    parser.add_argument("batch_size", type=int)
    parser.add_argument("image_size", type=int)
    options = parser.parse_args()
    step = make_step(options)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, flush=True)


def make_step(options: argparse.Namespace) -> Callable[[], object]:
    """Return a function that runs one step, in channels_last."""
    model = import_torchvision().models.resnet50(weights=None)
    model = model.to(memory_format=torch.channels_last)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, 1000, (options.batch_size,))
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


if __name__ == "__main__":
    main()

"""Photos through torchvision's transforms in a process of its own, for `reading.py`.

Runs in the environment that `make parity` makes. Answers each line on standard input
with the milliseconds of CPU that a photo took: read, decoded by Pillow, random resized
crop to 224x224, flip, colour jitter, as a uint8 array in a batch.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.golden.peers import import_torchvision


def main() -> None:
    """Answer each line with the cost of a photo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path)
    paths = parser.parse_args().paths
    torch.set_num_threads(1)
    transforms = import_torchvision().transforms
    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        ]
    )
    batch = np.empty((len(paths), 224, 224, 3), np.uint8)
    for _ in sys.stdin:
        start = time.process_time()
        for row, path in enumerate(paths):
            batch[row] = change(Image.open(path).convert("RGB"))
        print(1e3 * (time.process_time() - start) / len(paths), flush=True)


if __name__ == "__main__":
    main()

"""Retrained against from scratch, with few and with many images: the README's table.

    python benchmarks/retraining.py

Digits, 10, 50 and all training images per class, three seeds each. Both sides train
as many steps by the same recipe (`launchers/train.py`, cosine from 0.05, batch 64,
light augmentation); the retrained network starts from the shipped ResNet-20 with the
multipliers of `DigitsNetwork`, the other from scratch with multipliers of 1. Tested
once each, on the test split. A run that is there is not run again. Expected on two
cores: about 15 minutes.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ["--pretrained", "None", "--layers.lr-mult"]
SCRATCH += [f"{scope} 1" for scope in ("stem", "stage1", "stage2", "stage3")]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare retraining with training from scratch on the digits."""

    runs: Path = ROOT / "runs" / "retraining"
    """Folder of the runs."""
    num_steps: int = 300
    """Steps of each run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the choice of images, of the initialisation and of the order."""
    images_per_class: tuple[int, ...] = (10, 50, 0)
    """Training images per class; 0 takes all."""


def main(options: Options) -> None:
    call(["data/make_digits.py"])
    table = Table("images per class", "retrained", "from scratch")
    for count in options.images_per_class:
        cells = []
        for kind in ("retrained", "scratch"):
            accuracies = [
                accuracy(options, kind, count, seed) for seed in options.seeds
            ]
            each = ", ".join(f"{value:.1%}" for value in accuracies)
            cells.append(f"{statistics.mean(accuracies):.1%} ({each})")
        table.add_row(str(count or "all"), *cells)
    Console().print(table)


def accuracy(options: Options, kind: str, count: int, seed: int) -> float:
    run = options.runs / f"{kind}-{count or 'all'}-{seed}"
    path = run / "tests" / f"step-{options.num_steps:08d}.test.json"
    if not path.exists():
        words = ["launchers/train.py", "--run", str(run)]
        words += ["--num-steps", str(options.num_steps), "--session.seed", str(seed)]
        words += ["--data.train", subset(count, seed)]
        words += ["--schedule.name", "cosine", "--schedule.learning-rate", "0.05"]
        if kind == "scratch":
            words += " ".join(SCRATCH).split()
        call(words)
        call(["launchers/test.py", "--run", str(run), "--checkpoint", "latest"])
    return float(json.loads(path.read_text())["accuracy"])


def subset(count: int, seed: int) -> str:
    """Write a train list of `count` images per class beside the whole one."""
    if count == 0:
        return "train.json"
    folder = ROOT / "data" / "digits"
    records = json.loads((folder / "train.json").read_text())
    rng = np.random.default_rng(seed)
    chosen = {}
    for name in sorted(set(records.values())):
        paths = sorted(path for path, label in records.items() if label == name)
        for index in rng.permutation(len(paths))[:count]:
            chosen[paths[index]] = name
    name = f"train-{count}-{seed}.json"
    (folder / name).write_text(json.dumps(chosen, indent=1))
    return name


def call(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(tyro.cli(Options))

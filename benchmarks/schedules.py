"""One cycle against falls by steps, at equal and at a third of the steps.

    python -m worklab lists cifar10 --train 0.98 --valid 0.01 --test 0.01
    python benchmarks/schedules.py --folder cifar10

ResNet-20 from scratch on CIFAR-10 (batch 128, shift by an eighth, mirror, bfloat16,
decay 5e-4), three seeds each. Both schedules have the same optimizer; `steps` begins
at 0.1 and falls to a tenth at half and at three quarters (He et al. 2016,
arXiv:1512.03385, section 4.2, shortened), `one-cycle` has its peak at 0.4. Tested once
each, on the test split. A run that is there is not run again, one that was stopped
goes on. Expected on two cores: about an hour.
"""

import csv
import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path

import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("one-cycle", "steps")
COLORS = {"one-cycle": "tab:blue", "steps": "tab:orange"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare two schedules on CIFAR-10."""

    folder: Path = ROOT / "cifar10"
    """Holds the lists, made as above."""
    runs: Path = ROOT / "runs" / "schedules"
    """Folder of the runs."""
    num_steps: int = 3000
    """Steps of the long runs; the others have a third."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the initialisation and of the order."""
    output: Path = ROOT / "docs" / "images" / "super_convergence.png"
    """Picture of the curves."""


def main(options: Options) -> None:
    lengths = (options.num_steps, options.num_steps // 3)
    table = Table("steps", *KINDS)
    for num_steps in lengths:
        cells = []
        for kind in KINDS:
            found = [accuracy(options, kind, num_steps, s) for s in options.seeds]
            each = ", ".join(f"{value:.2%}" for value in found)
            cells.append(f"{statistics.mean(found):.2%} ({each})")
        table.add_row(str(num_steps), *cells)
    Console(width=100).print(table)
    draw(options, lengths)


def run_folder(options: Options, kind: str, num_steps: int, seed: int) -> Path:
    return options.runs / f"{kind}-{num_steps}-{seed}"


def accuracy(options: Options, kind: str, num_steps: int, seed: int) -> float:
    run = run_folder(options, kind, num_steps, seed)
    path = run / "tests" / f"step-{num_steps:08d}.test.json"
    if not path.exists():
        if kind == "steps":
            drops = [str(num_steps // 2), str(num_steps * 3 // 4)]
            schedule = ["0.1", "--schedule.drops", *drops]
        else:
            schedule = ["0.4"]
        words = f"""
            launchers/train.py --run {run} --num-steps {num_steps} --save-every 500
            --network worklab.networks.resnet:ResNet20 --pretrained None
            --data.folder {options.folder} --reader.batch-size 128
            --augment.preset off --augment.shift 0.125 --augment.flip
            --session.seed {seed} --session.precision bfloat16 --session.keep 1
            --schedule.name {kind} --schedule.learning-rate""".split()
        call([*words, *schedule])
        call(["launchers/test.py", "--run", str(run), "--checkpoint", "latest"])
    return float(json.loads(path.read_text())["accuracy"])


def draw(options: Options, lengths: tuple[int, int]) -> None:
    """Draw learning rate, training loss and accuracy of the first seed's runs."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    for column, num_steps in zip(figure.subplots(3, 2).T, lengths, strict=True):
        for kind in KINDS:
            run = run_folder(options, kind, num_steps, options.seeds[0])
            with open(run / "history.csv", newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
            steps = [int(row["step"]) for row in rows]
            for axes, name in zip(
                column, ("learning_rate", "loss", "accuracy"), strict=True
            ):
                values = [float(row[name]) for row in rows]
                axes.plot(steps, values, color=COLORS[kind], label=kind)
                axes.set_ylabel(name.replace("_", " "))
        column[0].set_title(f"{num_steps} steps")
        column[0].legend()
        column[2].set_xlabel("step")
    figure.savefig(options.output, dpi=80)


def call(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(tyro.cli(Options))

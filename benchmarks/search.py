"""What a search costs beside its trainings: memory that stays, and time to start.

    python benchmarks/search.py --trials 200

Trials of a tiny network, each in a process of its own as `train_with_hyper.py` runs
them, and again in this process: the resident memory after each, as a slope in MiB for
each trial after a warm-up, and the seconds of a trial. Aim: less than 0.1 MiB a trial.
"""

import contextlib
import dataclasses
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from launchers import train_with_patience
from worklab import Network
from worklab.options import (
    DataOptions,
    PatienceOptions,
    ReaderOptions,
    ScheduleOptions,
    SearchOptions,
)
from worklab.search import Search
from worklab.search_space import read_space
from worklab.study import Study


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the memory of a search."""

    trials: int = 200
    """Trials in processes of their own; a fifth of them in this process."""
    warm_up: int = 10
    """Trials that do not count."""


class Tiny(Network):
    """One block."""

    def _construct(self, images: Any) -> Any:
        x = self.conv_block(images, int(self.hyper or 4), 3)
        return self.full_layer(self.global_pool(x), self.num_classes, scope="logits")


def main(options: Options) -> None:
    table = Table("trials", "where", "MiB a trial", "seconds a trial")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder)
        base = train_with_patience.Options(
            run=folder / "run",
            network=f"{__file__}:Tiny",
            pretrained=None,
            data=DataOptions(folder, train="train", valid="valid", test="test"),
            reader=ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=6),
            schedule=ScheduleOptions(learning_rate=0.05),
            patience=PatienceOptions(valid_every=1, patience=1, max_decays=0),
        )
        count = options.trials
        rows = {"own processes": in_processes(base, count, options.warm_up)}
        rows["this process"] = in_this_process(base, count // 5, options.warm_up)
    for place, (number, slope, seconds) in rows.items():
        table.add_row(str(number), place, f"{slope:+.4f}", f"{seconds:.2f}")
    Console(width=100).print(table)


def in_processes(base: Any, count: int, warm_up: int) -> tuple[int, float, float]:
    run = base.run / "search"
    settings = SearchOptions(
        space=("hyper=2:8:1", "schedule.learning_rate=0.001:0.1:log"),
        num_trials=count,
        sampler="random",
    )
    study = Study(run, read_space(settings.space, type(base)), settings)
    memory = Memory()
    search = Search(run, train_with_patience.main, base)
    search.train_trial = memory.after(search.train_trial)  # type: ignore[method-assign]
    with search:
        search.search_space(study)
    return count, memory.slope(warm_up), memory.seconds()


def in_this_process(base: Any, count: int, warm_up: int) -> tuple[int, float, float]:
    memory = Memory()
    train = memory.after(train_with_patience.main)
    for number in range(count):
        run = base.run / f"here/{number}"
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            train(dataclasses.replace(base, run=run), testing=False)
        keras.backend.clear_session()
    return count, memory.slope(warm_up), memory.seconds()


class Memory:
    """Resident memory and time after each call of a function."""

    def __init__(self) -> None:
        self.mebibytes: list[float] = []
        self.times = [time.monotonic()]

    def after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **settings: Any) -> Any:
            result = function(*arguments, **settings)
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.mebibytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            self.times.append(time.monotonic())
            return result

        return called

    def slope(self, warm_up: int) -> float:
        """MiB a trial, by least squares."""
        kept = self.mebibytes[warm_up:]
        return float(np.polyfit(range(len(kept)), kept, 1)[0])

    def seconds(self) -> float:
        return float(np.median(np.diff(self.times)))


def make_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        for label in ("a", "b"):
            place = folder / split / label
            place.mkdir(parents=True)
            for number in range(6):
                image = rng.integers(0, 255, (8, 8, 3), np.uint8)
                cv2.imwrite(str(place / f"{number}.png"), image)


if __name__ == "__main__":
    main(tyro.cli(Options))

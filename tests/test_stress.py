"""Kills, signals, damaged files, full disks: a run ends as if nothing had happened.

`make stress` runs all of it and prints what was done; a share is in `make test`.
"""

import contextlib
import functools
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from worklab.checkpoints import (
    CheckpointError,
    Checkpoints,
    digest,
    list_steps,
    load_checkpoint,
)
from worklab.options import PatienceOptions
from worklab.patience import Patience

from . import faults
from .test_writer import events, scalars

ROOT = Path(__file__).parent.parent
SHORT = {"patience.patience": 2, "patience.max-decays": 2}
LONG = {"patience.patience": 8, "patience.max-decays": 4}
# In the order of a training; the last three come once, at its end.
PHASES = [
    "starting",
    "restoring",
    "compiling",
    "step",
    "logging",
    "validating",
    "validated",
    "saving",
    "written",
    "renamed",
    "deleting",
    "final test",
    "writing answers",
    "writing result",
]

stress = pytest.mark.stress


class Child:
    """A process that runs a function of `faults`, and can be held in a phase.

    It forks from one that has imported TensorFlow, so it starts in no time.
    """

    def __init__(self, folder, function, *arguments):
        self.folder = folder
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([faults.__name__])
        self.process = context.Process(target=function, args=arguments, daemon=True)
        self.process.start()

    @property
    def marks(self):
        path = self.folder / "marks"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def stderr(self):
        return (self.folder / "stderr").read_text()

    def wait_until(self, condition):
        deadline = time.monotonic() + 100
        while not condition():
            assert self.process.exitcode is None, f"it has ended:\n{self.stderr}"
            assert time.monotonic() < deadline, "it waits for ever"
            time.sleep(0.001)

    def wait_until_held(self):
        self.wait_until((self.folder / "held").exists)

    def release(self):
        (self.folder / "go").touch()

    def send(self, number):
        os.kill(self.process.pid, number)

    def join(self, timeout=100):
        self.process.join(timeout)
        code = self.process.exitcode
        assert code is not None, f"it does not end; its last marks: {self.marks[-5:]}"
        return code


@pytest.fixture(scope="session")
def figures(request):
    """Rows for the table that `make stress` ends with."""
    rows = []
    yield rows
    if request.config.getoption("markexpr") == "stress":
        table = Table("fault", "done", "found")
        for row in rows:
            table.add_row(*row)
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            Console(width=100).print("", table)


@pytest.fixture
def start(tmp_path, tiny_folder):
    """Return a function that starts a launcher on a run, in a process of its own."""
    children = []

    def start(
        run, settings, *, hold=None, launcher="train_with_patience", data=tiny_folder
    ):
        folder = tmp_path / f"child{len(children)}"
        folder.mkdir()
        words = words_of({"run": run, "data.folder": data, **settings})
        child = Child(folder, faults.launch, launcher, words, folder, hold)
        children.append(child)
        return child

    yield start
    for child in children:
        child.process.kill()


@pytest.fixture(scope="session")
def whole_outcome(tiny_folder, tmp_path_factory):
    """Return a function that gives the outcome of a run that nobody disturbs."""

    @functools.cache
    def outcome_of_settings(items):
        folder = tmp_path_factory.mktemp("whole")
        run = folder / "run"
        make_queue(run)
        words = words_of({"run": run, "data.folder": tiny_folder, **dict(items)})
        child = Child(
            folder, faults.launch, "train_with_patience", words, folder, None
        )
        assert child.join() == 0, child.stderr
        return outcome(run)

    return lambda settings: outcome_of_settings(tuple(settings.items()))


def words_of(settings):
    common = {
        "network": "tests.conftest:TinyNetwork",
        "pretrained": None,
        "reader.image-size": (8, 8),
        "reader.batch-size": 6,
        "reader.test-batch-size": 4,
        "schedule.learning-rate": 0.1,
        "training.log-every": 3,  # does not divide the steps between validations
        "patience.valid-every": 4,
    }
    words = []
    for name, value in (common | settings).items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name}", *map(str, values)]
    return words


def make_queue(run):
    """Let a run keep every checkpoint for a tester that is not there."""
    (run / "tests/queues/valid").mkdir(parents=True)


def outcome(run):
    """Return all that a run leaves behind, but for times of day and speeds."""
    personal = {".lock", "run.json"}
    files = {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file()
        and path.name not in personal
        and not path.name.startswith("events.out")
    }
    curves = {
        folder.name: [point for point in scalars(folder) if "per_second" not in point[1]]
        for folder in (run / "tensorboard").iterdir()
    }
    graphs = [e.step for e in events(run / "tensorboard/train") if e.graph_def]
    return files | {"curves": curves, "graphs": graphs}


def assert_equal_outcomes(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name


def newest(run):
    """Return the step of the newest checkpoint, which must be whole."""
    step = list_steps(run / "checkpoints")[-1]
    _, state = load_checkpoint(run / f"checkpoints/step-{step:08d}.safetensors")
    assert state["step"] == step
    return step


def kill_at(child, moment):
    """Kill a process in its phase, or at a number of marks; return the phase."""
    if isinstance(moment, str):
        child.wait_until_held()
    else:
        child.wait_until(lambda: len(child.marks) >= moment)
    child.send(signal.SIGKILL)
    assert child.join() == -signal.SIGKILL
    return moment if isinstance(moment, str) else child.marks[-1]


def plan_of_kills(phases, num_random, rng):
    early = [phase for phase in phases if phase not in PHASES[-3:]]
    moments = early + [rng.randint(1, 40) for _ in range(num_random)]
    rng.shuffle(moments)
    # Nothing is there to be restored before the first kill.
    moments.remove("step")
    return ["step", *moments, *(phase for phase in phases if phase in PHASES[-3:])]


@pytest.mark.parametrize(
    ("settings", "phases", "num_random"),
    [
        (SHORT, ["step", "saving", "renamed", "validating", "final test"], 1),
        pytest.param(LONG, PHASES, 16, marks=stress),
    ],
    ids=["few", "30"],
)
def test_killed_again_and_again_it_ends_the_same(
    tmp_path, start, whole_outcome, figures, settings, phases, num_random
):
    rng = random.Random(0)
    run = tmp_path / "run"
    make_queue(run)
    hits = Counter()
    for moment in plan_of_kills(phases, num_random, rng):
        often = moment in ("step", "logging", "validating", "saving", "deleting")
        occurrence = rng.randint(1, 2 if often else 1)
        hold = (moment, occurrence) if isinstance(moment, str) else None
        phase = kill_at(start(run, settings, hold=hold), moment)
        hits[phase if isinstance(moment, str) else f"{phase}*"] += 1
    child = start(run, settings)
    assert child.join() == 0, child.stderr
    expected = whole_outcome(settings)
    assert_equal_outcomes(outcome(run), expected)
    assert {phase for phase in hits if "*" not in phase} == set(phases)
    figures.append(
        (
            "SIGKILL (* at a random moment)",
            f"{hits.total()} kills: " + ", ".join(f"{k} {v}" for k, v in hits.items()),
            f"{len(expected)} files and curves equal",
        )
    )

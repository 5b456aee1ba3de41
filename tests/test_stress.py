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

from worklab.checkpoints import (
    CheckpointError,
    Checkpoints,
    list_steps,
    load_checkpoint,
)
from worklab.options import PatienceOptions
from worklab.patience import Patience
from worklab.readers import JsonListReader

from . import faults
from .conftest import CLASS_NAMES
from .test_writer import events, scalars

ROOT = Path(__file__).parent.parent
SHORT = {
    "schedule.learning-rate": 0.3,  # so high that it ends after some 20 validations
    "patience.valid-every": 4,
    "patience.patience": 2,
    "patience.max-decays": 2,
}
LONG = SHORT | {
    "schedule.learning-rate": 0.1,
    "patience.patience": 8,
    "patience.max-decays": 4,
}
# In the order of a training; the last four come once, at its end.
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
    "renaming",
    "renamed",
    "linking",
    "deleting",
    "final test",
    "drawing",
    "writing answers",
    "writing result",
]

ONCE = {"starting", "restoring", "compiling", *PHASES[-4:]}

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
        child = Child(folder, faults.launch, "train_with_patience", words, folder, None)
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
    """Return all that a run leaves behind, but for what belongs to its processes.

    These are times of day, speeds, and checkpoints that were saved at a stop.
    """
    personal = {".lock", "run.json", "changes.diff", "deleted.txt", "report.html"}
    files = {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file()
        and path.name not in personal
        and not path.name.startswith("events.out")
    }
    if "report.json" in files:  # its page has the same numbers
        report = json.loads(files["report.json"])
        for name in ("path", "record", "started", "remarks"):
            del report[name]
        if report["test"] is not None:
            del report["test"]["file"]
        files["report.json"] = report
    curves = {
        folder.name: [point for point in scalars(folder) if "speed/" not in point[1]]
        for folder in [run / "tensorboard", *(run / "tensorboard").glob("*/")]
    }
    graphs = [e.step for e in events(run / "tensorboard/train") if e.graph_def]
    tested = events(run / "tensorboard/test")
    pictures = [(e.step, value.tag) for e in tested for value in e.summary.value]
    return files | {"curves": curves, "graphs": graphs, "pictures": pictures}


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


def hold_in(phase, rng):
    return phase, 1 if phase in ONCE else rng.randint(1, 2)


def kill(child):
    child.send(signal.SIGKILL)
    assert child.join() == -signal.SIGKILL


def kill_held(child):
    child.wait_until_held()
    kill(child)


def kill_after(child, num_marks):
    """Kill a process once it has made so many marks; return the phase it was in."""
    child.wait_until(lambda: len(child.marks) >= num_marks)
    kill(child)
    return child.marks[-1]


def plan_of_kills(phases, num_random, rng):
    """Return phases, and numbers of marks for random moments, in random order."""
    plan = [phase for phase in phases if phase not in PHASES[-4:]]
    plan += [rng.randint(1, 25) for _ in range(num_random)]
    rng.shuffle(plan)
    # Nothing is there to be restored before the first kill.
    plan.insert(0, plan.pop(plan.index("step")))
    return plan + [phase for phase in phases if phase in PHASES[-4:]]


@pytest.mark.parametrize(
    ("settings", "phases", "num_random"),
    [
        (SHORT, ["step", "saving", "renamed", "validating", "drawing"], 1),
        pytest.param(LONG, PHASES, 30, marks=stress),
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
        if moment in phases:
            kill_held(start(run, settings, hold=hold_in(moment, rng)))
            hits[moment] += 1
        else:
            hits[f"{kill_after(start(run, settings), moment)}*"] += 1
    child = start(run, settings)
    assert child.join() == 0, child.stderr
    expected = whole_outcome(settings)
    assert_equal_outcomes(outcome(run), expected)
    figures.append(
        (
            "SIGKILL (* at a random moment)",
            f"{hits.total()} kills: "
            + ", ".join(f"{k} {hits[k]}" for k in sorted(hits)),
            f"{len(expected)} files and curves equal",
        )
    )


def test_killed_at_the_last_deletion_it_keeps_no_more_than_it_should(
    tmp_path, start, whole_outcome
):
    run = tmp_path / "run"
    make_queue(run)
    expected = whole_outcome(SHORT)
    num_saves = 1 + json.loads(expected["result.json"])["step"] // 4
    kill_held(start(run, SHORT, hold=("deleting", num_saves)))
    child = start(run, SHORT)
    assert child.join() == 0, child.stderr
    assert_equal_outcomes(outcome(run), expected)


def stop_at(child, number):
    """Send a signal in the phase a process is held in; return its exit code."""
    child.wait_until_held()
    child.send(number)
    child.release()
    return child.join()


def assert_stopped_well(child, run, code, number):
    """Check all that a signal promises."""
    assert code == 128 + number, child.stderr
    assert not list((run / "checkpoints").glob(".*"))
    line = child.stderr.splitlines()[-1]
    name = signal.Signals(number).name
    promise = f"stopped by {name} at step {newest(run)}; the same command goes on"
    assert line.startswith(promise)


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        (
            SHORT,
            [
                ("compiling", signal.SIGTERM),
                ("validating", signal.SIGINT),
                ("saving", signal.SIGTERM),
                ("step", signal.SIGINT),
                ("final test", signal.SIGTERM),
            ],
        ),
        pytest.param(
            LONG,
            [
                (phase, number)
                for phase in PHASES[:-3]
                for number in (signal.SIGTERM, signal.SIGINT)
                if phase != "linking"  # nobody waits in the queue here
            ],
            marks=stress,
        ),
    ],
    ids=["few", "all"],
)
def test_signal_saves_in_every_phase(
    tmp_path, start, whole_outcome, figures, settings, stops
):
    rng = random.Random(1)
    run = tmp_path / "run"
    for phase, number in stops:
        child = start(run, settings, hold=hold_in(phase, rng))
        code = stop_at(child, number)
        assert_stopped_well(child, run, code, number)
    child = start(run, settings)
    assert child.join() == 0, child.stderr
    expected = whole_outcome(settings)
    found = outcome(run)
    queued = {name for name in expected if name.startswith("tests/queues")}
    assert_equal_outcomes(found, {k: v for k, v in expected.items() if k not in queued})
    figures.append(
        (
            "SIGTERM, SIGINT",
            f"{len(stops)} stops: " + ", ".join(dict.fromkeys(p for p, _ in stops)),
            "143 or 130, a whole checkpoint and the way on each time; "
            f"{len(found)} files and curves equal",
        )
    )


@pytest.mark.parametrize(
    "phases",
    [
        ["saving", "final test"],
        pytest.param(["compiling", "step", "validating", "deleting"], marks=stress),
    ],
    ids=["few", "others"],
)
def test_second_signal_ends_at_once(tmp_path, start, figures, phases):
    run = tmp_path / "run"
    for phase in phases:
        child = start(run, SHORT, hold=(phase, 1 if phase in ONCE else 2))
        child.wait_until_held()
        child.send(signal.SIGTERM)
        child.wait_until(lambda marks=child: "signal" in marks.marks)
        child.send(signal.SIGTERM)
        assert child.join(timeout=10) == -signal.SIGTERM  # still held, yet it ended
        assert newest(run) >= 0
    figures.append(
        ("second SIGTERM", f"{len(phases)}: {', '.join(phases)}", "ended at once")
    )


def test_signal_while_the_last_checkpoint_is_written_waits_for_it(tmp_path, start):
    run = tmp_path / "run"
    settings = {"num-steps": 4, "save-every": 4}
    child = start(run, settings, launcher="train", hold=("saving", 2))
    assert stop_at(child, signal.SIGTERM) == 0, child.stderr
    assert newest(run) == 4
    assert json.loads((run / "result.json").read_text())["step"] == 4


def test_script_stopped_by_a_signal_says_how_to_go_on(tmp_path, tiny_folder):
    run = tmp_path / "run"
    words = words_of({"run": run, "data.folder": tiny_folder, **LONG})
    with subprocess.Popen(
        [sys.executable, "launchers/train_with_patience.py", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (run / "history.csv").exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.splitlines()[-1] == (
        f"stopped by SIGTERM at step {newest(run)}; the same command goes on from there"
    )


@pytest.mark.parametrize(
    ("num_saves", "num_kills"),
    [(100, 1), pytest.param(1000, 5, marks=stress)],
    ids=["100", "1000"],
)
def test_slow_tester_gets_every_checkpoint_once_and_in_order(
    tmp_path, figures, num_saves, num_kills
):
    run = tmp_path / "run"
    (run / "tests").mkdir(parents=True)
    saver = Checkpoints(run / "checkpoints", keep=2, queues=run / "tests/queues")

    def start_tester():
        return Child(tmp_path, faults.test_slowly, run, tmp_path, 0.01)

    rng = np.random.default_rng(0)
    kills = set(rng.choice(np.arange(10, num_saves), num_kills, replace=False).tolist())
    child = start_tester()
    child.wait_until((run / "tests/queues/valid").exists)
    for step in range(1, num_saves + 1):
        arrays = {name: np.full((64, 64), step, np.float32) for name in "abc"}
        saver.save(step, arrays, {"step": step})
        if step % 100 < 50:  # else it saves much faster than the tester tests
            time.sleep(0.015)
        if step in kills:
            kill(child)
            child = start_tester()
    backlog = len(list_steps(run / "tests/queues/valid"))
    (run / "result.json").write_text("{}")
    assert child.join() == 0, child.stderr

    assert saver.steps() == [num_saves - 1, num_saves]
    assert not (run / "tests/queues/valid").exists()
    tested = sorted((run / "tests").glob("step-*.valid.json"))
    assert len(tested) == num_saves
    times = [int(path.read_text()) for path in tested]
    assert times == sorted(times)
    figures.append(
        (
            "slow tester, keep=2",
            f"{num_saves} saves, {num_kills} kills of the tester",
            f"{len(tested)} tested once and in order; {backlog} waited at the end",
        )
    )


def checkpoint_files(expected):
    """Return the newest two checkpoints of an outcome, by name, oldest first."""
    names = sorted(name for name in expected if name.startswith("checkpoints/"))[-2:]
    return {Path(name).name: expected[name] for name in names}


def damages(content, num, rng):
    """Yield a content with one bit flipped, or cut short, at random offsets."""
    for offset in rng.sample(range(len(content)), num):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << rng.randrange(8)
        yield bytes(flipped)
        yield content[:offset]


@pytest.mark.parametrize("num_offsets", [20, pytest.param(200, marks=stress)])
def test_damage_of_the_newest_checkpoint_is_reported_and_the_one_before_used(
    tmp_path, whole_outcome, caplog, monkeypatch, figures, num_offsets
):
    monkeypatch.setattr(logging.getLogger("worklab"), "propagate", True)
    before, last = checkpoint_files(whole_outcome(SHORT)).items()
    expected_step = int(re.findall(r"\d+", before[0])[0])
    saved = Checkpoints(tmp_path)
    (tmp_path / before[0]).write_bytes(before[1])
    path = tmp_path / last[0]
    for content in damages(last[1], num_offsets, random.Random(2)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(last[0])):
            load_checkpoint(path)
        caplog.clear()
        newest = saved.load_newest()
        assert newest is not None
        assert newest[0] == expected_step
        assert f"`{path}`" in caplog.text
    path.write_bytes(last[1])
    load_checkpoint(path)
    figures.append(
        (
            "damaged checkpoint",
            f"{num_offsets} flipped bits, {num_offsets} truncations",
            "each found and named, the one before used",
        )
    )


@stress
def test_every_flipped_bit_of_a_header_is_found(tmp_path, figures):
    path = Checkpoints(tmp_path).save(
        1, {"a/kernel": np.ones((3, 2), np.float32), "n": np.array(7)}, {"step": 1}
    )
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    for bit in range(8 * length):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    figures.append(("damaged header", f"all of its {8 * length} bits", "each found"))


def test_run_with_a_damaged_checkpoint_ends_the_same(tmp_path, start, whole_outcome):
    run = tmp_path / "run"
    make_queue(run)
    kill_held(start(run, SHORT, hold=("validated", 4)))
    damaged = run / f"checkpoints/step-{newest(run):08d}.safetensors"
    os.truncate(damaged, damaged.stat().st_size - 1)
    child = start(run, SHORT)
    assert child.join() == 0, child.stderr
    assert f"`{damaged}` cannot be read" in child.stderr
    assert_equal_outcomes(outcome(run), whole_outcome(SHORT))


def test_damaged_checkpoint_never_costs_a_whole_one(tmp_path):
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(10, {"a": np.ones(3)}, {"step": 10})
    (tmp_path / "step-00000020.safetensors").write_bytes(b"damaged")
    saved.save(15, {"a": np.ones(3)}, {"step": 15})
    newest = saved.load_newest()
    assert newest is not None
    assert newest[0] == 15
    saved.save(20, {"a": np.ones(3)}, {"step": 20})
    assert saved.steps() == [20]


@contextlib.contextmanager
def mounted(folder, *options):
    """Mount something on a folder, or skip the test with the reason."""
    try:
        subprocess.run(
            ["mount", *options, folder], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted: {getattr(error, 'stderr', error)}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def read_only(folder):
    with mounted(folder, "--bind", folder):
        # Whatever is open for writing below stays so: this is of the mount alone.
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield


def fill(disk):
    """Take all room of a disk; return the file to delete for it to be free again."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def assert_stopped_by_the_disk(child, paths):
    assert child.join() == 1, child.stderr
    line = child.stderr.splitlines()[-1]
    assert line.startswith(tuple(f"error: `{path}" for path in paths))
    assert "could not be written" in line
    assert "what was there is intact" in line


def whole_checkpoints(run):
    """Return the steps of a run's checkpoints, which must all be whole."""
    saved = Checkpoints(run / "checkpoints")
    return [step for step in saved.steps() if saved.load(step)[1]["step"] == step]


@pytest.mark.parametrize(
    ("hold", "files"),
    [
        (("saving", 3), ["checkpoints/step-00000008.safetensors"]),
        *(
            pytest.param(hold, files, marks=stress)
            for hold, files in [
                (("starting", 1), [".lock"]),
                (("compiling", 1), ["history.csv", "tensorboard/train"]),
                (("logging", 9), ["history.csv", "tensorboard", "checkpoints/"]),
                (("final test", 1), ["tensorboard/test"]),
                (("writing result", 1), ["tests/step-", "result.json"]),
            ]
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_full_disk_stops_the_run_until_there_is_room(
    tmp_path, start, whole_outcome, figures, hold, files
):
    disk = tmp_path / "disk"
    disk.mkdir()
    run = disk / "run"
    with mounted(disk, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        make_queue(run)
        child = start(run, SHORT, hold=hold)
        child.wait_until_held()
        ballast = fill(disk)
        child.release()
        assert_stopped_by_the_disk(child, [run / file for file in files])
        checkpoints = whole_checkpoints(run)
        # It is still full at the next start, whatever is written first then.
        assert_stopped_by_the_disk(start(run, SHORT), [run])
        assert whole_checkpoints(run) == checkpoints
        ballast.unlink()
        child = start(run, SHORT)
        assert child.join() == 0, child.stderr
        assert_equal_outcomes(outcome(run), whole_outcome(SHORT))
    figures.append(("full disk", hold[0], "file named, goes on when there is room"))


@pytest.mark.parametrize(
    ("hold", "folder", "file"),
    [
        (("validating", 5), "checkpoints", "checkpoints/step-00000012.safetensors"),
        pytest.param(("validating", 5), ".", "history.csv", marks=stress),
        pytest.param(("final test", 1), "tests", "tests/step-", marks=stress),
    ],
    ids=["checkpoints", "run", "tests"],
)
def test_read_only_folder_stops_the_run(
    tmp_path, start, whole_outcome, figures, hold, folder, file
):
    run = tmp_path / "run"
    make_queue(run)
    child = start(run, SHORT, hold=hold)
    child.wait_until_held()
    child.wait_until(lambda: len(list_steps(run / "checkpoints")) >= 3)
    checkpoints = whole_checkpoints(run)
    with read_only(run / folder):
        child.release()
        assert_stopped_by_the_disk(child, [run / file])
    with read_only(run):
        assert_stopped_by_the_disk(start(run, SHORT), [run / ".lock"])
    assert whole_checkpoints(run) == checkpoints
    child = start(run, SHORT)
    assert child.join() == 0, child.stderr
    assert_equal_outcomes(outcome(run), whole_outcome(SHORT))
    figures.append(
        ("read-only folder", file, "file named, goes on when it can be written")
    )


NAN_PATH = "50.png"


@pytest.fixture
def nan_folder(tmp_path, tiny_folder):
    """Lists with features, of which one in the train list is NaN."""
    folder = tmp_path / "nan"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, first, last in (("train", 0, 90), ("valid", 90, 96), ("test", 96, 102)):
        records = []
        for number in range(first, last):
            path = f"{number}.png"
            shutil.copy(tiny_folder / f"{number % 30}.png", folder / path)
            features = rng.normal(size=2).tolist()
            if path == NAN_PATH:
                features[1] = np.nan
            label = CLASS_NAMES[number % 3]
            records.append({"image": path, "label": label, "features": features})
        (folder / f"{split}.json").write_text(json.dumps(records))
    return folder


def first_bad_step(folder):
    reader = JsonListReader(folder / "train.json", CLASS_NAMES, options=faults.SIZES)
    step = 0
    while np.isfinite(reader.train_batch(step)["features"]).all():
        step += 1
    return step + 1  # the Trainer counts from 1


def assert_finite_checkpoints(run):
    paths = list((run / "tests/queues/valid").iterdir())
    for path in paths:
        arrays, _ = load_checkpoint(path)
        assert all(np.isfinite(array).all() for array in arrays.values()), path
    return len(paths)


ROLLBACK = SHORT | {
    "network": "tests.faults:FeatureNetwork",
    "training.on-nan": "rollback",
}


# The log is cut whenever the run goes back, as well as at its start.
@pytest.mark.parametrize(
    "holds",
    [
        [("restoring", 1), ("saving", 3), ("final test", 1)],
        pytest.param(
            [
                ("restoring", 1),
                ("restoring", 3),
                ("restoring", 4),
                ("saving", 1),
                ("validating", 1),
                ("step", 5),
                ("deleting", 1),
                ("final test", 1),
            ],
            marks=stress,
        ),
    ],
    ids=["few", "8"],
)
def test_planted_nan_is_named_and_skipped(tmp_path, start, nan_folder, figures, holds):
    whole, killed = tmp_path / "whole/run", tmp_path / "killed/run"
    for run in (whole, killed):
        make_queue(run)
    child = start(whole, ROLLBACK, data=nan_folder)
    assert child.join() == 0, child.stderr
    lines = [line for line in child.stderr.splitlines() if "is not finite" in line]
    assert len(lines) >= 3
    assert all(f"`{NAN_PATH}`" in line for line in lines)
    num_files = assert_finite_checkpoints(whole)
    for hold in holds:
        kill_held(start(killed, ROLLBACK, data=nan_folder, hold=hold))
    child = start(killed, ROLLBACK, data=nan_folder)
    assert child.join() == 0, child.stderr
    found = outcome(killed)
    assert_equal_outcomes(found, outcome(whole))
    figures.append(
        (
            "planted NaN",
            f"{len(lines)} times gone back, {len(holds)} kills",
            f"{NAN_PATH} named each time, {num_files} checkpoints finite, "
            f"{len(found)} files and curves equal",
        )
    )


def test_signal_at_a_step_that_is_not_finite_is_served(tmp_path, start, nan_folder):
    run = tmp_path / "run"
    settings = ROLLBACK | {"patience.valid-every": 100, "training.log-every": 100}
    # The two states that are asked for before the first step are settled as well.
    hold = ("step", 2 + first_bad_step(nan_folder))
    child = start(run, settings, data=nan_folder, hold=hold)
    assert stop_at(child, signal.SIGTERM) == 143, child.stderr
    assert f"`{NAN_PATH}`" in child.stderr
    assert whole_checkpoints(run) == [0]


@pytest.mark.parametrize(
    "num_cycles", [60, pytest.param(2000, marks=stress)], ids=["60", "2000"]
)
def test_memory_stays_what_it_was(tmp_path, tiny_folder, figures, num_cycles):
    memory = tmp_path / "memory.json"
    child = Child(
        tmp_path, faults.cycle, tiny_folder, tmp_path / "run", num_cycles, memory
    )
    assert child.join(timeout=1000) == 0, child.stderr
    by_cycle = {int(k): v for k, v in json.loads(memory.read_text()).items()}
    growth = by_cycle[num_cycles] / by_cycle[10] - 1
    assert growth < 0.01, by_cycle
    figures.append(
        (
            "memory",
            f"{num_cycles} cycles of training and validation",
            f"{by_cycle[10] / 2**20:.1f} MB after 10, {growth:+.2%} after all",
        )
    )


def test_loss_sequence_of_f1_with_kills_gives_the_same_decisions():
    # Keras 3.15 stops this at validation 9 if nobody disturbs it. Killed at the start
    # of 4, 7 and 10 it stops at 18, and calls three worse models the best.
    losses = [1.0, 0.5, 0.9, 0.8, 0.7, 0.85, 0.75, 0.65, 0.8, 0.6]
    options = PatienceOptions(patience=4, max_decays=1)
    whole, killed = Patience(options), Patience(options)
    decisions = {}
    for number, loss in enumerate(losses):
        decision = whole.update(number, loss)
        state = json.loads(json.dumps(killed.get_state(), allow_nan=False))
        killed = Patience(options)
        killed.set_state(state)
        assert killed.update(number, loss) == decision
        assert killed.get_state() == whole.get_state()
        assert killed.factor == whole.factor
        if decision != "wait":
            decisions[number] = decision
    assert decisions == {0: "best", 1: "best", 5: "decay", 9: "stop"}
    assert (killed.best_step, killed.best_loss) == (1, 0.5)

"""What test_stress.py runs in processes of its own, to kill them and to stop them."""

import contextlib
import functools
import gc
import importlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The launchers are here to be imported before a process forks.
from launchers import train, train_with_patience  # noqa: F401
from worklab import (
    Network,
    Session,
    Tester,
    Trainer,
    Writer,
    checkpoints,
    cli,
    tester,
    writer,
)
from worklab.checkpoints import Checkpoints, load_checkpoint
from worklab.files import write_json
from worklab.options import (
    PatienceOptions,
    ReaderOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.patience import Patience
from worklab.readers import JsonListReader
from worklab.stopping import StopSignals
from worklab.testing_queue import TestingQueue

from .conftest import CLASS_NAMES, TinyNetwork

SIZES = ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=4)

# A phase begins where its function is called; a signal is noted where that ends.
_PHASES = {
    "starting": (Session, "start"),
    "restoring": (writer, "cut_events"),
    "compiling": (Trainer, "_train_step"),
    "step": (Trainer, "_settle"),
    "logging": (Writer, "_event_file"),
    "validating": (Tester, "_predict"),
    "validated": (Patience, "update"),
    "saving": (checkpoints, "save_file"),
    "written": (checkpoints, "bring_to_disk"),
    "linking": (os, "replace"),
    "deleting": (Checkpoints, "delete_old"),
    "drawing": (Writer, "write_pr_curves"),
    "writing answers": (tester, "write_table"),
    "writing result": (train_with_patience, "write_result"),
    "signal": (StopSignals, "_on_signal"),
}

Hold = tuple[str, int]


class FeatureNetwork(Network):
    """Joins the features of an image after all normalisation."""

    def _construct(self, images: Any) -> Any:
        x = self.global_pool(self.conv_block(images, 4, 3))
        return self.full_layer(
            x, self.num_classes, features=self.features, scope="logits"
        )


class Marks:
    """Notes in `folder/marks` each phase that begins, and waits in one of them.

    It waits for a file `go`: what comes before that comes in the phase.

    Args:
        folder: Where the files are.
        hold: Phase to wait in, and at which of its beginnings; None: never.
    """

    def __init__(self, folder: Path, hold: Hold | None) -> None:
        self.folder = folder
        self.hold = hold
        self._counts: Counter[str] = Counter()
        self._file = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, phase: str) -> bool:
        """Note a phase; return whether it is the one to wait in."""
        self._counts[phase] += 1
        os.write(self._file, f"{phase}\n".encode())
        return self.hold == (phase, self._counts[phase])

    def wait(self) -> None:
        """Wait for the file `go`."""
        (self.folder / "held").touch()
        deadline = time.monotonic() + 100
        while not (self.folder / "go").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("nobody has come")
            time.sleep(0.002)

    def watch(self, phase: str, owner: Any, name: str) -> None:
        """Let a phase begin whenever `owner.name` is called."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*arguments: Any, **settings: Any) -> Any:
            if phase == "signal":  # noted once it is served: then another may come
                function(*arguments, **settings)
                self.note(phase)
                return None
            if self.note(_exact(phase, arguments)):
                if phase == "saving":
                    with _half_written(function, *arguments, **settings):
                        self.wait()
                else:
                    self.wait()
            return function(*arguments, **settings)

        setattr(owner, name, watched)


def launch(launcher: str, words: list[str], folder: Path, hold: Hold | None) -> None:
    """Run a launcher as its script does; what it prints goes into `folder`."""
    _redirect(folder)
    marks = Marks(folder, hold)
    for phase, (owner, name) in _PHASES.items():
        marks.watch(phase, owner, name)
    cli.run(importlib.import_module(f"launchers.{launcher}").main, words)


def launch_worker(config: str, *arguments: Any) -> None:
    """Run a launcher as one of several workers."""
    os.environ["TF_CONFIG"] = config
    launch(*arguments)


def test_slowly(run: Path, folder: Path, pause: float) -> None:
    """Test checkpoints as `test_many` does, with a long look into each file."""
    _redirect(folder)
    with TestingQueue(run, "valid") as queue:
        while True:
            complete = (run / "result.json").exists()  # before the last look
            for step, path in queue.waiting():
                with open(path, "rb") as file:
                    head = file.read(100)
                    time.sleep(pause)
                    content = head + file.read()
                arrays, state = load_checkpoint(path)
                assert content == path.read_bytes()
                numbers = {float(array.mean()) for array in arrays.values()}
                assert numbers == {float(state["step"])} == {float(step)}
                _write_once(run / f"tests/step-{step:08d}.valid.json")
                queue.remove(path)
            if complete:
                return
            time.sleep(0.001)


test_slowly.__test__ = False  # type: ignore[attr-defined]  # not pytest's


def cycle(data: Path, run: Path, num_cycles: int, memory: Path) -> None:
    """Train and validate in cycles of one step; write the memory after each tenth."""
    _redirect(run.parent)
    train_reader, valid_reader = (
        JsonListReader(data / f"{split}.json", CLASS_NAMES, options=SIZES)
        for split in ("train", "valid")
    )
    network = TinyNetwork(3, image_shape=(8, 8, 3))
    bytes_by_cycle = {}
    with Session(run, SessionOptions(keep=2)) as session, Writer(run) as log:
        rate = lambda step: 0.01  # noqa: E731
        options = TrainingOptions(log_every=1)
        trainer = Trainer(
            network, train_reader, session, log, learning_rate=rate, options=options
        )
        session.start(network, CLASS_NAMES)
        tester = Tester(network, valid_reader, session, split="valid")
        for number in range(1, num_cycles + 1):
            trainer.train(1)
            loss = tester.test().statistics.loss
            Patience(PatienceOptions()).update(session.step, loss)
            log.write_scalars(session.step, {"loss": loss}, split="valid")
            if number % 50 == 0:
                session.save()
            if number % 10 == 0:
                bytes_by_cycle[number] = _bytes_in_memory()
    write_json(memory, bytes_by_cycle)


def _exact(phase: str, arguments: tuple[Any, ...]) -> str:
    first = arguments[0] if arguments else None
    if phase == "validating" and first.split == "test":
        return "final test"
    if phase == "written" and first.is_dir():
        return "renamed"
    if phase == "linking" and "queues" not in Path(first).parts:
        return "renaming"
    return phase


@contextlib.contextmanager
def _half_written(
    save: Callable[..., None], arrays: Any, path: Path, **settings: Any
) -> Iterator[None]:
    """Leave what safetensors leaves in the middle of writing a file."""
    half = path.with_name(".tmpHa1f00")
    save(arrays, half, **settings)
    os.truncate(half, half.stat().st_size // 2)
    yield
    half.unlink()


def _write_once(path: Path) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(str(time.monotonic_ns()))
    os.link(part, path)  # unlike a rename, this fails where there is a file
    part.unlink()


def _redirect(folder: Path) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)


def _bytes_in_memory() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

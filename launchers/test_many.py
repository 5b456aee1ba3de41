"""Test every checkpoint of a run as it appears, beside training.

    python launchers/test_many.py --run runs/demo --split valid

Each checkpoint is tested once, in order, even if training deletes it meanwhile: the
trainer links it into this tester's queue before it deletes any. Ends when the run is
complete and its queue is empty. Start it before, during or after training. It needs
the memory of a second copy of the network.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Literal

from worklab import Session, Tester, Writer, cli
from worklab.checkpoints import CheckpointError
from worklab.console import make_console, show_test
from worklab.printing import print_plainly
from worklab.report.writing import report_test
from worklab.runs import make_network, make_reader, read_run
from worklab.runtime import limit_device
from worklab.tester import TestResult
from worklab.testing_queue import TestingQueue
from worklab.watching import looks, wait_for_run


@dataclasses.dataclass(frozen=True)
class Options:
    """Test every checkpoint of a run as it appears, beside training."""

    run: Path = Path("runs/demo")
    """Folder of the run; waited for when it is not there yet."""
    split: Literal["train", "valid", "test"] = "valid"
    """Which of the run's lists."""
    data_folder: Path | None = None
    """Where the lists are now; None: where they were in training."""
    follow: bool = False
    """Go on waiting after the run is complete, e.g. for a longer `--num-steps`."""
    device: Literal["auto", "cpu"] = "auto"
    """`cpu` leaves the GPU to training."""
    gpu_megabytes: int | None = None
    """Most memory to take of a GPU; None: as much as TensorFlow likes."""
    num_threads: int = 0
    """Threads of TensorFlow; fewer leave cores to training, 0 takes every core."""
    poll_seconds: float = 1.0
    """Pause between looks for a new checkpoint."""
    report: bool = True
    """Write a page on the last test beside it, `<test>.report.html`."""


def main(options: Options) -> list[TestResult]:
    """Test every checkpoint of a run as it appears.

    Returns:
        The results of this process, in order.
    """
    limit_device(options.device, options.gpu_megabytes)
    console = make_console(alone=True)
    results: list[TestResult] = []
    path = Path()
    with TestingQueue(options.run, options.split) as queue:
        if queue.missed:
            console.print(
                "not tested: the checkpoints of these steps were deleted before this "
                f"tester began, so begin it before training: {queue.missed}",
                highlight=False,
            )
        show = functools.partial(print_plainly, console)
        wait_for_run(options.run, options.poll_seconds, show)
        setup = read_run(options.run, data_folder=options.data_folder)
        threads = dataclasses.replace(setup.session, num_threads=options.num_threads)
        with (
            Session(options.run, threads, alone=True) as session,
            Writer(options.run / "tests" / options.split) as writer,
        ):
            reader = make_reader(options.split, setup.class_names, setup)
            network = make_network(reader, setup)
            session.track_variables(network.variables)
            tester = Tester(
                network, reader, session, split=options.split, console=console
            )
            write_earlier_results(options, writer)
            seconds, follow = options.poll_seconds, options.follow
            for _ in looks(session, seconds, follow=follow):
                for step, checkpoint in queue.waiting():
                    session.raise_if_stopped()
                    try:
                        session.restore_file(checkpoint)
                    except CheckpointError as error:
                        show(f"not tested: {error}")
                        queue.set_aside(checkpoint)
                        continue
                    result = tester.test(step=step)
                    path = result.save(options.run / "tests")
                    queue.remove(checkpoint)
                    found = result.statistics
                    write_point(writer, step, found.loss, found.accuracy, options.split)
                    show_test(console, result)
                    results.append(result)
    if results:
        report_test(console, path, options)
    return results


def write_earlier_results(options: Options, writer: Writer) -> None:
    """Write the curve anew from the results that are there."""
    writer.set_state({"num_rows": 0, "last_steps": {}})
    folder = options.run / "tests"
    for path in sorted(folder.glob(f"step-*.{options.split}.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        step, loss, accuracy = found["step"], found["loss"], found["accuracy"]
        write_point(writer, step, loss, accuracy, options.split)


def write_point(
    writer: Writer, step: int, loss: float, accuracy: float, split: str
) -> None:
    """Write a point of the curves, and bring it to disk."""
    writer.write_scalars(step, {"loss": loss, "accuracy": accuracy}, split=split)
    writer.get_state()


if __name__ == "__main__":
    cli.run(main, face="test")

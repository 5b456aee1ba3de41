"""Train for a number of steps.

    python launchers/train.py --run runs/steps --num-steps 2000

saves a checkpoint every `save_every` steps and at the end. Stop it at any time; the
same command goes on where it was, and a larger `--num-steps` goes further. To test
the checkpoints as they come, start `test_many.py` beside it.
"""

import dataclasses
from pathlib import Path
from typing import Any

from worklab import Trainer, cli
from worklab.console import make_console, show_places, show_skipped
from worklab.options import (
    AugmentOptions,
    DataOptions,
    LayerOptions,
    OptimizerOptions,
    ReaderOptions,
    RestoreOptions,
    ScheduleOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.printing import print_plainly
from worklab.report.writing import report_run
from worklab.runs import (
    delete_result,
    make_network,
    make_reader,
    open_session,
    open_writer,
    pin_class_names,
    resolve,
    skipped_images,
    write_result,
    write_run,
)
from worklab.schedules import make_schedule

PRETRAINED = (
    Path(__file__).resolve().parent.parent / "pretrained/resnet20_cifar10.safetensors"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Train for a number of steps; an unfinished run goes on where it was."""

    run: Path = Path("runs/steps")
    """Folder of the run."""
    num_steps: int = 1000
    """Step at which training ends, counted from the start of the run."""
    save_every: int = 500
    """Steps between checkpoints; there is always one at the end."""
    network: str = "worklab.networks.digits:DigitsNetwork"
    """The Network class, as `file.py:Class` or `package.module:Class`."""
    hyper: float | None = None
    """A number for networks that read `self.hyper`, such as a width; None: none."""
    pretrained: Path | None = PRETRAINED
    """Weights that the network's `restore=` layers start from; None: from scratch."""
    restore: RestoreOptions = RestoreOptions()
    data: DataOptions = DataOptions()
    reader: ReaderOptions = ReaderOptions()
    augment: AugmentOptions = AugmentOptions()
    layers: LayerOptions = LayerOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions(learning_rate=0.05)
    training: TrainingOptions = TrainingOptions()
    session: SessionOptions = SessionOptions()
    report: bool = True
    """Write `report.html` at the end; `python -m worklab report` does at any time."""


def main(options: Options) -> dict[str, Any]:
    """Train for a number of steps.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: If a number of steps is out of range.
    """
    if options.num_steps < 1 or options.save_every < 1:
        raise ValueError(
            "`num_steps` and `save_every` must be at least 1. Received: "
            f"num_steps={options.num_steps}, save_every={options.save_every}"
        )
    console = make_console()
    options = resolve(options)
    session = open_session(options)
    with (
        session,
        open_writer(session, options, console) as writer,
    ):
        class_names = pin_class_names(options.data)
        reader = make_reader("train", class_names, options)
        network = make_network(reader, options)
        schedule = make_schedule(options.schedule, options.num_steps)
        trainer = Trainer(
            network,
            reader,
            session,
            writer,
            learning_rate=schedule,
            optimizer=options.optimizer,
            options=options.training,
        )
        report = session.start(
            network,
            class_names,
            pretrained=options.pretrained,
            restore=options.restore,
        )
        write_run(session, writer, options, network, reader, report)
        if session.step < options.num_steps:
            delete_result(session)  # not complete any more
        while session.step < options.num_steps and not schedule.is_over(session.step):
            next_save = (session.step // options.save_every + 1) * options.save_every
            trainer.train(
                min(next_save, options.num_steps) - session.step,
                last_step=options.num_steps,
            )
            session.save()
        writer.write_end(session.step)
    skipped = skipped_images(train=reader)
    result = {"step": session.step, "class_names": class_names, "skipped": skipped}
    write_result(session, result)
    if session.is_chief:
        report_run(options)
    show_skipped(console, skipped)
    print_plainly(console, f"{options.run} is at step {session.step}")
    show_places(console, options.run)
    if session.step < options.num_steps:
        print_plainly(
            console,
            "its learning rate has cooled down, which is the end; another `--run` with "
            f"`--pretrained {options.run}` goes further",
        )
    return result


if __name__ == "__main__":
    cli.run(main)

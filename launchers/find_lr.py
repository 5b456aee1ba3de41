"""Find a learning rate: a range test, which leaves the run untouched.

    python launchers/find_lr.py --run runs/mine --network my_network.py:MyNetwork \
        --data.folder my_data

trains one batch at each of 101 rising learning rates, from where the run is or, where
there is none yet, from where it would start; takes all of it back; and suggests a rate.
The curve goes to `find_lr/` in the run folder, and nothing else is written there. Takes
the options of `train.py`; `--config RUN/run.json` gives those of any run.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from worklab import Session, Trainer, Writer, cli
from worklab.console import make_console, show_skipped
from worklab.lr_finder import RangeTest, find_rates
from worklab.options import (
    AugmentOptions,
    DataOptions,
    FindOptions,
    LayerOptions,
    OptimizerOptions,
    ReaderOptions,
    RestoreOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.printing import print_plainly
from worklab.range_test import range_test, save_range_test
from worklab.run_records import compare_with_run
from worklab.runs import (
    make_network,
    make_reader,
    pin_class_names,
    resolve,
    skipped_images,
)

PRETRAINED = (
    Path(__file__).resolve().parent.parent / "pretrained/resnet20_cifar10.safetensors"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Find a learning rate by a range test, which leaves the run untouched."""

    run: Path = Path("runs/steps")
    """Folder of the run, which need not have begun."""
    checkpoint: Literal["latest", "best"] | int = "latest"
    """Where to start from in a run that has begun; a step, too."""
    network: str = "worklab.networks.digits:DigitsNetwork"
    """The Network class, as `file.py:Class` or `package.module:Class`."""
    hyper: float | None = None
    """A number for networks that read `self.hyper`, such as a width; None: none."""
    pretrained: Path | None = PRETRAINED
    """Weights that the network's `restore=` layers start from; None: from scratch."""
    find: FindOptions = FindOptions()
    restore: RestoreOptions = RestoreOptions()
    data: DataOptions = DataOptions()
    reader: ReaderOptions = ReaderOptions()
    augment: AugmentOptions = AugmentOptions()
    layers: LayerOptions = LayerOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    training: TrainingOptions = TrainingOptions()
    session: SessionOptions = SessionOptions()

    config_of_any_launcher = True  # what else it says is about when to stop


def main(options: Options) -> RangeTest:
    """Find a learning rate by a range test.

    Returns:
        The curve and the suggestions, which have been saved.

    Raises:
        ValueError: If an option is out of range.
    """
    console = make_console()
    find_rates(options.find)  # says what is wrong before any work
    resolved = resolve(options)
    compare_with_run(options.run, resolved)
    with Session(options.run, options.session, alone=True) as session, session.trial():
        found = find(session, resolved, console)
    save_range_test(found, options.run / "find_lr")
    show(console, found, options)
    return found


def find(session: Session, options: Options, console: Console) -> RangeTest:
    """Start as training would, and make the test."""
    # Outputs of frozen layers would be kept in the run's folder.
    training = dataclasses.replace(options.training, cache_features=False)
    class_names = pin_class_names(options.data)
    reader = make_reader("train", class_names, options)
    network = make_network(reader, options)
    trainer = Trainer(
        network,
        reader,
        session,
        Writer(None, console=console),
        learning_rate=lambda _: options.find.start,
        optimizer=options.optimizer,
        options=training,
    )
    session.start(
        network, class_names, pretrained=options.pretrained, restore=options.restore
    )
    if options.checkpoint == "best":
        session.restore_step(session.restore_best())
    elif options.checkpoint != "latest":
        session.restore_step(options.checkpoint)
    found = range_test(trainer, options.find)
    show_skipped(console, skipped_images(train=reader))
    return found


def show(console: Console, found: RangeTest, options: Options) -> None:
    """Show the suggestions, where the curve is, and what to do next."""
    table = Table("rule", "learning rate")
    for name, rate in found.suggestions.items():
        table.add_row(name, "-" if rate is None else f"{rate:.2e}")
    console.print(table)
    print_plainly(console, f"curve: {options.run / 'find_lr/curve.png'}")
    if found.suggestion is None:
        console.print(f"no suggestion: {found.why_none()}", highlight=False)
        return
    common = dataclasses.replace(options, checkpoint="latest", find=FindOptions())
    command = ["python", "launchers/train.py", *cli.words_of_options(common)]
    command += ["--schedule.learning-rate", f"{found.suggestion:.2g}"]
    print_plainly(console, f"next: {shlex.join(command)}")


if __name__ == "__main__":
    cli.run(main)

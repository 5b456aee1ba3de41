"""Train by a predefined sequence of learning rates, with a test after each.

    python launchers/train_and_test.py --run runs/sequence --sequence 400 0.05 200 0.005

trains 400 steps at 0.05 and 200 at 0.005; after each part the valid split is tested,
and after the last the test split, once. Without `--sequence`, BiT's HyperRule chooses
the parts from the number of training images, and MixUp for many. Stop it at any time;
the same command goes on where it was.
"""

import dataclasses
from pathlib import Path
from typing import Any

from rich.table import Table

from worklab import Reader, Session, Tester, Trainer, Writer, cli
from worklab.console import make_console, show_places, show_skipped, show_statistics
from worklab.options import (
    AugmentOptions,
    DataOptions,
    LayerOptions,
    OptimizerOptions,
    ReaderOptions,
    RestoreOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.printing import print_plainly
from worklab.report.writing import report_run
from worklab.runs import (
    make_network,
    make_reader,
    open_session,
    open_writer,
    pin_class_names,
    read_result,
    resolve,
    skipped_images,
    write_result,
    write_run,
)
from worklab.sequences import TrainingSequence, hyper_rule
from worklab.test_pictures import write_test

PRETRAINED = (
    Path(__file__).resolve().parent.parent / "pretrained/resnet20_cifar10.safetensors"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Train by a sequence of learning rates, with a test after each.

    An unfinished run goes on where it was; a finished one shows its result.
    """

    run: Path = Path("runs/sequence")
    """Folder of the run."""
    sequence: tuple[tuple[int, float], ...] = ()
    """Steps and learning rate of each part; none: by BiT's HyperRule."""
    warmup_steps: int | None = None
    """Steps of linear rise from zero; None: those of the rule, or 0."""
    rule_learning_rate: float = 0.003
    """The largest learning rate of the rule, which was made for batches of 512."""
    rule_mixup: bool = True
    """MixUp where the rule says so: from 20,000 training images on."""
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
    training: TrainingOptions = TrainingOptions()
    session: SessionOptions = SessionOptions()
    report: bool = True
    """Write `report.html` at the end; `python -m worklab report` does at any time."""


def main(options: Options) -> dict[str, Any]:
    """Train by a sequence of learning rates, with a test after each.

    Returns:
        The content of `result.json`.
    """
    console = make_console()
    result = read_result(options.run, entry="sequence")
    if result is not None:
        report_run(options)
    if result is None:
        options = resolve(options)
        session = open_session(options)
        writer = open_writer(session, options, console)
        with session, writer:
            result = train_and_test(options, session, writer)
    print_plainly(console, f"{options.run} is complete; another `--run` starts anew")
    table = Table("step", "learning rate", "valid loss", "valid accuracy")
    for part in result["sequence"]:
        rate, loss, accuracy = part["learning_rate"], part["loss"], part["accuracy"]
        numbers = (f"{rate:g}", f"{loss:.4f}", f"{accuracy:.2%}")
        table.add_row(str(part["step"]), *numbers)
    console.print(table)
    console.print("test of the last checkpoint:")
    show_statistics(console, result["test"], result["class_names"])
    show_skipped(console, result["skipped"])
    show_places(console, options.run)
    return result


def train_and_test(
    options: Options, session: Session, writer: Writer
) -> dict[str, Any]:
    """Train part after part, test, and return the result, which has been saved."""
    class_names = pin_class_names(options.data)
    train_reader = make_reader("train", class_names, options)
    valid_reader = make_reader("valid", class_names, options)
    test_reader = make_reader("test", class_names, options)
    sequence, options = choose_sequence(options, train_reader)
    if options.augment != train_reader.augment_options:
        train_reader = make_reader("train", class_names, options)
    network = make_network(train_reader, options)
    trainer = Trainer(
        network,
        train_reader,
        session,
        writer,
        learning_rate=sequence.learning_rate,
        optimizer=options.optimizer,
        options=options.training,
    )
    session.track_state("sequence", sequence)
    report = session.start(
        network, class_names, pretrained=options.pretrained, restore=options.restore
    )
    write_run(session, writer, options, network, train_reader, report)

    console = writer.console
    validation = Tester(network, valid_reader, session, split="valid", console=console)
    for number, end in enumerate(sequence.ends):
        trainer.train(max(0, end - session.step), last_step=sequence.ends[-1])
        if number < len(sequence.tests):  # before a restart
            continue
        with trainer.averaged_weights():
            found = validation.test().statistics
        scalars = {"loss": found.loss, "accuracy": found.accuracy}
        best = sequence.add(session.step, **scalars)
        if best:
            session.best_step = session.step
        writer.write_scalars(session.step, scalars, split="valid")
        note = "best" if best else ""
        writer.show_validation(session.step, found.loss, found.accuracy, note)
        session.save()
    with trainer.averaged_weights():
        valid = validation.test()  # image by image, for the report's temperature
        tester = Tester(network, test_reader, session, split="test", console=console)
        test = tester.test()
    write_test(writer, test, test_reader)
    writer.write_end(session.step)
    result = {
        "step": session.step,
        "best_step": session.best_step,
        "sequence": sequence.tests,
        "test": test.statistics.to_json(),
        "class_names": class_names,
        "skipped": skipped_images(
            train=train_reader, valid=valid_reader, test=test_reader
        ),
    }
    write_result(session, result, valid, test)
    if session.is_chief:
        report_run(options)
    return result


def choose_sequence(
    options: Options, train_reader: Reader
) -> tuple[TrainingSequence, Options]:
    """Return the sequence, and the options with what the rule adds to them.

    Raises:
        ValueError: If a number of the rule is given beside a sequence, or out of range.
    """
    fields = {field.name: field.default for field in dataclasses.fields(Options)}
    for name in ("rule_learning_rate", "rule_mixup"):
        given = getattr(options, name)
        if options.sequence and given != fields[name]:
            raise ValueError(
                f"`{name}` is of the rule, and `--sequence` takes its place; give one "
                f"of them. Received: {name}={given}"
            )
    if options.sequence:
        warmup = options.warmup_steps or 0
        return TrainingSequence(options.sequence, warmup_steps=warmup), options
    if not options.rule_learning_rate > 0:
        raise ValueError(
            "`rule_learning_rate` must be above 0. "
            f"Received: rule_learning_rate={options.rule_learning_rate}"
        )
    rule = hyper_rule(len(train_reader), options.rule_learning_rate)
    warmup = rule.warmup_steps if options.warmup_steps is None else options.warmup_steps
    sequence = TrainingSequence(rule.segments, warmup_steps=warmup)
    if not options.rule_mixup or options.augment.mixup:
        return sequence, options
    augment = dataclasses.replace(options.augment, mixup=rule.mixup)
    return sequence, dataclasses.replace(options, augment=augment)


if __name__ == "__main__":
    cli.run(main)

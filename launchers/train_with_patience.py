"""Train; lower the learning rate when the validation loss stops falling; then test.

    python launchers/train_with_patience.py --run runs/demo

retrains the shipped ResNet-20 on handwritten digits. The test split is read once, at
the end, on the checkpoint with the lowest validation loss. Stop it at any time; the
same command goes on where it was.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from worklab import Reader, Session, Tester, Trainer, cli
from worklab.console import make_console, show_places, show_skipped, show_statistics
from worklab.metrics import Statistics
from worklab.options import (
    AugmentOptions,
    DataOptions,
    LayerOptions,
    OptimizerOptions,
    PatienceOptions,
    ReaderOptions,
    RestoreOptions,
    ScheduleOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.patience import Patience
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
from worklab.schedules import make_schedule
from worklab.test_pictures import write_test
from worklab.tester import TestResult

PRETRAINED = (
    Path(__file__).resolve().parent.parent / "pretrained/resnet20_cifar10.safetensors"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Train with patience, then test the best checkpoint.

    An unfinished run goes on where it was; a finished one shows its result.
    """

    run: Path = Path("runs/demo")
    """Folder of the run."""
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
    schedule: ScheduleOptions = ScheduleOptions(learning_rate=0.05, warmup_steps=50)
    training: TrainingOptions = TrainingOptions()
    patience: PatienceOptions = PatienceOptions()
    session: SessionOptions = SessionOptions()
    report: bool = True
    """Write `report.html` at the end; `python -m worklab report` does at any time."""


def main(
    options: Options,
    *,
    on_validation: Callable[[int, Statistics], None] | None = None,
    testing: bool = True,
) -> dict[str, Any]:
    """Train with patience, then test the best checkpoint.

    Args:
        options: What to do.
        on_validation: Called with the step and the result of each validation, before
            it is saved; what it raises ends the run, which can be taken up again.
        testing: Whether the best checkpoint is tested in the end; a search tests the
            best of its runs alone.

    Returns:
        The content of `result.json`.
    """
    console = make_console()
    result = read_result(options.run, entry="best_valid_loss")
    untested = result is not None and result.get("test", {}) is None  # a trial's
    if result is not None and not (untested and testing):
        if not untested:
            report_run(options)
        show_result(console, options.run, result)
        return result

    options = resolve(options)
    session = open_session(options)
    with (
        session,
        open_writer(session, options, console) as writer,
    ):
        class_names = pin_class_names(options.data)
        readers = {
            split: make_reader(split, class_names, options)
            for split in ("train", "valid", *(["test"] if testing else []))
        }
        network = make_network(readers["train"], options)
        patience = Patience(options.patience, options.schedule.warmup_steps)
        schedule = make_schedule(options.schedule, factor=lambda: patience.factor)
        trainer = Trainer(
            network,
            readers["train"],
            session,
            writer,
            learning_rate=schedule,
            optimizer=options.optimizer,
            options=options.training,
        )
        session.track_state("patience", patience)
        report = session.start(
            network,
            class_names,
            pretrained=options.pretrained,
            restore=options.restore,
        )
        write_run(session, writer, options, network, readers["train"], report)

        validation = Tester(
            network, readers["valid"], session, split="valid", console=console
        )
        while not (
            patience.complete
            or (schedule.is_over(session.step) and patience.last_step == session.step)
        ):
            next_validation = patience.last_step + options.patience.valid_every
            trainer.train(max(0, next_validation - session.step))
            with trainer.averaged_weights():
                valid = validation.test().statistics
            decision = patience.update(session.step, valid.loss)
            if decision == "best":
                session.best_step = session.step
            elif decision == "decay":
                session.restore_best()
            writer.write_scalars(
                session.step,
                {"loss": valid.loss, "accuracy": valid.accuracy},
                split="valid",
            )
            writer.show_validation(session.step, valid.loss, valid.accuracy, decision)
            if on_validation is not None:
                on_validation(session.step, valid)
            session.save()

        best_step = session.restore_best()
        tests = final_tests(trainer, readers, best_step) if testing else {}
    result = {
        "step": session.step,
        "best_step": best_step,
        "best_valid_loss": patience.best_loss,
        "decay_steps": patience.decay_steps,
        "test": tests["test"].statistics.to_json() if testing else None,
        "class_names": class_names,
        "skipped": skipped_images(**readers),
    }
    return conclude(console, session, options, result, tests)


def final_tests(
    trainer: Trainer, readers: Mapping[str, Reader], best_step: int
) -> dict[str, TestResult]:
    """Return tests of the best checkpoint, which has been restored, by split."""
    session, console, tests = trainer.session, trainer.writer.console, {}
    for split in ("valid", "test"):  # valid, as the report fits its temperature there
        tester = Tester(
            trainer.network, readers[split], session, split=split, console=console
        )
        with trainer.averaged_weights():
            tests[split] = tester.test(step=best_step)
    write_test(trainer.writer, tests["test"], readers["test"])
    trainer.writer.write_end(session.step)
    return tests


def conclude(
    console: Console,
    session: Session,
    options: Options,
    result: dict[str, Any],
    tests: Mapping[str, TestResult],
) -> dict[str, Any]:
    """Write the result and, of a run that was tested, its report; return the result."""
    write_result(session, result, *tests.values())
    if tests and session.is_chief:
        report_run(options)
    show_result(console, options.run, result)
    return result


def show_result(console: Console, run: Path, result: dict[str, Any]) -> None:
    """Show the test of the best checkpoint and where everything is."""
    print_plainly(console, f"{run} is complete; another `--run` starts anew")
    if result["test"] is None:
        console.print(
            f"lowest validation loss: {result['best_valid_loss']:.4f}, at step "
            f"{result['best_step']}"
        )
        return
    console.print(f"test of the best checkpoint, step {result['best_step']}:")
    show_statistics(console, result["test"], result["class_names"])
    show_skipped(console, result.get("skipped", {}))
    show_places(console, run)


if __name__ == "__main__":
    cli.run(main)

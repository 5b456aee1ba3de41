"""What a report says: everything that a run folder knows of its run."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worklab.option_files import options_from_json
from worklab.options import PatienceOptions
from worklab.patience import Patience
from worklab.reader import Reader
from worklab.report.examples import Examples, choose_examples
from worklab.report_statistics import DetailedStatistics, detailed_statistics
from worklab.run_summaries import (
    Points,
    RunSummary,
    read_curves,
    read_layers,
    read_record,
    read_result,
    read_tests,
    summarise,
)
from worklab.runs import RunSetup, make_reader, read_run
from worklab.saved_tests import find_test, read_test
from worklab.tester import TestResult

SPLITS = ("train", "valid", "test")

# Points of the curves of all classes together, and the fewest of each.
_CURVE_POINTS, _FEWEST_POINTS, _MOST_POINTS = 5000, 20, 100


@dataclasses.dataclass(frozen=True)
class Contents:
    """Everything that a report says.

    Attributes:
        run: Folder of the run.
        record: Content of `run.json`.
        summary: How far the run is, and how good.
        class_names: In label order.
        test_file: JSON file of the test; None: there is none yet.
        test: The test.
        statistics: All its numbers.
        examples: Images that show what is right and wrong.
        curves: Points by split, and by `loss` and so on.
        layers: Points by `learning_rate` and `update_to_weight`, and by layer group.
        decays: Steps at which patience lowered the learning rate.
        class_counts: Images of each class in label order, by split.
        notes: What the person wrote into `notes.md`.
        remarks: What is missing, and why.
    """

    run: Path
    record: dict[str, Any]
    summary: RunSummary
    class_names: list[str]
    test_file: Path | None
    test: TestResult | None
    statistics: DetailedStatistics | None
    examples: Examples
    curves: dict[str, dict[str, Points]]
    layers: dict[str, dict[str, Points]]
    decays: list[int]
    class_counts: dict[str, list[int]]
    notes: str
    remarks: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it; pictures by the names of their images."""
        summary = dataclasses.asdict(self.summary)
        for name in ("options", "changed"):  # the record has them
            del summary[name]
        test = None
        if self.test is not None and self.statistics is not None:
            place = {"file": str(self.test_file), "step": self.test.step}
            place |= {"split": self.test.split, "views": self.test.views}
            test = place | self.statistics.to_json()
        return {
            **summary,
            "path": str(self.run),
            "remarks": self.remarks,
            "class_names": self.class_names,
            "test": test,
            "examples": self.examples.to_json(),
            "class_counts": self.class_counts,
            "curves": self.curves,
            "layers": self.layers,
            "decays": self.decays,
            "notes": self.notes,
            "record": self.record,
        }


def gather(
    place: Path,
    *,
    split: str = "test",
    data_folder: Path | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Contents:
    """Return what a report says of a run.

    Args:
        place: The run's folder, or the JSON file of one of its tests.
        split: Which test of a run: that of the end, or else of the best checkpoint, or
            else the newest.
        data_folder: Where the lists are now; None: where they were in training.
        groups: Names of classes by the name of their group, for a coarser confusion.

    Raises:
        ValueError: If it is no run, or a file in it cannot be understood.
        FileNotFoundError: If the file of a test is missing.
    """
    run = find_run(place)
    record, summary = read_record(run), summarise(run)
    setup = read_run(run, data_folder=data_folder)
    remarks: list[str] = []
    test_file = _choose_test(run, split) if place == run else find_test(place)
    test = None if test_file is None else read_test(test_file)
    if test is None:
        remarks.append(
            f"Nothing was tested on the {split} list yet, so there are no statistics "
            f"of it. `python launchers/test.py --run {run} --split {split}` tests the "
            "best checkpoint so far."
        )
    class_names = setup.class_names if test is None else test.class_names
    statistics = None if test is None else _statistics(test, _valid(run, test), groups)
    readers = _open_readers(setup, remarks)
    curves = read_curves(run)
    return Contents(
        run=run,
        record=record,
        summary=summary,
        class_names=class_names,
        test_file=test_file,
        test=test,
        statistics=statistics,
        examples=_examples(test, readers, remarks),
        curves=curves,
        layers=read_layers(run),
        decays=find_decays(record["options"], curves.get("valid", {}).get("loss", {})),
        class_counts={
            name: [int((reader.labels == n).sum()) for n in range(len(class_names))]
            for name, reader in readers.items()
        },
        notes=_read_notes(run),
        remarks=remarks,
    )


def find_run(place: Path) -> Path:
    """Return the folder of the run that a folder is, or that a test's file is in.

    Raises:
        ValueError: If there is none.
        FileNotFoundError: If the file is missing.
    """
    if place.is_dir() or place.suffix not in (".json", ".csv", ".parquet"):
        read_record(place)
        return place
    for folder in find_test(place).resolve().parents:
        if (folder / "run.json").exists():
            return folder
    raise ValueError(
        "a report is of a run, so the file of a test must be in the run's folder. "
        f"Received: `{place}`"
    )


def find_decays(options: Mapping[str, Any], valid_losses: Points) -> list[int]:
    """Return the steps at which patience lowered the learning rate.

    They follow from the validation losses, as patience is a function of these.

    Args:
        options: Of the run's launcher; another one than `train_with_patience.py` has
            no patience, and no such step.
        valid_losses: By step.

    Example:
        >>> options = {"patience": {"patience": 1, "max_decays": 1}}
        >>> find_decays(options, {10: 1.0, 20: 2.0, 30: 0.5})
        [20]
    """
    if "patience" not in options:
        return []
    patience = Patience(
        options_from_json(PatienceOptions, options["patience"]),
        options.get("schedule", {}).get("warmup_steps", 0),
    )
    return [
        step
        for step, loss in sorted(valid_losses.items())
        if not patience.complete and patience.update(step, loss) == "decay"
    ]


def _choose_test(run: Path, split: str) -> Path | None:
    tests = read_tests(run, split)
    if not tests:
        return None
    result = read_result(run) or {}
    final = result.get(split)
    at_end = [s for s, t in tests.items() if final and t["loss"] == final["loss"]]
    best = [step for step in tests if step == result.get("best_step")]
    step = [*tests, *best, *at_end][-1]
    return run / "tests" / f"step-{step:08d}.{split}.json"


def _valid(run: Path, test: TestResult) -> TestResult | None:
    """Return the test of the same weights on the valid split, where there is one."""
    path = run / "tests" / f"step-{test.step:08d}.valid.json"
    if test.split == "valid" or test.views or not path.exists():
        return None
    return read_test(path)


def _statistics(
    test: TestResult,
    valid: TestResult | None,
    groups: Mapping[str, Sequence[str]] | None,
) -> DetailedStatistics:
    points = _CURVE_POINTS // len(test.class_names)
    return detailed_statistics(
        test,
        valid=valid,
        groups=groups,
        num_points=min(_MOST_POINTS, max(_FEWEST_POINTS, points)),
    )


def _open_readers(setup: RunSetup, remarks: list[str]) -> dict[str, Reader]:
    readers = {}
    for split in SPLITS:
        try:
            readers[split] = make_reader(split, setup.class_names, setup)
        except (OSError, ValueError) as error:
            remarks.append(
                f"The {split} list cannot be read, so its images and class counts are "
                f"left out; `--data-folder` says where the lists are now. {error}"
            )
    return readers


def _examples(
    test: TestResult | None, readers: Mapping[str, Reader], remarks: list[str]
) -> Examples:
    if test is None:
        return Examples()
    examples = choose_examples(test, readers.get(test.split))
    if examples.num_missing:
        remarks.append(
            f"{examples.num_missing} of the images that this page would show cannot be "
            "read any more; `--data-folder` says where the lists are now."
        )
    return examples


def _read_notes(run: Path) -> str:
    path = run / "notes.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    title, _, rest = text.partition("\n")
    return rest.strip() if title.startswith("# ") else text.strip()


def read_groups(path: Path) -> dict[str, list[str]]:
    """Return groups of classes from a JSON file, `{"animals": ["cat", "dog"], ...}`.

    Raises:
        ValueError: If it is not such a file; `detailed_statistics` compares the names.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        groups = {str(name): [*map(str, classes)] for name, classes in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            "groups of classes are a JSON file, a list of class names by the name of "
            f'the group, as in {{"animals": ["cat", "dog"]}}. Received: `{path}`: '
            f"{error}"
        ) from error
    if any(isinstance(classes, str) for classes in content.values()):
        raise ValueError(
            "the classes of a group are a list, also where it is one class. "
            f"Received: `{path}`: {content}"
        )
    return groups

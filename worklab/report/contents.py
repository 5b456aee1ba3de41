"""What a report says: everything that a run folder knows of its run."""

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worklab.checkpoints import (
    CheckpointError,
    checkpoint_path,
    list_steps,
    read_state,
)
from worklab.output import to_plain
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
        members: What an ensemble is made of, and how; none: it is no ensemble.
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
    members: list[str]
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
            test = {
                "file": str(self.test_file),
                "step": self.test.step,
                "split": self.test.split,
                "views": self.test.views,
                "members": self.members,
                **self.statistics.to_json(),
            }
        return {
            **summary,
            "path": str(self.run),
            "remarks": self.remarks,
            "class_names": self.class_names,
            "test": test,
            "examples": self.examples.to_json(),
            "class_counts": self.class_counts,
            "curves": to_plain(self.curves),  # strict JSON has no NaN
            "layers": to_plain(self.layers),
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
        FileNotFoundError: If the file of a test is missing, a split other than `test`
            was not tested, or there is no such `data_folder`.
    """
    run = find_run(place)
    if data_folder is not None and not data_folder.is_dir():
        raise FileNotFoundError(
            "`data_folder` is the folder that the run's lists are in now. "
            f"Received: no folder `{data_folder}`"
        )
    record, summary = read_record(run), summarise(run)
    setup = read_run(run, data_folder=data_folder)
    remarks: list[str] = []
    if place.is_dir():
        test_file = _choose_test(run, split)
        test = None if test_file is None else _read_test(test_file, remarks)
    else:
        test_file = find_test(place)
        test = read_test(test_file)
    members: list[str] = []
    statistics = None
    if test_file is not None and test is not None:
        members = _members(test_file)
        statistics = _statistics(test, _valid(test_file, test, remarks), groups)
    elif test_file is None:
        remarks.append(_how_to_test(run, record, split))
    class_names = setup.class_names if test is None else test.class_names
    readers, size = _open_readers(setup, remarks), len(class_names)
    return Contents(
        run=run,
        record=record,
        summary=summary,
        class_names=class_names,
        test_file=test_file,
        members=members,
        test=test,
        statistics=statistics,
        examples=_examples(test, readers, remarks),
        curves=read_curves(run),
        layers=read_layers(run),
        decays=find_decays(run),
        class_counts={
            name: np.bincount(reader.labels, minlength=size)[:size].tolist()
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


def find_decays(run: Path) -> list[int]:
    """Return the steps at which patience lowered the learning rate, rising.

    They are in the result, and of a run that is not complete in its newest checkpoint.
    """
    result = read_result(run) or {}
    if "decay_steps" in result:
        return list(result["decay_steps"])
    for step in reversed(list_steps(run / "checkpoints")):
        with contextlib.suppress(CheckpointError):  # as the next start will say
            state = read_state(checkpoint_path(run / "checkpoints", step))
            return list(state["states"].get("patience", {}).get("decay_steps", []))
    return []


def _choose_test(run: Path, split: str) -> Path | None:
    tests = read_tests(run, split)
    if not tests and split == "test":
        return None
    if not tests:
        find_test(run, split)  # raises, and says how to make one
    result = read_result(run) or {}
    final = result.get(split)
    at_end = [s for s, t in tests.items() if final and t["loss"] == final["loss"]]
    best = [step for step in tests if step == result.get("best_step")]
    step = [*tests, *best, *at_end][-1]
    return run / "tests" / f"step-{step:08d}.{split}.json"


def _how_to_test(run: Path, record: Mapping[str, Any], split: str) -> str:
    says = f"Nothing was tested on the {split} list, so its statistics are missing."
    if not list_steps(run / "checkpoints"):
        return says
    validates = bool({"patience", "sequence"} & record["options"].keys())
    words = ["python", "launchers/test.py", "--run", str(run), "--split", split]
    words += [] if validates else ["--checkpoint", "latest"]
    which = "best" if validates else "newest"
    return f"{says} `{shlex.join(words)}` tests the {which} checkpoint."


def _valid(test_file: Path, test: TestResult, remarks: list[str]) -> TestResult | None:
    """Return the test of the same answers on the valid split, where there is one.

    It is beside the other, and called as it but for the split; ensembles must have the
    same members.
    """
    stem, split, *rest = test_file.name.split(".")
    path = test_file.with_name(".".join([stem, "valid", *rest]))
    if split != test.split or test.split == "valid" or not path.exists():
        return None
    valid = _read_test(path, remarks)
    if valid is None or _members(path) != _members(test_file):
        return None
    return valid


def _read_test(path: Path, remarks: list[str]) -> TestResult | None:
    try:
        return read_test(path)
    except (OSError, ValueError) as error:
        remarks.append(f"A test cannot be read, and is left out. {error}")
        return None


def _members(test_file: Path) -> list[str]:
    """Return what an ensemble is made of, and how; nothing for another test."""
    content = json.loads(test_file.read_text(encoding="utf-8"))
    how = [f"by {content['method']}"] if "method" in content else []
    return [*content.get("members", ()), *how]


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
    readers, errors = {}, {}
    for split in SPLITS:
        try:
            readers[split] = make_reader(split, setup.class_names, setup)
        except (OSError, ValueError) as error:
            errors[split] = error
    if errors:
        remarks.append(
            f"The lists of {' and '.join(errors)} cannot be read, so their images and "
            "class counts are left out; `--data-folder` says where the lists are now. "
            f"{next(iter(errors.values()))}"
        )
    return readers


def _examples(
    test: TestResult | None, readers: Mapping[str, Reader], remarks: list[str]
) -> Examples:
    if test is None:
        return Examples()
    examples = choose_examples(test, readers.get(test.split))
    if examples.num_missing and test.split in readers:
        remarks.append(
            f"{examples.num_missing} of the images that this page would show cannot be "
            "read any more; `python -m worklab check` says why, `--data-folder` where "
            "the lists are now."
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

"""Ensembles: what several checkpoints answer together, and what their mean answers."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import log_softmax, logsumexp

from worklab.checkpoints import Checkpoints, list_steps, write_checkpoint
from worklab.exporting import find_checkpoint
from worklab.lists import read_class_names
from worklab.metrics import classification_statistics
from worklab.network import Network
from worklab.pretrained import open_weights
from worklab.pretrained.cards import card_path, check_place, write_card
from worklab.runs import RunSetup, make_run_network, read_run
from worklab.tester import TestResult, softmax

Method = Literal["mean", "geometric", "vote"]
METHODS: tuple[Method, ...] = ("mean", "geometric", "vote")
"""How answers are combined; `combine` says what each does."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A checkpoint that takes part.

    Attributes:
        name: What it is called in the table.
        checkpoint: Its file.
        setup: Of its run, but with the lists of the run that is tested.
    """

    name: str
    checkpoint: Path
    setup: RunSetup


@dataclasses.dataclass(frozen=True)
class EnsembleResult:
    """Tests of the members, and of what is made of them.

    Attributes:
        members: Test of each member by its name.
        ensembles: Test of each method by its name, and of `average weights`, the mean
            of the members' weights, where it was made.
        method: The one whose numbers and answers are saved as the ensemble's.
    """

    members: dict[str, TestResult]
    ensembles: dict[str, TestResult]
    method: Method = "mean"

    @property
    def test(self) -> TestResult:
        """The test of the chosen method."""
        return self.ensembles[self.method]

    def save(self, folder: Path) -> Path:
        """Write `ensemble.<split>.json`, and beside it `.csv` with each image.

        Both are as of one checkpoint; the JSON file also has the numbers of every
        member and method.

        Returns:
            Path of the JSON file.
        """
        notes = {
            "method": self.method,
            "members": numbers(self.members),
            "ensembles": numbers(self.ensembles),
        }
        stem = f"ensemble.{self.test.split}"
        return self.test.save(folder, stem=stem, notes=notes)


def find_members(
    run: Path,
    setup: RunSetup,
    *,
    places: Sequence[str] = (),
    steps: Sequence[int] = (),
    last: int | None = None,
) -> list[Member]:
    """Return who takes part; without `places` and `steps` the snapshots of the run.

    Args:
        run: Folder of the run whose lists are tested.
        setup: Of that run.
        places: Runs or checkpoint files: `runs/a`, which is its best checkpoint,
            `runs/a@latest`, `runs/a@1200`, `average.safetensors`.
        steps: Steps of the run's own checkpoints.
        last: Only the last so many; None: all.

    Raises:
        ValueError: If there are none, one is given twice, one is missing, or its
            classes are others.
    """
    if places and steps:
        raise ValueError(
            "give `--steps` of the run's own checkpoints or `--members`; in the latter "
            f"a step of the run is `{run}@{steps[0]}`. "
            f"Received: steps={tuple(steps)}, members={tuple(places)}"
        )
    if last is not None and last < 1:
        raise ValueError(f"`last` must be at least 1. Received: last={last}")
    if not places:
        places = [f"{run}@{step}" for step in steps or _snapshots(run)]
    places = places if last is None else places[-last:]
    found = [_find_member(place, run, setup) for place in places]
    checkpoints = [member.checkpoint.resolve() for member in found]
    for place, checkpoint in zip(places, checkpoints, strict=True):
        if checkpoints.count(checkpoint) > 1:
            raise ValueError(
                "each checkpoint takes part once; give others, or leave it out. "
                f"Received: `{place}`, which is `{checkpoint}`, twice"
            )
    return found


def combine(logits: Sequence[np.ndarray], method: Method) -> np.ndarray:
    """Return the probabilities that several members answer together.

    `mean` is the mean of the members' probabilities. `geometric` is the softmax of the
    mean of their logits, which is that of the mean of log p, too, as the two differ by
    a number that all classes share. `vote` counts whose most probable class a class is;
    the mean is divided among the classes as one vote more, so it decides between
    equals, and never anything else.

    Members that are all the same give exactly what one of them gives, but for `vote`,
    which gives the same classes.

    Args:
        logits: Of each member, float32 (num_images, num_classes).
        method: One of `METHODS`.

    Returns:
        Float32 (num_images, num_classes).

    Example:
        >>> logits = np.log([[[0.6, 0.4]], [[0.6, 0.4]], [[0.1, 0.9]]])
        >>> [int(combine(logits, method).argmax()) for method in METHODS]
        [1, 1, 0]
    """
    if method == "geometric":
        return softmax(_mean(logits))
    mean = _mean(softmax(each) for each in logits)
    if method == "mean":
        return mean
    votes = mean.astype(np.float64)
    for each in logits:
        votes[np.arange(len(votes)), each.argmax(axis=1)] += 1
    return (votes / (len(logits) + 1)).astype(np.float32)


def combine_tests(tests: Sequence[TestResult], method: Method) -> TestResult:
    """Return what the tests of several members are together.

    The loss is the log loss, -log p of the label, whatever loss they were trained with.

    Args:
        tests: Of the members, on the same images.
        method: One of `METHODS`.

    Raises:
        ValueError: If they were not tested on the same images.
    """
    first = tests[0]
    if any(test.names != first.names for test in tests):
        sizes = [len(test.names) for test in tests]
        raise ValueError(
            "the members were not tested on the same images; was one skipped that "
            "another could read? `python -m worklab check` names what is wrong. "
            f"Received: {sizes} images"
        )
    logits = [test.logits for test in tests]
    probabilities = combine(logits, method)
    losses = _losses(logits, first.labels, method, probabilities)
    statistics = classification_statistics(
        first.labels, probabilities, losses, first.class_names
    )
    return dataclasses.replace(
        first,
        step=max(test.step for test in tests),
        statistics=dataclasses.replace(statistics, num_skipped=len(first.skipped)),
        logits=np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)),
        probabilities=probabilities,
        losses=losses,
    )


def numbers(tests: Mapping[str, TestResult]) -> dict[str, dict[str, Any]]:
    """Return steps and statistics of tests, by their names, as JSON has them."""
    return {
        name: {"step": test.step, **test.statistics.to_json()}
        for name, test in tests.items()
    }


class WeightAverage:
    """The mean of the weights of networks that are made alike.

    The mean of weights is not the mean of answers: it is one network again, as fast as
    one, and good where the members came from one start (stochastic weight averaging).
    Moving statistics belong to the weights that saw them: set them anew afterwards,
    `moving_statistics.estimate_statistics`.

    Source: Izmailov et al., 2018, https://arxiv.org/abs/1803.05407.
    """

    def __init__(self) -> None:
        self.num_members = 0
        self._sums: dict[str, np.ndarray] = {}

    def add(self, network: Network) -> None:
        """Count the values that a network has now.

        Raises:
            ValueError: If its variables have other names or shapes than those before.
        """
        values = {name: v.value.numpy() for name, v in network.variables.items()}
        if not self._sums:
            # States of random generators are counters; the first one's are kept.
            self._sums = {
                name: np.array(value, np.float64 if value.dtype.kind == "f" else None)
                for name, value in values.items()
            }
        else:
            _check_alike(self._sums, values)
            for name, value in values.items():
                if value.dtype.kind == "f":
                    self._sums[name] += value
        self.num_members += 1

    def assign_to(self, network: Network) -> None:
        """Give a network of the same variables the mean.

        Raises:
            ValueError: If its variables have other names or shapes.
            RuntimeError: If nothing was added.
        """
        if not self.num_members:
            raise RuntimeError("`add` a network first. Received: no network")
        variables = network.variables
        _check_alike(self._sums, {n: v.value.numpy() for n, v in variables.items()})
        for name, total in self._sums.items():
            is_float = total.dtype.kind == "f"
            variables[name].assign(total / self.num_members if is_float else total)


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a place that `write_average` could not take.

    Raises:
        ValueError: If it has another suffix, or it or its card is there already.
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"the mean of the weights is a file `...safetensors`. Received: `{path}`"
        )
    if path.exists() and not overwrite:
        raise ValueError(
            "something is there already; give another `--output`, or `--overwrite`. "
            f"Received: `{path}`"
        )
    check_place(path)


def write_average(path: Path, network: Network, setup: RunSetup, step: int) -> None:
    """Write a network as a checkpoint without an optimizer, with its card beside it.

    `--pretrained` takes it, and so does `python -m worklab export`, where it is in a
    folder of its run, such as `RUN/export/average.safetensors`.

    Args:
        path: Checked by `check_output`; what is there is replaced.
        network: With the values to write.
        setup: It was made from.
        step: Of the newest member.

    Raises:
        OSError: If it cannot be written.
    """
    arrays = {name: v.value.numpy() for name, v in network.variables.items()}
    state: dict[str, Any] = {
        "step": step,
        "best_step": None,
        "class_names": setup.class_names,
        "layout": None if network.layout is None else network.layout.name,
        "averages": {},
        "states": {},
    }
    card_path(path).unlink(missing_ok=True)  # of what is replaced
    write_checkpoint(path, arrays, state)
    # A card has the answers in float32, whatever the run computed in.
    session = dataclasses.replace(setup.session, precision="float32")
    plain = make_run_network(
        dataclasses.replace(setup, session=session), num_features=network.num_features
    )
    for name, variable in plain.variables.items():
        variable.assign(arrays[name])
    write_card(
        path,
        plain,
        network_name=f"{type(plain).__module__}:{type(plain).__name__}",
        class_names=setup.class_names,
        crop_fraction=setup.reader.crop_fraction or 1.0,
    )


def _mean(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean, float32, one array after another to spare memory.

    The sum of equal float32 numbers is exact in float64, and so is their mean.
    """
    total: Any = np.float64(0)
    count = 0
    for array in arrays:
        total = total + array
        count += 1
    return (total / count).astype(np.float32)


def _losses(
    logits: Sequence[np.ndarray],
    labels: np.ndarray,
    method: Method,
    probabilities: np.ndarray,
) -> np.ndarray:
    rows = np.arange(len(labels))
    if method == "geometric":
        losses = -log_softmax(_mean(logits).astype(np.float64), axis=1)[rows, labels]
    elif method == "mean":  # where float32 has no number for so small a probability
        members = [
            log_softmax(z.astype(np.float64), axis=1)[rows, labels] for z in logits
        ]
        losses = np.log(len(members)) - logsumexp(members, axis=0)
    else:
        tiny = np.finfo(np.float32).tiny
        losses = -np.log(np.maximum(probabilities[rows, labels], tiny))
    return losses.astype(np.float32)


def _snapshots(run: Path) -> list[int]:
    newest = Checkpoints(run / "checkpoints").load_newest()
    snapshots = [] if newest is None else newest[2].get("snapshots", [])
    if not snapshots:
        raise ValueError(
            f"`{run}` has no snapshots, which a cyclical schedule makes. Name "
            f"`--steps`: it has checkpoints of {list_steps(run / 'checkpoints')}; or "
            "other runs by `--members`. Received: neither"
        )
    return [int(step) for step in snapshots]


def _find_member(place: str, run: Path, setup: RunSetup) -> Member:
    path, which = _parted(place)
    checkpoint = find_checkpoint(path, which)
    home = path if path.is_dir() else checkpoint.resolve().parent.parent
    is_own = home.resolve() == run.resolve()
    if not is_own and (home / "run.json").exists():
        setup = dataclasses.replace(read_run(home), data=setup.data)
    with open_weights(checkpoint) as weights:
        class_names, layout = weights.class_names, weights.layout
    if class_names != read_class_names(run / "classes.json"):
        raise ValueError(
            "members must have the same classes in the same order, those of "
            f"`{run / 'classes.json'}`. Received: `{place}` with the classes "
            f"{class_names[:5]}, {len(class_names)} in all"
        )
    restore = dataclasses.replace(setup.restore, layout=layout or None)
    name = str(path)
    if path.is_dir():
        step = int(checkpoint.stem.removeprefix("step-"))
        name = f"step {step}" if is_own else f"{path} step {step}"
    return Member(name, checkpoint, dataclasses.replace(setup, restore=restore))


def _parted(place: str) -> tuple[Path, Literal["best", "latest"] | int]:
    path, which = Path(place), "best"
    if not path.exists() and "@" in place:
        name, _, which = place.rpartition("@")
        path = Path(name)
    if path.exists():
        if which.isdecimal():
            return path, int(which)
        if which in ("best", "latest"):
            return path, which  # type: ignore[return-value]
    raise ValueError(
        "a member is a run or a checkpoint file: `runs/a` (its best), "
        "`runs/a@latest`, `runs/a@1200`, `average.safetensors`. "
        f"Received: `{place}`"
    )


def _check_alike(
    before: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> None:
    for name in sorted({*before, *values}):
        expected = before[name].shape if name in before else None
        found = values[name].shape if name in values else None
        if expected != found:
            raise ValueError(
                "only weights of one network have a mean; leave out "
                "`--average-weights`, or members of another network. "
                f"Received: `{name}` of shape {found}, {expected} in the first member"
            )

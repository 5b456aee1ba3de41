"""Run folders: what a run was started with, and how to open it again."""

import contextlib
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from worklab.files import write_json
from worklab.layouts import Layout, Preprocessing
from worklab.lists import read_class_names
from worklab.network import Network
from worklab.network_names import load_network_class as load_network_class
from worklab.network_source import find_file
from worklab.option_files import options_from_json, options_to_json
from worklab.options import (
    AugmentOptions,
    DataOptions,
    LayerOptions,
    ReaderOptions,
    RestoreOptions,
    SessionOptions,
    with_test_form,
)
from worklab.pretrained import open_weights, recognise_layout
from worklab.reader import Reader
from worklab.readers import (
    MixedReader,
    digest_source,
    find_class_names,
    open_reader,
)
from worklab.run_records import NETWORK_FILE, differences
from worklab.run_records import write_run as write_run
from worklab.run_summaries import read_result as read_result
from worklab.runtime import choose_precision
from worklab.session import Session
from worklab.tester import TestResult
from worklab.trackers import open_trackers
from worklab.writer import Writer

_logger = logging.getLogger(__name__)


def open_session(options: Any) -> Session:
    """Return the session of a launcher's run; all workers must have the same options.

    Raises:
        RuntimeError: If a worker was started with other options, lists, weights or
            source of the network than the chief.
        ValueError: If an option is out of range.
    """
    session = Session(options.run, options.session)
    if session.devices.num_workers > 1:
        # Before any variable is made, as that is already done by all together.
        _check_same(session, options)
    return session


def open_writer(session: Session, options: Any, console: Console) -> Writer:
    """Return the writer of a launcher's run; of several workers the chief's writes.

    Raises:
        ValueError: If a tracker that the options name cannot be opened.
    """
    if not session.is_chief:
        return Writer(None, console=console)
    trackers = open_trackers(options.training.trackers, options.run)
    return Writer(options.run, console=console, others=trackers)


@dataclasses.dataclass(frozen=True)
class RunSetup:
    """What is needed to build a run's network and readers again.

    Attributes:
        class_names: Names in label order.
        network: Name of the network, as `load_network_class` takes it.
        data: Lists.
        reader: Sizes of images and batches.
        augment: Random changes in training.
        layers: Multipliers and decay.
        session: Precision and seed.
        restore: Form of a canonical network.
        hyper: The number that the network reads as `self.hyper`.
    """

    class_names: list[str]
    network: str
    data: DataOptions
    reader: ReaderOptions
    augment: AugmentOptions
    layers: LayerOptions
    session: SessionOptions
    restore: RestoreOptions = RestoreOptions()
    hyper: float | None = None


def read_run(run: Path, *, data_folder: Path | None = None) -> RunSetup:
    """Return the set-up of a run from its folder.

    A network that came from a file, or from the notebook of another process, is taken
    from its copy in the run folder.

    Args:
        run: Folder of the run.
        data_folder: Where the lists are now; None: where they were in training.

    Raises:
        ValueError: If the folder is not one of a run.
    """
    try:
        content = json.loads((Path(run) / "run.json").read_text(encoding="utf-8"))
        options = content["options"]
        names = {field.name for field in dataclasses.fields(RunSetup)}
        values = {name: value for name, value in options.items() if name in names}
        values["class_names"] = read_class_names(Path(run) / "classes.json")
        setup = options_from_json(RunSetup, values)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"`{run}` is not the folder of a run: a launcher that trains writes "
            f"`run.json` there. Received: {error}"
        ) from error
    # A test ends by itself, with every core and one device, whatever its batch.
    session = dataclasses.replace(
        setup.session, time_limit=None, num_threads=0, num_devices=1
    )
    setup = dataclasses.replace(setup, session=session)
    if data_folder is not None:
        data = dataclasses.replace(setup.data, folder=data_folder)
        setup = dataclasses.replace(setup, data=data)
    file, _, class_name = setup.network.partition(":")
    copy = Path(run) / NETWORK_FILE
    is_elsewhere = file == "__main__" and not hasattr(sys.modules[file], class_name)
    if file.endswith(".py"):
        # Its neighbours may be imported from where it came from.
        sys.path.append(str(Path(file).resolve().parent))
    if file.endswith(".py") or (is_elsewhere and copy.exists()):
        setup = dataclasses.replace(setup, network=f"{copy}:{class_name}")
    return setup


class Setup(Protocol):
    """The options that a network and its readers are made from."""

    @property
    def network(self) -> str:
        """Name of the network, as `load_network_class` takes it."""

    @property
    def data(self) -> DataOptions:
        """Lists."""

    @property
    def reader(self) -> ReaderOptions:
        """Sizes of images and batches."""

    @property
    def augment(self) -> AugmentOptions:
        """Random changes in training."""

    @property
    def layers(self) -> LayerOptions:
        """Multipliers and decay."""

    @property
    def session(self) -> SessionOptions:
        """Precision and seed."""

    @property
    def restore(self) -> RestoreOptions:
        """Form of a canonical network."""

    @property
    def hyper(self) -> float | None:
        """The number that the network reads as `self.hyper`."""


def resolve(options: Any) -> Any:
    """Return a launcher's options with what machine, file and presets decide.

    Precision `auto` becomes what the machine has in hardware. A canonical network is
    made in the layout that the pretrained weights were trained in. A run that has
    begun keeps both, also on another machine or when the file is gone.

    Raises:
        ValueError: If the pretrained file cannot be read, or the run has begun with
            another `hyper`.
    """
    path = options.run / "run.json"
    before: Mapping[str, Any] = {}
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["options"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"`{path}` is not what a launcher wrote there; mend it, or give "
                f"another `--run`. Received: {error!r}"
            ) from error
    if before and before.get("hyper") != options.hyper:
        raise ValueError(
            f"`{options.run}` is a run with hyper={before.get('hyper')}. Give that, or "
            f"another `--run`. Received: hyper={options.hyper}"
        )
    session, restore = options.session, options.restore
    if session.precision == "auto":
        begun = before.get("session", {}).get("precision")
        precision = begun or choose_precision(session.precision)
        session = dataclasses.replace(session, precision=precision)
    reader = with_test_form(options.reader, options.augment)
    options = dataclasses.replace(options, reader=reader)
    layouts = load_network_class(options.network).layouts
    if layouts and restore.layout is None:
        layout = before.get("restore", {}).get("layout")
        if not before and options.pretrained is not None:
            layout = _layout_of_file(layouts, options)
        restore = dataclasses.replace(restore, layout=layout)
    return dataclasses.replace(options, session=session, restore=restore)


def _layout_of_file(layouts: Sequence[Layout], options: Any) -> str | None:
    with open_weights(options.pretrained) as weights:
        layout = recognise_layout(layouts, weights)
    if layout is None:
        return None
    _logger.info("%s", _compared_images(layout.preprocessing, options.reader))
    return layout.name


def _compared_images(expected: Preprocessing, reader: ReaderOptions) -> str:
    """Return how the weights were tested, and how this run shows images."""
    height, width = reader.image_size
    size = expected.image_size
    return (
        f"the weights were tested on {size}x{size} pixels, crop fraction "
        f"{expected.crop_fraction:g}, resized {expected.interpolation}; this run has "
        f"{height}x{width}, crop fraction {reader.crop_fraction:g}, resized bilinear"
    )


def pin_class_names(data: DataOptions) -> list[str]:
    """Return the class names of a new run, which the train split pins for all."""
    return find_class_names(data.folder / data.train, labels_offset=data.labels_offset)


def make_reader(split: str, class_names: Sequence[str], setup: Setup) -> Reader:
    """Return a reader of a split: `train`, `valid` or `test`.

    Raises:
        ValueError: If the shares of further training images leave nothing to the first.
    """
    data = setup.data
    settings: dict[str, Any] = {
        "options": setup.reader,
        "augment": setup.augment,
        "seed": setup.session.seed,
        "on_bad_file": data.on_bad_file,
    }

    def opened(name: str) -> Reader:
        return open_reader(
            data.folder / name,
            class_names,
            labels_offset=data.labels_offset,
            **settings,
        )

    first = opened(getattr(data, split))
    if split != "train" or not data.mix:
        return first
    rest = 1 - sum(data.mix.values())
    if not rest > 0 or min(data.mix.values()) <= 0:
        raise ValueError(
            "`mix` gives each further list its share of the training images, above 0, "
            f"all together below 1, as the rest is from `{data.train}`. "
            f"Received: mix={data.mix}"
        )
    others = [opened(name) for name in data.mix]
    return MixedReader([first, *others], [rest, *data.mix.values()], **settings)


def make_network(reader: Reader, setup: Setup) -> Network:
    """Return the set-up's network, for the images and classes of a reader."""
    num_features = 0 if reader.features is None else reader.features.shape[1]
    return _make_network(
        setup, len(reader.class_names), reader.image_shape, num_features
    )


def make_run_network(setup: RunSetup, *, num_features: int | None = None) -> Network:
    """Return a run's network without its readers, as its images may be gone.

    Args:
        setup: As `read_run` gives it.
        num_features: Numbers that come with each image; None: as many as in the train
            split, or 0 where that is gone.
    """
    if num_features is None:
        features = None
        with contextlib.suppress(FileNotFoundError):
            features = make_reader("train", setup.class_names, setup).features
        num_features = 0 if features is None else features.shape[1]
    image_shape = (*setup.reader.image_size, setup.reader.channels)
    return _make_network(setup, len(setup.class_names), image_shape, num_features)


def _make_network(
    setup: Setup, num_classes: int, image_shape: tuple[int, int, int], num_features: int
) -> Network:
    return load_network_class(setup.network)(
        num_classes,
        image_shape=image_shape,
        num_features=num_features,
        precision=choose_precision(setup.session.precision),
        seed=setup.session.seed,
        layout=setup.restore.layout,
        hyper=setup.hyper,
        options=setup.layers,
    )


def skipped_images(**readers: Reader) -> dict[str, dict[str, str]]:
    """Return why images were skipped since this start, by split and name."""
    skipped = {split: reader.skipped for split, reader in readers.items()}
    return {split: reasons for split, reasons in skipped.items() if reasons}


def write_result(
    session: Session, result: Mapping[str, Any], *tests: TestResult
) -> None:
    """Write tests, and `result.json`, which says that the run is complete."""
    if session.is_chief:
        for test in tests:
            test.save(session.run / "tests")
        write_json(session.run / "result.json", result)


def delete_result(session: Session) -> None:
    """Delete `result.json`, as the run goes on."""
    if session.is_chief:
        (session.run / "result.json").unlink(missing_ok=True)


def _check_same(session: Session, options: Any) -> None:
    network_class = load_network_class(options.network)
    files = {
        "train": options.data.folder / options.data.train,
        "valid": options.data.folder / options.data.valid,
        "pretrained": options.pretrained,
        "network": find_file(network_class),
    }
    digests = {name: path and digest_source(path) for name, path in files.items()}
    own = {"content of": digests} | options_to_json(options)
    _, of_chief = session.devices.from_chief(lambda: ({}, own))
    lines = differences(of_chief, own)
    if session.devices.any(bool(lines)):
        found = "; ".join(lines) or "the same here, others on another worker"
        raise RuntimeError(
            "all workers must be started with the options, lists and files of the "
            f"chief. Received: on worker {session.devices.worker} {found}"
        )

"""Write what layers of a trained run make of images, for other programs.

    python launchers/extract_features.py --run runs/demo --split test \
        --layers global_pool --output features.h5

takes a split of the run, or any images, folders and lists that are named first. Layers
have the names that `python -m worklab flops runs/demo` shows. The features are float32,
a row for each image in the order of the list, as `.npy` or HDF5.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from worklab import Session, cli
from worklab.console import make_console, show_skipped
from worklab.feature_extraction import Features, check_suffix, extract_features
from worklab.printing import print_plainly
from worklab.reader import Reader
from worklab.runs import RunSetup, make_network, make_reader, read_run
from worklab.trained import open_images, restore_trained


@dataclasses.dataclass(frozen=True)
class Options:
    """Write what layers of a trained run make of images, for other programs."""

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files, folders and lists; none: the split below."""
    run: Path = Path("runs/demo")
    """Folder of the run."""
    checkpoint: Literal["best", "latest"] | int | Path = "best"
    """A step or a file; `best` has the lowest validation loss."""
    layers: tuple[str, ...] = ("global_pool",)
    """Layers, or scopes, which stand for their last layer: `stage3 stage1/a/conv`."""
    output: Path = Path("features.h5")
    """File, .h5 or .npy, which is replaced; several layers have an .npy file each."""
    pool: bool = False
    """Average over height and width, where a layer has them."""
    split: Literal["train", "valid", "test"] = "test"
    """Which of the run's lists, where no images are given; not augmented."""
    data_folder: Path | None = None
    """Where the lists are now; None: where they were in training."""
    on_bad_file: Literal["stop", "skip"] = "stop"
    """At an image that cannot be read; one that is skipped has a row of NaN."""
    batch_size: int | None = None
    """Images at a time; None: as many as in the run's tests."""


def main(options: Options) -> Features:
    """Write what layers of a trained run make of images.

    Returns:
        Where the features are, and of which images.

    Raises:
        FileNotFoundError: If something is not there.
        ValueError: If there are no images, no such layer, or an option is out of range.
    """
    check_suffix(options.output)
    setup = read_run(options.run, data_folder=options.data_folder)
    reader, labels = open_source(options, setup)
    with Session(options.run, setup.session, alone=True) as session:
        network = make_network(reader, setup)
        step = restore_trained(session, network, setup.class_names, options.checkpoint)
        found = extract_features(
            network,
            reader,
            session,
            options.output,
            layers=options.layers,
            step=step,
            labels=labels,
            pool=options.pool,
        )
    console = make_console(alone=True)
    for name, shape in found.shapes.items():
        print_plainly(console, f"{name}: {(len(found.names), *shape)}")
    print_plainly(console, " ".join(map(str, found.paths)))
    show_skipped(console, {"images": reader.skipped} if found.skipped else {})
    return found


def open_source(options: Options, setup: RunSetup) -> tuple[Reader, list[int]]:
    """Return the reader of the images, and their labels, -1 where there is none."""
    if options.images:
        images = open_images(
            options.images,
            setup,
            on_bad_file=options.on_bad_file,
            batch_size=options.batch_size,
        )
        labels = [-1 if each is None else each for each in images.given_labels]
        return images, labels
    data = dataclasses.replace(setup.data, on_bad_file=options.on_bad_file, mix={})
    size = options.batch_size
    if size is None:
        size = setup.reader.test_batch_size
    # Each image comes once, so none need be kept.
    form = dataclasses.replace(setup.reader, test_batch_size=size, cache_megabytes=0)
    setup = dataclasses.replace(setup, data=data, reader=form)
    reader = make_reader(options.split, setup.class_names, setup)
    return reader, reader.labels.tolist()


if __name__ == "__main__":
    cli.run(main, face="test")

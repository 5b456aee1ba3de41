"""The tools of `python -m worklab` that know networks, weights or images."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import keras
import tyro
from rich import filesize

from worklab import comparison_tool, data_tools, exporting, inspecting
from worklab.checkpoints import digest as digest_of
from worklab.checkpoints import load_checkpoint, newest_checkpoint
from worklab.counting import count_work
from worklab.imagenet import make_imagenet_list
from worklab.list_making import SPLIT_FRACTIONS, make_lists
from worklab.lists import read_class_names, read_list
from worklab.network import Network
from worklab.network_names import load_network_class
from worklab.options import RestoreOptions
from worklab.packed_files import Format
from worklab.packing import PackOptions
from worklab.packing import pack as pack_images
from worklab.pretrained import open_weights
from worklab.printing import open_console, print_plainly, wide_console
from worklab.report.contents import read_groups
from worklab.report.writing import write_report
from worklab.runs import make_run_network, read_run

_STRICT = RestoreOptions()


def lists(
    folder: tyro.conf.Positional[Path],
    /,
    train: float = SPLIT_FRACTIONS["train"],
    valid: float = SPLIT_FRACTIONS["valid"],
    test: float = SPLIT_FRACTIONS["test"],
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Make train.json, valid.json and test.json from a folder of classes.

    Args:
        folder: Holds one folder of images for each class, or folders `train`,
            `valid` (or `val`) and `test` that do.
        train: Share of each class's images to train on.
        valid: Share that decides about learning rate and stopping.
        test: Share that is kept for the end.
        seed: Of the random split.
        overwrite: Replace lists that are there.
    """
    fractions = {"train": train, "valid": valid, "test": test}
    paths = make_lists(folder, fractions=fractions, seed=seed, overwrite=overwrite)
    names = read_class_names(folder / "classes.json")
    console = open_console()
    for path in paths.values():
        count = len(read_list(path, names))
        print_plainly(console, f"{path}: {count} images")
    print_plainly(console, f"{folder / 'classes.json'}: {len(names)} classes")


def pack(
    source: tyro.conf.Positional[Path],
    /,
    out: Path,
    to: Format = "tfrecord",
    shards: int = 1,
    shorter_side: int | None = None,
    quality: int = 95,
    first_label: Literal[0, 1] = 0,
    labels_offset: int = 0,
) -> None:
    """Pack the images of a list into few large files, which read and copy fast.

    Files are named `train-00000-of-00008.tfrecord`; `--data.train train@8` reads them.
    Each is read back before it appears. The same command goes on where it was stopped.

    Args:
        source: A list, a folder of classes, or files of any format that can be read.
        out: Folder of the files and of `classes.json`.
        to: Format; tfrecord and arrayrecord hold `tf.train.Example`s of tf-slim's keys.
        shards: Number of files; some 100 MB each are handy.
        shorter_side: Pixels to which larger images are scaled down; None: the bytes
            of the image files are kept.
        quality: Of the JPEGs that scaled images become, 1..100.
        first_label: Number of the first class; 1 as in tf-slim's ImageNet.
        labels_offset: Taken from the source's labels where they are numbers.
    """
    options = PackOptions(to, shards, shorter_side, quality, first_label)
    console = open_console()
    paths = pack_images(
        source, out, options, labels_offset=labels_offset, console=console
    )
    size = sum(path.stat().st_size for path in paths)
    stem = paths[0].name.partition("-00000-of-")[0]
    offset = f" --data.labels-offset {first_label}" if first_label else ""
    print_plainly(
        console,
        f"{size / 1e6:,.1f} MB in {out}, read by `--data.folder {out} "
        f"--data.train {stem}@{len(paths)}{offset}`",
    )


def imagenet(
    images: tyro.conf.Positional[Path],
    /,
    synsets: Path,
    words: Path | None = None,
    boxes: Path | None = None,
    validation_labels: Path | None = None,
) -> None:
    """Make a list of ImageNet as it is handed out, with words and boxes, to be packed.

    `imagenet/train` becomes `imagenet/train.json`; pack that with `--first-label 1`
    to have what tf-slim's scripts make.

    Args:
        images: Folder of synset folders, or of validation images.
        synsets: A synset on each line, imagenet_lsvrc_2015_synsets.txt.
        words: A synset and its words on each line, imagenet_metadata.txt.
        boxes: Folder of the annotations, XML files.
        validation_labels: The synset of each image, sorted by name, on a line,
            imagenet_2012_validation_synset_labels.txt.
    """
    path = make_imagenet_list(
        images,
        synsets=synsets,
        words=words,
        boxes=boxes,
        validation_labels=validation_labels,
    )
    print_plainly(
        open_console(),
        f"{path}: pack it with `python -m worklab pack {path} --first-label 1`",
    )


def digest(path: tyro.conf.Positional[Path], /) -> None:
    """Print one SHA-256 over all variables of a checkpoint: names, shapes, values.

    Two runs that end with the same digest have the same weights, optimizer and
    random-generator states, bit for bit.

    Args:
        path: A checkpoint file, or a run, whose newest checkpoint is taken.
    """
    if path.is_dir():
        path = newest_checkpoint(path)
    arrays, _ = load_checkpoint(path)
    print(f"{digest_of(arrays)}  {path}")


def export(
    run: tyro.conf.Positional[Path],
    /,
    to: Literal[
        "safetensors", "h5", "keras", "savedmodel", "onnx", "litert"
    ] = "safetensors",
    output: Path | None = None,
    checkpoint: Literal["best", "latest"] | int = "best",
    num_features: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a trained network as a file for elsewhere.

    `safetensors` are the weights alone, as a pretrained file for other runs; `h5` is
    what `load_weights` of the network's Keras model reads. The others are whole: uint8
    images in, probabilities out. Each is loaded again and must answer as the network
    does, or nothing is written.

    Args:
        run: A run, or one of its checkpoint files.
        to: Its format; `onnx` and `litert` need the extra of that name.
        output: File, for savedmodel folder, to write; None: in the run's `export/`.
        checkpoint: The step to export; `best` has the lowest validation loss.
        num_features: Numbers that come with each image; None: the run's.
        overwrite: Replace what is there.
    """
    path, console = exporting.find_checkpoint(run, checkpoint), open_console()
    if output is None:
        folder = path.parent.parent / "export"
        output = folder / f"{path.stem}{exporting.SUFFIXES[to]}"
    if to == "safetensors":
        count = exporting.export_weights(path, output, overwrite=overwrite)
        print_plainly(console, f"{output}: {count} variables of {path}")
        return
    exported = exporting.export_run(
        path, output, to=to, num_features=num_features, overwrite=overwrite
    )
    print_plainly(
        console,
        f"{output}: {path.stem}, the network's answers on {exported.num_images} images "
        f"within {exported.difference:.1e} (at most {exporting.TOLERANCE:.0e})",
    )
    if exported.encoded_difference is not None:
        print_plainly(
            console,
            f"encoded images, resized by TensorFlow: {exported.encoded_difference:.1e} "
            f"(at most {exporting.ENCODED_TOLERANCE})",
        )


def flops(
    network: tyro.conf.Positional[str],
    /,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    num_features: int | None = None,
    channels: Literal[1, 3] | None = None,
) -> None:
    """Count parameters, multiply-accumulates and activations of a network, by layer.

    Nothing is computed, no weight is read: the numbers follow from the layers.

    Args:
        network: `file.py:Class`, `package.module:Class`, or the folder of a run.
        image_size: Height and width; None: the run's, or 224 224.
        num_classes: None: the run's, or 1000.
        num_features: Numbers that come with each image; None: the run's, or 0.
        channels: 3 for RGB, 1 for grey; None: the run's, or 3.
    """
    # Variables without values: a large network costs no memory, and no time.
    with keras.StatelessScope(initialize_variables=False):
        work = count_work(
            _make_network(network, image_size, num_classes, num_features, channels)
        )
    work.show(wide_console())


def _make_network(
    name: str,
    image_size: tuple[int, int] | None,
    num_classes: int | None,
    num_features: int | None,
    channels: Literal[1, 3] | None,
) -> Network:
    if not Path(name).is_dir():
        return load_network_class(name)(
            num_classes or 1000,
            image_shape=(*(image_size or (224, 224)), channels or 3),
            num_features=num_features or 0,
        )
    setup = read_run(Path(name))
    reader = dataclasses.replace(
        setup.reader,
        image_size=image_size or setup.reader.image_size,
        channels=channels or setup.reader.channels,
    )
    setup = dataclasses.replace(setup, reader=reader)
    if num_classes:
        names = [str(number) for number in range(num_classes)]
        setup = dataclasses.replace(setup, class_names=names)
        num_features = num_features or 0  # the lists are of other classes
    return make_run_network(setup, num_features=num_features)


def inspect(
    file: tyro.conf.Positional[Path],
    /,
    pattern: str = "",
    against: Path | None = None,
    network: str | None = None,
    image_size: tuple[int, int] = (224, 224),
    num_classes: int | None = None,
    num_features: int = 0,
    channels: Literal[1, 3] = 3,
    restore: RestoreOptions = _STRICT,
) -> None:
    """List what is in a weights file of any format, or what a network makes of it.

    Args:
        file: The weights: safetensors, TensorFlow, Keras, NumPy, PyTorch or ONNX.
        pattern: Regular expression that the names must have somewhere.
        against: Another weights file to compare with, name by name.
        network: `file.py:Class` or `package.module:Class`, whose import is explained;
            for what finds no name, names are proposed.
        image_size: Height and width that the network sees.
        num_classes: Of the network; None: as many as the file names, or 1000.
        num_features: Numbers that come with each image.
        channels: 3 for RGB, 1 for grey.
        restore: How the network takes the file in.
    """
    console = wide_console(soft_wrap=True)
    with open_weights(file) as weights:
        if network is not None:
            network_class = load_network_class(network)
            made = network_class(
                num_classes or len(weights.class_names) or 1000,
                image_shape=(*image_size, channels),
                num_features=num_features,
                layout=restore.layout or inspecting.layout_for(network_class, weights),
            )
            for line in inspecting.explain(made, weights, restore):
                console.print(line, markup=False, highlight=False)
        elif against is not None:
            with open_weights(against) as other:
                console.print(inspecting.compare(weights, other, pattern))
        else:
            console.print(inspecting.list_arrays(weights, pattern))
            console.print(inspecting.list_scopes(weights, pattern))


def report(
    place: tyro.conf.Positional[Path],
    /,
    split: Literal["train", "valid", "test"] = "test",
    output: Path | None = None,
    data_folder: Path | None = None,
    groups: Path | None = None,
) -> None:
    """Write a page on a run, complete or not, that needs no other file: `report.html`.

    It has the test with intervals, the curves of training, confusion, each class,
    calibration, images that are wrong, options and machine. The same numbers are
    beside it, in `report.json`.

    Args:
        place: A run, or the JSON file of one of its tests.
        split: Which test of a run.
        output: The page; None: `report.html` in the run.
        data_folder: Where the lists are now; None: where they were in training.
        groups: JSON file of class names by group, for a confusion of the groups.
    """
    path = write_report(
        place,
        split=split,
        output=output,
        data_folder=data_folder,
        groups=None if groups is None else read_groups(groups),
        on_remark=lambda remark: print_plainly(open_console(), f"missing: {remark}"),
    )
    size = filesize.decimal(path.stat().st_size)
    print_plainly(
        open_console(), f"{path}: {size}, its numbers: {path.with_suffix('.json')}"
    )


COMMANDS: dict[str, Callable[..., None]] = {
    "check": data_tools.check,
    "compare-tests": comparison_tool.compare_tests,
    "show": data_tools.show,
    "stats": data_tools.stats,
    "inspect": inspect,
    "digest": digest,
    "export": export,
    "flops": flops,
    "imagenet": imagenet,
    "lists": lists,
    "pack": pack,
    "report": report,
}
"""By the word behind `python -m worklab`."""

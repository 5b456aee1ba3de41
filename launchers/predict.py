"""Predict the classes of images with a trained run.

    python launchers/predict.py photos more/a.jpg --run runs/demo --output answers.csv

takes image files, folders of them, and lists, which need no labels; of the run it needs
the folder alone. Writes a line for each image, as CSV or JSON, or without `--output` as
CSV to the standard output.
"""

import dataclasses
import io
import sys
from pathlib import Path
from typing import Literal

import tyro

from worklab import Session, cli
from worklab.console import make_console, show_skipped
from worklab.predicting import Predictions, check_form, predict
from worklab.printing import print_plainly
from worklab.runs import make_network, read_run
from worklab.trained import open_images, restore_trained


@dataclasses.dataclass(frozen=True)
class Options:
    """Predict the classes of images with a trained run."""

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files, folders (with all below), and lists: JSON, CSV, or a path a line."""
    run: Path = Path("runs/demo")
    """Folder of the run."""
    checkpoint: Literal["best", "latest"] | int | Path = "best"
    """A step or a file; `best` has the lowest validation loss."""
    output: Path | None = None
    """File, .csv or .json, which is replaced; None: CSV to the standard output."""
    top_k: int | None = None
    """Classes for each image, the most probable first; None: all, in label order."""
    on_bad_file: Literal["stop", "skip"] = "stop"
    """At an image that cannot be read; those that are skipped are named at the end."""
    batch_size: int | None = None
    """Images at a time; None: as many as in the run's tests."""


def main(options: Options) -> Predictions:
    """Predict the classes of images with a trained run.

    Returns:
        The predictions, which have been written.

    Raises:
        FileNotFoundError: If something is not there.
        ValueError: If there are no images, or an option is out of range.
    """
    check_form(options.output, options.top_k)
    setup = read_run(options.run)
    reader = open_images(
        options.images,
        setup,
        on_bad_file=options.on_bad_file,
        batch_size=options.batch_size,
    )
    with Session(options.run, setup.session, alone=True) as session:
        network = make_network(reader, setup)
        step = restore_trained(session, network, setup.class_names, options.checkpoint)
        found = predict(network, reader, session, step=step)
    console = make_console(sys.stderr, alone=True)
    if options.output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # a name may be no Unicode
            sys.stdout.reconfigure(errors="backslashreplace")
        found.write_csv(sys.stdout, top_k=options.top_k)
    else:
        found.save(options.output, top_k=options.top_k)
        count = len(found.names)
        print_plainly(console, f"{options.output}: {count} images")
    show_skipped(console, {"images": found.skipped} if found.skipped else {})
    return found


if __name__ == "__main__":
    cli.run(main, face="test")

"""`python -m worklab`: the tools beside the launchers."""

from pathlib import Path

import tyro
from rich.console import Console

from worklab import cli
from worklab.checkpoints import digest as digest_of
from worklab.checkpoints import load_checkpoint, newest_checkpoint
from worklab.list_making import SPLIT_FRACTIONS, make_lists
from worklab.lists import read_class_names, read_list
from worklab.pretrained.files import write_weights


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
    console = Console(soft_wrap=True)
    for path in paths.values():
        count = len(read_list(path, names))
        console.print(f"{path}: {count} images", highlight=False)
    console.print(f"{folder / 'classes.json'}: {len(names)} classes", highlight=False)


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
    checkpoint: tyro.conf.Positional[Path], weights: tyro.conf.Positional[Path], /
) -> None:
    """Write the weights of a checkpoint as a pretrained file for other runs.

    Args:
        checkpoint: A checkpoint file, or a run, whose newest checkpoint is taken.
        weights: The `.safetensors` file to write.
    """
    if checkpoint.is_dir():
        checkpoint = newest_checkpoint(checkpoint)
    arrays, state = load_checkpoint(checkpoint)
    network = {k: v for k, v in arrays.items() if not k.startswith("optimizer/")}
    write_weights(weights, network, class_names=state["class_names"])
    print(f"{weights}: {len(network)} variables of {checkpoint}")


def main(arguments: list[str] | None = None) -> None:
    """Run one of the tools."""
    cli.run_commands({"digest": digest, "export": export, "lists": lists}, arguments)


if __name__ == "__main__":
    main()

"""`python -m worklab runs clean`: what of a run is not needed any more."""

import dataclasses
import shutil
from pathlib import Path

import tyro
from rich import filesize

from worklab.checkpoints import Checkpoints
from worklab.locks import RunLock, is_locked
from worklab.printing import open_console, print_plainly
from worklab.run_summaries import read_record, read_result


@dataclasses.dataclass(frozen=True)
class Waste:
    """What can be deleted of a run.

    Attributes:
        run: Its folder.
        step: Of the newest checkpoint that is whole.
        kept: Steps whose checkpoints stay, with the reason.
        checkpoints: Files of the others.
        folders: Folders to delete as a whole.
    """

    run: Path
    step: int
    kept: dict[int, str]
    checkpoints: list[Path]
    folders: list[Path]


def clean(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    /,
    queues: bool = False,
    cache: bool = False,
    profiles: bool = False,
    yes: bool = False,
) -> None:
    """Delete checkpoints but for the best, the newest and snapshots; first say which.

    A run that is being trained is left alone. What a tester has in its queue stays
    there until it is tested.

    Args:
        runs: Folders of runs.
        queues: Delete the queues of testers that will not be started again, too.
        cache: Delete the outputs of frozen layers, which are computed anew if needed.
        profiles: Delete the profiles in the TensorBoard folder.
        yes: Delete it; else it is only listed.

    Raises:
        ValueError: If no run is given, a folder is none, or its result cannot be
            understood; nothing is deleted.
    """
    if not runs:
        raise ValueError("give the folders of runs to clean. Received: none")
    for run in runs:
        read_record(run)
        read_result(run)
    console = open_console()
    total = 0
    for run in runs:
        if is_locked(run):
            print_plainly(console, f"{run}: left alone, as it is being trained")
            continue
        waste = find_waste(run, queues=queues, cache=cache, profiles=profiles)
        kept = ", ".join(f"{step} ({why})" for step, why in waste.kept.items())
        print_plainly(console, f"{run}: keeps the checkpoints of step {kept or '-'}")
        for path, size in (sizes := measure(waste)).items():
            note = "" if size or path.is_dir() else ", as a queue has it, too"
            print_plainly(console, f"  {filesize.decimal(size):>10}  {path}{note}")
        total += sum(sizes.values())
        if yes:
            delete(waste)
    done = "deleted" if yes else "would be deleted; `--yes` does it"
    print_plainly(console, f"{filesize.decimal(total)} {done}")


def find_waste(
    run: Path, *, queues: bool = False, cache: bool = False, profiles: bool = False
) -> Waste:
    """Return what can be deleted of a run.

    Nothing is waste of checkpoints of which none can be read.
    """
    checkpoints = Checkpoints(run / "checkpoints")
    newest = checkpoints.load_newest()  # its checksum fits, so the others can go
    kept: dict[int, str] = {}
    waste: list[Path] = []
    step = 0
    if newest is not None:
        step, _, state = newest
        best = {state.get("best_step"), (read_result(run) or {}).get("best_step")}
        reasons = {each: "snapshot" for each in state.get("snapshots", ())}
        reasons |= {step: "newest"} | {each: "best" for each in best - {None}}
        for each in checkpoints.steps():
            if each > step:
                kept[each] = "damaged"
            elif each in reasons:
                kept[each] = reasons[each]
            else:
                waste.append(checkpoints.path(each))
    else:
        kept = dict.fromkeys(checkpoints.steps(), "damaged")
    chosen = {
        run / "tests" / "queues": queues,
        run / "cache": cache,
        run / "tensorboard" / "plugins" / "profile": profiles,
    }
    # A link, e.g. to a larger disk, is somebody's own to clean.
    folders = [
        path
        for path, wanted in chosen.items()
        if wanted and path.is_dir() and not path.is_symlink()
    ]
    return Waste(run, step, kept, waste, folders)


def measure(waste: Waste) -> dict[Path, int]:
    """Return how many bytes become free with each file and folder."""
    files = {path: [path] for path in waste.checkpoints}
    files |= {
        folder: [path for path in folder.rglob("*") if path.is_file()]
        for folder in waste.folders
    }
    # A file is free when its last name is gone; of two names one counts.
    names_left: dict[int, int] = {}
    sizes = {}
    for path, inner in files.items():
        sizes[path] = 0
        for file in inner:
            status = file.stat()
            left = names_left.get(status.st_ino, status.st_nlink) - 1
            names_left[status.st_ino] = left
            sizes[path] += 0 if left else status.st_size
    return sizes


def delete(waste: Waste) -> None:
    """Delete it, unless somebody has begun to train the run.

    Raises:
        RuntimeError: If somebody has.
    """
    lock = RunLock(waste.run)
    try:
        if waste.checkpoints:
            checkpoints = Checkpoints(waste.run / "checkpoints", keep=1)
            checkpoints.delete_old(waste.step, waste.kept)
        for folder in waste.folders:
            shutil.rmtree(folder)
    finally:
        lock.release()

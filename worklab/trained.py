"""A run's trained network, and what it makes of images, batch by batch."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import tensorflow as tf

from worklab.network import Network
from worklab.pretrained import open_weights
from worklab.reader import Reader
from worklab.readers import ImageReader
from worklab.runs import RunSetup
from worklab.session import Session
from worklab.tester import batch_signature

Checkpoint: TypeAlias = Literal["best", "latest"] | int | Path
"""`best`, `latest`, a step, or a file: a checkpoint, or weights that were exported."""


def restore_trained(
    session: Session,
    network: Network,
    class_names: Sequence[str],
    checkpoint: Checkpoint,
) -> int:
    """Give a network the weights of a checkpoint of the session's run, or of a file.

    Args:
        session: That of a test; tracks the network's variables from here on.
        network: Made as the run made it.
        class_names: Names in label order, which a file must have, too.
        checkpoint: Which weights.

    Returns:
        Their step; 0 for exported weights, which do not say.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
        RuntimeError: If nothing was validated, so that none is the best.
        ValueError: If it is of other classes or another network.
    """
    session.track_variables(network.variables)
    if isinstance(checkpoint, Path):
        return _restore_file(session, network, class_names, checkpoint)
    if isinstance(checkpoint, int):
        session.restore_step(checkpoint)
        return checkpoint
    session.restore_latest()
    return session.restore_best() if checkpoint == "best" else session.step


def _restore_file(
    session: Session, network: Network, class_names: Sequence[str], path: Path
) -> int:
    if not path.is_file():
        raise ValueError(
            "`checkpoint` is `best`, `latest`, a step, or a file of weights. "
            f"Received: `{path}`, and there is no such file"
        )
    with open_weights(path) as weights:
        names = list(weights.class_names)
        if names and names != list(class_names):
            raise ValueError(
                f"`{path}` was trained on other classes than the run has: it has "
                f"{len(names)} ({', '.join(names):.60}). Give a file of this run, or "
                f"its own `--run`. Received: {', '.join(class_names):.60}"
            )
        if any(name.startswith("optimizer/") for name in weights):
            session.restore_file(path)
            return session.step
        for name, variable in network.variables.items():
            found = weights[name].shape if name in weights else None
            if found != tuple(variable.shape):
                raise ValueError(
                    f"`{path}` does not fit the network: `{name}` should have shape "
                    f"{tuple(variable.shape)}. Give a checkpoint, or weights that "
                    f"`python -m worklab export` wrote. Received: shape {found}"
                )
            variable.assign(weights[name])
    return 0


def open_images(
    images: Sequence[Path],
    setup: RunSetup,
    *,
    on_bad_file: Literal["stop", "skip"] = "stop",
    batch_size: int | None = None,
) -> ImageReader:
    """Return a reader of any images that shows them as the run's tests do.

    Args:
        images: Files, folders and lists, as `ImageReader` takes them.
        setup: Of the run, whose own lists are not needed.
        on_bad_file: What becomes of an image that cannot be read.
        batch_size: Images at a time; None: as many as in the run's tests.

    Raises:
        FileNotFoundError: If something is not there.
        ValueError: If there are no images, or a list cannot be read.
    """
    if batch_size is None:
        batch_size = setup.reader.test_batch_size
    options = dataclasses.replace(
        setup.reader,
        test_batch_size=batch_size,
        cache_megabytes=0,  # each image comes once
        num_processes=0,
        sampling="each",
        class_weights={},
    )
    return ImageReader(
        images,
        setup.class_names,
        options=options,
        augment=setup.augment,
        on_bad_file=on_bad_file,
    )


def outputs_of(
    compute: Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]],
    reader: Reader,
    session: Session,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield what is computed from each image, as tests see them, batch by batch.

    Args:
        compute: From a batch to tensors (batch, ...) by name; is traced once.
        reader: Where images come from, in its order.
        session: Whose devices compute, and whose signals are served.

    Returns:
        Numbers of the records that could be read (n,), and arrays (n, ...) by name.

    Raises:
        StopRequested: If a signal came.
    """
    devices, function = session.devices, None
    for batch in reader.test_batches():
        session.raise_if_stopped()
        if function is None:
            function = devices.function(compute, [batch_signature(batch)])
        values = devices.gather(function(devices.split(batch)))
        read = np.flatnonzero(batch["weights"])
        arrays: dict[str, Any] = {k: v.numpy()[read] for k, v in values.items()}
        yield batch["index"][read], arrays

"""The devices that share each batch: those of this machine, and of other workers."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
import tensorflow as tf

from worklab.cluster import join_cluster, read_cluster
from worklab.options import SessionOptions
from worklab.reader import Batch, Share

# What TensorFlow says when a worker that took part in a collective operation is gone.
LOST_WORKER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)

_CHUNK = 2**20  # numbers of 8 bytes that are sent at a time
_SEED_STRIDE = 7919  # a prime; seeds of layers are not so regular

Arrays = Mapping[str, np.ndarray]


class Devices:
    """Runs a step on every device at once, each with its rows of the batch.

    Every device has a copy of all variables (a *replica*). Gradients are summed over
    the replicas before the update, so the copies stay equal. With one device nothing
    is copied and nothing summed.

    Use it as it is; a `Session` makes it.

    Args:
        options: Which devices, and how many.
        alone: Be no worker, whatever `TF_CONFIG` says.

    Attributes:
        strategy: The `tf.distribute.Strategy`; variables are made in its scope.
        num_workers: Processes that train together.
        worker: Which of them this is; 0 is the chief, the only one that writes.
        num_replicas: Devices of all workers.

    Raises:
        ValueError: If there are fewer devices than asked for, `TF_CONFIG` cannot be
            understood, or the worker's port is taken.
    """

    def __init__(
        self, options: SessionOptions = SessionOptions(), *, alone: bool = False
    ) -> None:
        cluster = None if alone else read_cluster()
        names = _make_devices(options.num_devices, alone=cluster is None)
        self.num_workers, self.worker = 1, 0
        if cluster is not None:
            self.num_workers, self.worker = len(cluster.addresses), cluster.index
            self.strategy = join_cluster(cluster)
        elif len(names) > 1:
            self.strategy = _mirror(tuple(names))
        else:
            self.strategy = tf.distribute.get_strategy()
        self.num_replicas: int = self.strategy.num_replicas_in_sync
        self._num_local = self.num_replicas // self.num_workers
        self._sum_function: Any = None
        self._gather_function: Any = None

    @property
    def num_machines(self) -> int:
        """How many times the computing power of one device, or of one CPU."""
        on_gpus = tf.config.get_visible_devices("GPU")
        return self.num_replicas if on_gpus else self.num_workers

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.worker == 0

    @property
    def share(self) -> Share:
        """The part of each batch that this worker reads."""
        return Share(self.worker, self.num_workers)

    def check_divides(self, size: int, name: str) -> None:
        """Make sure that every device gets as many images of a batch.

        Args:
            size: Images of the batch.
            name: Option that says so.

        Raises:
            ValueError: If they cannot be divided.
        """
        if size % self.num_replicas:
            near = -(-size // self.num_replicas) * self.num_replicas
            raise ValueError(
                f"`{name}` counts the images of all {self.num_replicas} devices "
                f"together, so it must be a multiple of {self.num_replicas}: give "
                f"`--reader.{name.replace('_', '-')} {near}`, or another "
                f"`--session.num-devices`. Received: {name}={size}"
            )

    def function(self, step: Callable[..., Any], signature: Any) -> Any:
        """Return a step on the rows of one device as a compiled one on all of them.

        Args:
            step: From tensors to tensors; its first argument is a batch.
            signature: Specs of its arguments, as `tf.function` takes them.

        Returns:
            A `tf.function` whose batch comes from `split` and that returns, for each
            result, what every device had; `first` or `gather` makes one of it.
        """
        if self.num_replicas == 1:
            return tf.function(step, input_signature=signature, autograph=False)
        return tf.function(
            lambda *arguments: self.strategy.run(step, arguments), autograph=False
        )

    def split(self, batch: Batch) -> Any:
        """Return this worker's rows of a batch with each of its devices' own rows."""
        if self.num_replicas == 1:
            return batch

        def rows_of(context: Any) -> Any:
            replica = context.replica_id_in_sync_group % self._num_local
            share = Share(replica, self._num_local)
            return {
                name: tf.convert_to_tensor(values[share.rows(len(values))])
                for name, values in batch.items()
            }

        return self.strategy.experimental_distribute_values_from_function(rows_of)

    def first(self, values: Any) -> Any:
        """Return the first device's values, where all devices have the same."""
        return tf.nest.map_structure(
            lambda value: self.strategy.experimental_local_results(value)[0], values
        )

    def gather(self, values: Any) -> Any:
        """Return the rows (n, ...) of all devices of all workers, in their order."""
        if self.num_replicas == 1:
            return values
        if self._gather_function is None:
            self._gather_function = tf.function(
                lambda values: tf.nest.map_structure(
                    lambda rows: self.strategy.gather(rows, axis=0), values
                ),
                autograph=False,
            )
        return self._gather_function(values)

    def sum(self, values: Any) -> Any:
        """Return the sum of tensors over the devices, within a step."""
        if self.num_replicas == 1:
            return values
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

    def average(self, variables: Sequence[Any]) -> None:
        """Set variables to their mean over the devices, within a step.

        Moving statistics follow the rows that their device has seen; so they come
        together again.
        """
        if self.num_replicas == 1 or not variables:
            return
        context = tf.distribute.get_replica_context()
        values = [tf.identity(variable.value) for variable in variables]
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)

    @contextlib.contextmanager
    def own_randomness(self, generators: Sequence[Any]) -> Iterator[None]:
        """Let random generators give each device numbers of its own inside a step.

        Args:
            generators: States, integers (2,); equal on all devices before and after.
        """
        if self.num_replicas == 1:
            yield
            return
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = tf.stack([replica * _SEED_STRIDE, 0])
        for state in generators:
            state.assign(state.value + tf.cast(own, state.dtype))
        yield
        for state in generators:
            state.assign(state.value - tf.cast(own, state.dtype))

    def placed(self, rows: tf.Tensor) -> tf.Tensor:
        """Return a device's rows (n,) at their place in the batch, zeros elsewhere."""
        if self.num_replicas == 1:
            return rows
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        size = tf.shape(rows)[0]
        before, after = replica * size, (self.num_replicas - 1 - replica) * size
        return tf.pad(rows, [[before, after]])

    def any(self, flag: bool) -> bool:
        """Return whether any worker says so; all must ask."""
        if self.num_workers == 1:
            return flag
        return bool(self._sum_of_workers(np.array([flag], np.int64))[0])

    def from_chief(self, make: Callable[[], tuple[Arrays, Any]]) -> tuple[Arrays, Any]:
        """Return what the chief makes, on every worker; all must ask.

        Args:
            make: Returns arrays by name and something that JSON can hold; called by
                the chief alone.

        Raises:
            RuntimeError: On the others, if the chief raised an error.
        """
        if self.num_workers == 1:
            return make()
        arrays: Arrays = {}
        head: dict[str, Any] = {}
        if self.is_chief:
            try:
                arrays, head["content"] = make()
            except Exception as error:  # the others wait for an answer
                head["error"] = str(error)
                self._bytes_from_chief(json.dumps(head).encode())
                raise
        head = json.loads(self._bytes_from_chief(json.dumps(head).encode()))
        if "error" in head:
            raise RuntimeError(
                "the chief could not go on, so this worker ends as well. "
                f"Received: {head['error']}"
            )
        data = self._bytes_from_chief(safetensors.numpy.save(dict(arrays)))
        return safetensors.numpy.load(data), head["content"]

    def describe_lost(self, error: Exception) -> str:
        """Return what to tell about an error of `LOST_WORKER`."""
        text = str(error).strip().partition("Collective ops is aborted by: ")
        reason = (text[2] or text[0]).splitlines()[0]
        return (
            "another worker has ended; its own output says why. Start all of them "
            "again with the same command: they go on from the last checkpoint. "
            f"Received: {reason} (on worker {self.worker} of {self.num_workers})"
        )

    def _bytes_from_chief(self, data: bytes) -> bytes:
        own = np.frombuffer(data + bytes(-len(data) % 8), np.int64)
        if not self.is_chief:
            own = own[:0]
        size, length = self._sum_of_workers(
            np.array([len(own), len(data)], np.int64) * self.is_chief
        )
        parts = []
        for start in range(0, int(size), _CHUNK):  # devices need not hold all at once
            count = min(_CHUNK, int(size) - start)
            part = own[start : start + count] if self.is_chief else np.zeros(count, int)
            parts.append(self._sum_of_workers(part).tobytes())
        return b"".join(parts)[:length]

    def _sum_of_workers(self, values: np.ndarray) -> np.ndarray:
        if self._sum_function is None:

            def of_replica(values: tf.Tensor) -> tf.Tensor:
                replica = tf.distribute.get_replica_context().replica_id_in_sync_group
                speaks = replica % self._num_local == 0  # one device for each worker
                return self.sum(tf.where(speaks, values, tf.zeros_like(values)))

            self._sum_function = tf.function(
                lambda values: self.first(self.strategy.run(of_replica, (values,))),
                input_signature=[tf.TensorSpec((None,), tf.int64)],
                autograph=False,
            )
        return self._sum_function(values).numpy()


@functools.cache
def _mirror(names: tuple[str, ...]) -> Any:
    # A second strategy would count its operations anew, and meet those of the first.
    return tf.distribute.MirroredStrategy(names)


def _make_devices(count: int, *, alone: bool) -> list[str]:
    """Return the names of the devices to use; the CPU is divided into logical ones.

    Raises:
        ValueError: If the machine has fewer, or TensorFlow has begun with others.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if gpus and count:  # a session before may have hidden some
        gpus = tf.config.list_physical_devices("GPU")
    kind = "GPU" if gpus else "CPU"
    if count < 0 or (gpus and count > len(gpus)):
        raise ValueError(
            "`num_devices` must be at least 0, and no more than there are GPUs, here "
            f"{len(gpus)}; without one, it divides the CPU. "
            f"Received: num_devices={count}"
        )
    if kind == "CPU" and count > 1 and not alone:
        raise ValueError(
            "among several workers the CPU of each is one device. "
            f"Received: num_devices={count}"
        )
    count = count or len(gpus) or 1
    try:
        if gpus:
            tf.config.set_visible_devices(gpus[:count], kind)
        elif count > 1:
            tf.config.set_logical_device_configuration(
                tf.config.list_physical_devices(kind)[0],
                [tf.config.LogicalDeviceConfiguration() for _ in range(count)],
            )
    except RuntimeError as error:
        if len(tf.config.list_logical_devices(kind)) < count:
            raise ValueError(
                "devices can only be chosen before TensorFlow computes anything. "
                f"Received: num_devices={count}"
            ) from error
    return [f"{kind}:{number}" for number in range(count)]

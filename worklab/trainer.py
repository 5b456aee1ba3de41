"""Trainer: the training loop."""

import collections
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from worklab.clock import Clock
from worklab.counting import count_training, count_work
from worklab.feature_cache import FeatureCache
from worklab.layer_groups import LayerGroups
from worklab.micro_batches import Gradients, sum_over_parts
from worklab.mixing import partners
from worklab.moving_statistics import estimate_statistics
from worklab.network import Network
from worklab.optimizers import (
    averages,
    follow,
    make_optimizer,
    movable_momentum,
    slots,
)
from worklab.options import OptimizerOptions, TrainingOptions
from worklab.reader import Batch, Reader
from worklab.runtime import matmul_limit
from worklab.schedules import Schedule
from worklab.session import Session
from worklab.stages import Stages
from worklab.tester import batch_signature
from worklab.training_checks import (
    check_memory,
    check_options,
    check_range,
    check_scope,
    sees_gpu,
)
from worklab.writer import Writer

_logger = logging.getLogger(__name__)

# Skipping this many batches is no longer about single images but about the recipe.
_MOST_SKIPPED = 20

# What Keras calls the state of a random generator, e.g. that of a dropout.
_GENERATOR = "seed_generator_state"


class NonFiniteLoss(FloatingPointError):
    """A training loss, or its gradient, is not finite.

    Args:
        message: What happened, with the step and the images.
        step: The step, counted from 1.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclasses.dataclass
class _Step:
    """A step that has been started; its numbers may still be on their way."""

    number: int
    scalars: dict[str, tf.Tensor]
    losses: tf.Tensor


class Trainer:
    """Runs training steps: forward, loss, gradient, multipliers, update.

    The step is traced once, for any batch size. Step *n* reads training batch *n* of
    the Reader, so a restored Session goes on with the right images.

    Use it as it is; it is not made for subclassing.

    Args:
        network: What is trained.
        reader: Where batches come from.
        session: Counts the steps, saves, and stops the run.
        writer: Where the numbers go.
        learning_rate: Learning rate as a function of the step, counted from 0; each
            layer's is this times its `lr_mult`. A `Schedule` may move the momentum,
            keep snapshots and cool down as well.
        optimizer: Kind and numbers of the optimizer.
        options: Numbers of the loop.

    Raises:
        ValueError: If an option is out of range, or no layer can learn.
    """

    def __init__(
        self,
        network: Network,
        reader: Reader,
        session: Session,
        writer: Writer,
        *,
        learning_rate: Schedule | Callable[[int], float],
        optimizer: OptimizerOptions = OptimizerOptions(),
        options: TrainingOptions = TrainingOptions(),
    ) -> None:
        batch_size = reader.options.batch_size
        session.devices.check_divides(batch_size, "batch_size")
        check_options(options, batch_size // session.devices.num_replicas)
        check_scope(session.devices, network)
        self.network = network
        self.reader = reader
        self.session = session
        self.devices = session.devices
        self.writer = writer
        self.schedule = (
            learning_rate
            if isinstance(learning_rate, Schedule)
            else Schedule(learning_rate)
        )
        self.options = options
        self._stages = Stages(network, options.stages)
        self._groups = LayerGroups(network, self._stages)
        self._returns_gradients = options.log_histograms > 0
        with self.devices.strategy.scope():
            self.optimizer = make_optimizer(
                optimizer,
                network,
                variables=self._stages.variables,
                late=self._stages.late,
            )
            self._momentum = self.schedule.momentum and movable_momentum(self.optimizer)
        if sees_gpu():
            check_memory(session.options.gpu_megabytes, network, self.optimizer)
        self._averages = averages(self.optimizer, network)
        self._statistics: list[Any] = []
        self._generators: list[Any] = []
        self._trainable: list[Any] = []
        self._sums: dict[str, float] = {}
        self._sums_of_call: dict[str, float] = {}
        self._skipped: set[int] = set()
        self._started_steps: collections.deque[_Step] = collections.deque()
        self._batches: Iterator[Batch] = iter(())
        self._next_step = -1
        self._learning: list[Any] = []
        self._gradients_now: list[tf.Tensor] = []
        self._norms_now: tf.Tensor | None = None
        self._step_function: Any = None
        self._clock = Clock()
        self._cache: FeatureCache | None = None
        session.track_variables(slots(self.optimizer, network), prefix="optimizer/")
        session.track_averages(
            {name: f"optimizer/{v.path}" for name, v in self._averages.items()}
        )
        session.track_state("writer", writer)
        session.track_state("trainer", self)
        session.track_state("schedule", self.schedule)

    @property
    def num_traces(self) -> int:
        """How often TensorFlow has traced the stage's step; above 1 is a defect."""
        if self._step_function is None:
            return 0
        return int(self._step_function.experimental_get_tracing_count())

    def train(
        self, num_steps: int, *, last_step: int | None = None
    ) -> dict[str, float]:
        """Train for a number of steps, or until the schedule's cool-down is over.

        Args:
            num_steps: At least 0.
            last_step: Where the progress bar ends, when more calls will follow; None:
                after these steps.

        Returns:
            Means over these steps, by name: `loss`, `gradient_norm`, and the network's
            scores; nothing if there was no step.

        Raises:
            NonFiniteLoss: If a loss is not finite and `on_nan` is "stop", or going
                back has not helped; names step and images.
            ValueError: If `num_steps` is negative, or the first batch ever has no
                pixel above 1.
            StopRequested: If a signal came; the step before has ended.
        """
        if num_steps < 0:
            raise ValueError(f"`num_steps` must be at least 0. Received: {num_steps}")
        self._sums_of_call.clear()
        if num_steps == 0:
            return {}
        if self.session.is_new:
            self._start_cold()
        if self.options.cache_features and self._cache is None:
            self._cache = self._make_cache()
        end = self.session.step + num_steps
        self._clock.start()
        while self.session.step < end and not self.schedule.is_over(self.session.step):
            self.session.raise_if_stopped()
            self._cool_down_if_asked()
            self.enter_stage()
            with self._clock.waiting():
                batch = self._next_batch()
            self._profile_from_here()
            rate = self.schedule(self.session.step)
            try:
                self._start_step(batch, rate)
                # The newest may still be computing on a GPU while the next batch comes.
                self._settle(leave=0 if self._is_awaited(end) else 1)
            except NonFiniteLoss as error:
                if self.options.on_nan == "stop":
                    raise
                self._roll_back(error)
                continue
            self._clock.count(self.reader.options.batch_size)
            self._log(rate, end, last_step or end)
            self._profile_to_here()
            if self.schedule.is_snapshot(self.session.step):
                self.session.save(snapshot=True)
        return _means(self._sums_of_call)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Let the network have the averages of its weights inside, where it keeps any.

        Tests are made with them, while training goes on with the weights themselves.
        """
        weights = [self.network.variables[name] for name in self._averages]
        values = [weight.value.numpy() for weight in weights]
        try:
            for weight, average in zip(weights, self._averages.values(), strict=True):
                weight.assign(average.value)
            yield
        finally:
            for weight, value in zip(weights, values, strict=True):
                weight.assign(value)

    def get_state(self) -> dict[str, Any]:
        """Return the sums since the last row of the log, and the skipped steps."""
        self._settle(leave=0)
        return {"sums": dict(self._sums), "skipped": sorted(self._skipped)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._sums = dict(state["sums"])
        self._skipped = set(state["skipped"])
        self._started_steps.clear()

    def _start_cold(self) -> None:
        self.writer.write_graph(self.network.model)
        summary = f"```\n{self.network.summary()}\n```"
        self.writer.write_text(0, {"network": summary})
        if self.options.estimate_statistics:
            estimate_statistics(
                self.network,
                self.reader,
                self.session,
                self.options.estimate_statistics,
            )
        images = self.reader.train_batch(0)["images"]
        check_range(images)
        if self.options.log_images:
            self.writer.write_images(0, {"training batch": images[:16]})
        self.session.save()  # so that there is always something to go back to

    @functools.cached_property
    def _seconds_at_limit(self) -> float:
        """Seconds that an image's step would take at the machine's matmul limit."""
        precision = self.network.precision
        machines = self.devices.num_machines
        trained = self.network if self._cache is None else self._cache.back
        return count_training(count_work(trained)) / matmul_limit(precision) / machines

    def _profile_from_here(self) -> None:
        profile, step = self.options.profile, self.session.step + 1
        if profile is not None and profile[0] <= step <= profile[1]:
            self.writer.start_profile()

    def _profile_to_here(self) -> None:
        profile = self.options.profile
        if profile is not None and self.session.step == profile[1]:
            self._settle(leave=0)
            self.writer.stop_profile()

    def _cool_down_if_asked(self) -> None:
        """Begin the cool-down where a cycle has ended and the run is to settle."""
        step, cool_down = self.session.step, self.schedule.cool_down
        if self.schedule.may_cool_down(step) and (
            (cool_down.planned is not None and step >= cool_down.planned)
            or self.session.asked_to_cool_down()
        ):
            cool_down.begin(step)
            _logger.info("the learning rate cools down from step %d on", step)

    def enter_stage(self) -> None:
        """Take notice of which layers learn in the next step, and how fast.

        Raises:
            RuntimeError: If a layer was thawed by other means than a stage.
        """
        changed = self._stages.enter(self.session.step)
        trainable = list(map(id, self.network.model.trainable_variables))
        if not changed and trainable == self._trainable:
            return
        if not {*trainable} <= {id(variable) for variable in self._stages.variables}:
            raise RuntimeError(
                "a layer can learn now that was frozen when the Trainer was made, so "
                "the optimizer knows nothing of it. Say so beforehand, e.g. "
                "`TrainingOptions(stages={'500': {'stem': 0.1}})`. Received: "
                f"{len(trainable)} trainable variables at step {self.session.step}"
            )
        self._trainable = trainable
        follow(self.optimizer, self.network)
        self.__dict__.pop("_seconds_at_limit", None)  # other layers, other work
        self._groups.follow()
        self._statistics, self._generators = _changing(self.network)
        self._step_function = None  # traced anew

    def _make_cache(self) -> FeatureCache:
        folder = self.session.run / "cache"
        if not self.devices.is_chief:
            folder /= f"worker-{self.devices.worker}"
        return FeatureCache(self.network, self.reader, folder)

    def _next_batch(self) -> Batch:
        if self._next_step != self.session.step:  # at first, and after a restore
            source = self._cache or self.reader
            self._batches = source.train_batches(self.session.step, self.devices.share)
        batch = next(self._batches)
        self._next_step = self.session.step + 1
        if self._step_function is None:
            self._step_function = self.devices.function(
                self._train_step,
                [batch_signature(batch), *[tf.TensorSpec((), tf.float32)] * 2],
            )
        return batch

    def _start_step(self, batch: Batch, rate: float) -> None:
        move = self.schedule.momentum
        momentum = 0.0 if move is None else move(self.session.step)
        self.session.step += 1
        self._gradients_now, self._norms_now = [], None
        if self.session.step in self._skipped:
            return
        is_measured = self._has_row() and not self.writer.silent
        weights = self._groups.weights() if is_measured else []
        numbers = self._step_function(
            self.devices.split(batch), np.float32(rate), np.float32(momentum)
        )
        scalars, losses, self._gradients_now = self.devices.first(numbers)
        if is_measured:
            self._norms_now = self._groups.norms(weights)
        self._started_steps.append(_Step(self.session.step, scalars, losses))

    def _is_awaited(self, end: int) -> bool:
        """Return whether the loss of this step is needed before the next begins."""
        step, schedule = self.session.step, self.schedule
        kept, ends = schedule.is_snapshot(step), schedule.is_over(step)
        return kept or ends or schedule.cool_down.watches_loss or self._is_logged(end)

    def _is_logged(self, end: int) -> bool:
        return self._has_row() or self.session.step == end

    def _has_row(self) -> bool:
        return self.session.step % self.options.log_every == 0

    def _train_step(
        self,
        batch: Mapping[str, tf.Tensor],
        learning_rate: tf.Tensor,
        momentum: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, list[tf.Tensor]]:
        """Update the weights on one device, by the rows of all devices.

        Returns:
            Scalars, the loss of each image of the whole batch, and where histograms
            are asked for the gradients, not clipped; the same on all.
        """
        total_weight = self.devices.sum(tf.reduce_sum(batch["weights"]))
        with self.devices.own_randomness(self._generators):
            gradients, sums, losses = sum_over_parts(
                lambda part: self._gradients(part, total_weight),
                batch,
                self.options.micro_batches,
            )
        losses = self.devices.placed(losses)
        gradients, sums, losses = self.devices.sum((gradients, sums, losses))
        self.devices.average(self._statistics)
        self.optimizer.learning_rate.assign(learning_rate)
        if self._momentum is not None:
            self._momentum.assign(momentum)
        self.optimizer.apply(gradients, self._learning)  # multiplies by each lr_mult
        scalars = {name: value / total_weight for name, value in sums.items()}
        scalars["gradient_norm"] = tf.linalg.global_norm(gradients)
        return scalars, losses, gradients if self._returns_gradients else []

    def _gradients(
        self, batch: Mapping[str, tf.Tensor], total_weight: tf.Tensor
    ) -> Gradients:
        """Return gradients, weighted sums of loss and scores, and each image's loss."""
        network, weights = self.network, batch["weights"]
        variables = network.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = (self._cache or network)(batch, training=True)
            losses = network.losses(batch, logits, training=True)
            loss = tf.reduce_sum(losses * weights) / total_weight
        gradients = tape.gradient(loss, variables)
        pairs = zip(variables, gradients, strict=True)
        # The loss may not depend on all; then they stay as they are.
        self._learning = [v for v, gradient in pairs if gradient is not None]
        gradients = [gradient for gradient in gradients if gradient is not None]
        values = {"loss": losses} | network.scores(batch, logits)
        return (
            gradients,
            {name: tf.reduce_sum(value * weights) for name, value in values.items()},
            losses,
        )

    def _settle(self, leave: int) -> None:
        """Take in the numbers of started steps, but for the newest `leave`.

        Raises:
            NonFiniteLoss: If a loss is not finite.
        """
        while len(self._started_steps) > leave:
            step = self._started_steps.popleft()
            scalars = {name: float(value) for name, value in step.scalars.items()}
            if not np.isfinite([scalars["loss"], scalars["gradient_norm"]]).all():
                self._started_steps.clear()
                raise self._not_finite(step, scalars)
            self.schedule.cool_down.observe(step.number, scalars["loss"])
            for sums in (self._sums, self._sums_of_call):
                for name, value in (scalars | {"steps": 1.0}).items():
                    sums[name] = sums.get(name, 0.0) + value

    def _not_finite(self, step: _Step, scalars: Mapping[str, float]) -> NonFiniteLoss:
        bad = ~np.isfinite(step.losses.numpy())
        if not bad.any():  # the gradient alone: any image may be the cause
            bad[:] = True
        elif self.reader.augment_options.mixes:  # or what was mixed in
            bad[partners(len(bad))[bad]] = True
        order, _ = self.reader.train_order(step.number - 1)
        names = [f"`{self.reader.name(int(n))}`" for n in order["index"][bad]]
        return NonFiniteLoss(
            f"the loss or its gradient is not finite at step {step.number}; the last "
            "checkpoint is intact. Lower the learning rate, clip the gradient "
            "(`--optimizer.clip-norm 1`), or skip such batches (`--training.on-nan "
            f"rollback`). {len(names)} of its {len(bad)} images may be the "
            f"cause: {', '.join(names)}. Received: loss={scalars['loss']}, "
            f"gradient_norm={scalars['gradient_norm']}",
            step.number,
        )

    def _roll_back(self, error: NonFiniteLoss) -> None:
        """Go back to the last checkpoint, and skip the step when it comes again.

        Raises:
            NonFiniteLoss: If this has been done too often to be about single images.
        """
        skipped = self._skipped | {error.step}
        if len(skipped) > _MOST_SKIPPED:
            raise error
        self.session.restore_latest()
        self._skipped |= skipped
        _logger.warning(
            "%s. Back to step %d; step %d will be skipped",
            error,
            self.session.step,
            error.step,
        )

    def _log(self, rate: float, end: int, last_step: int) -> None:
        step = self.session.step
        if self._is_logged(end) and self._sums:
            speed, waiting = self._clock.read()
            loss = self._sums["loss"] / self._sums["steps"]
            self.writer.show_progress(step, last_step, loss, rate, speed)
        if self._has_row() and self._sums:  # not if every step was skipped
            scalars = _means(self._sums)
            self._sums.clear()
            self.writer.write_scalars(step, scalars | {"learning_rate": rate})
            norms = self._norms_now
            self.writer.write_layers(
                step,
                self._groups.rates(rate),
                {} if norms is None else self._groups.ratios(norms),
            )
            self.writer.write_speed(
                step,
                {
                    "images_per_second": speed,
                    "waiting_for_data": waiting,
                    "share_of_matmul_limit": speed * self._seconds_at_limit,
                },
            )
        every = self.options.log_histograms
        if every and step % every == 0 and not self.writer.silent:
            self.writer.write_histograms(step, self._distributions())

    def _distributions(self) -> dict[str, np.ndarray]:
        """Return weights, and the gradients of this step before they are clipped."""
        variables = self.network.variables
        name_of = {id(variable): name for name, variable in variables.items()}
        arrays = {f"weights/{n}": v.value.numpy() for n, v in variables.items()}
        if self._gradients_now:  # none where the step was skipped
            for variable, gradient in zip(
                self._learning, self._gradients_now, strict=True
            ):
                name = name_of[id(variable)]
                arrays[f"gradients/{name}"] = tf.convert_to_tensor(gradient).numpy()
        return arrays


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    return {n: value / sums["steps"] for n, value in sums.items() if n != "steps"}


def _changing(network: Network) -> tuple[list[Any], list[Any]]:
    """Return what changes in a step beside the weights.

    Returns:
        Moving statistics of layers that are not frozen, and states of generators.
    """
    statistics, generators = [], []
    for name, variable in network.variables.items():
        layer = network.keras_layer(network.split(name)[0])
        if variable.path.endswith(_GENERATOR):
            generators.append(variable)
        elif (
            layer.trainable
            and not variable.trainable
            and variable.dtype.startswith("float")
        ):
            statistics.append(variable)
    return statistics, generators

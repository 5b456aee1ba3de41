"""Option dataclasses of the launchers: one documented field per line.

`tyro` turns them into the command line, so each docstring here is a line of `--help`.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec


def _numbers_from_words(words: list[str], meaning: str) -> dict[str, float]:
    if len(words) % 2:
        raise ValueError(f"give pairs of {meaning}")
    return {
        name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)
    }


def _words_from_numbers(numbers: dict[str, float]) -> list[str]:
    return [word for pair in numbers.items() for word in map(str, pair)]


# tyro would spell it `--layers.lr-mult.stem` where a `--config` has a multiplier.
_Multipliers = Annotated[
    dict[str, float],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[SCOPE FLOAT ...]",
        instance_from_str=lambda words: _numbers_from_words(
            words, "a scope and its multiplier: stem 0 stage1 0.1"
        ),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=_words_from_numbers,
    ),
]


def _stages_from_words(words: list[str]) -> dict[str, dict[str, float]]:
    stages = {}
    for word in words:
        begin, colon, rest = word.partition(":")
        pairs = [pair.partition("=") for pair in rest.split(",")]
        if not (colon and begin.isdecimal() and all(equals for _, equals, _ in pairs)):
            raise ValueError(
                "a stage is a step, a colon, and scopes with their multipliers: "
                f"500:stage3=0.1,stage2=0.01. Received: {word!r}"
            )
        given = {scope: float(number) for scope, _, number in pairs}
        if begin in stages or len(given) < len(pairs):
            raise ValueError(
                "each stage, and in it each scope, is given once. "
                f"Received: {' '.join(words)}"
            )
        stages[begin] = given
    return stages


def _words_from_stages(stages: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"{begin}:" + ",".join(f"{scope}={number}" for scope, number in given.items())
        for begin, given in stages.items()
    ]


_Stages = Annotated[
    dict[str, dict[str, float]],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[STEP:SCOPE=FLOAT,... ...]",
        instance_from_str=_stages_from_words,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=_words_from_stages,
    ),
    tyro.conf.arg(prefix_name=False),
]


_Rates = Annotated[
    dict[str, float],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[LIST FLOAT ...]",
        instance_from_str=lambda words: _numbers_from_words(
            words, "a list and its share of the images: more.json 0.25"
        ),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=_words_from_numbers,
    ),
]


def _class_weights_from_words(words: list[str]) -> dict[str, float] | str:
    if words == ["balanced"]:
        return "balanced"
    return _numbers_from_words(words, "a class and its weight: cat 1 dog 3.5")


_ClassWeights = Annotated[
    dict[str, float] | Literal["balanced"],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[CLASS FLOAT ...]|balanced",
        instance_from_str=_class_weights_from_words,
        is_instance=lambda value: isinstance(value, dict) or value == "balanced",
        str_from_instance=lambda value: (
            [value] if isinstance(value, str) else _words_from_numbers(value)
        ),
    ),
]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Where the images and their labels are.

    Each split is a list (JSON, CSV), a folder of classes, or a file of TFRecord, HDF5,
    ArrayRecord, tar, NumPy or idx; `train@8` and `train-*` stand for several files.
    """

    folder: Path = Path("data/digits")
    """Folder of the splits; paths in a list are relative to it."""
    train: str = "train.json"
    """What to train on; the class names are pinned from it."""
    mix: _Rates = dataclasses.field(default_factory=dict)
    """Further sources to train on, each with its share of images: `more.json 0.25`."""
    valid: str = "valid.json"
    """What decides about learning rate and stopping."""
    test: str = "test.json"
    """What is read once, at the end."""
    labels_offset: int = 0
    """Taken from labels that are numbers; 1 leaves out tf-slim's background class."""
    on_bad_file: Literal["stop", "skip"] = "stop"
    """At an image that cannot be read; more than 1 % of such stop the run anyway."""


@dataclasses.dataclass(frozen=True)
class ReaderOptions:
    """How images become batches."""

    image_size: tuple[int, int] = (32, 32)
    """Height and width the network sees, in pixels."""
    channels: Literal[1, 3] = 3
    """3 for RGB, 1 for grey; images are converted."""
    crop_fraction: float | None = None
    """Share of the shorter side a test image shows, in (0, 1]; None: the preset's."""
    stretch: bool | None = None
    """Test images show that share of both sides, stretched; None: the preset's."""
    batch_size: int = 64
    """Images per step."""
    sampling: Literal["each", "balanced", "weighted"] = "each"
    """Each image once an epoch, classes equally often, or by the list's `weight`."""
    class_weights: _ClassWeights = dataclasses.field(default_factory=dict)
    """What images count in the loss by class: `cat 1 dog 3.5`, or `balanced`."""
    copies: int = 0
    """Fixed augmented forms of each image, by turns; 0: a fresh one each time."""
    test_batch_size: int = 256
    """Images per batch when testing; changes speed and memory, never a result."""
    num_threads: int | None = None
    """Threads that prepare batches; 0: between steps, None: from a record's cost."""
    num_processes: int = 0
    """Processes that prepare batches in place of threads, where Python is the limit."""
    cache_megabytes: int = 1024
    """Decoded images that each list keeps in memory, at most; 0: none."""
    max_megapixels: float = 100.0
    """Larger images are refused by their header, before they fill the memory."""
    reduced_decoding: bool = True
    """Decode JPEG files at 1/2, 1/4 or 1/8 where the network sees no more pixels."""


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Random changes of training images; None takes the preset's amount."""

    preset: Literal["off", "light", "strong", "vgg", "inception"] = "light"
    """Amounts for whatever is not given below; the last two are tf-slim's."""
    area: tuple[float, float] | None = None
    """Least and largest share of the image that a random crop has; 1 1: no crop."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width of that crop, as a multiple of its height."""
    zoom: float | None = None
    """Largest change of scale: 0.1 zooms by a factor in [1/1.1, 1.1]."""
    shift: float | None = None
    """Largest shift, as a fraction of height and width."""
    rotation: float | None = None
    """Largest rotation, in degrees to either side."""
    flip: bool = False
    """Mirror left-right half of the time; not where that changes the class."""
    flip_vertical: bool = False
    """Mirror up-down half of the time."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees, equally often."""
    policy: Literal["off", "randaugment", "trivialaugment", "augmix"] = "off"
    """Operations drawn from a published table, after the changes of place."""
    num_operations: int = 2
    """Operations on each image, one after the other; `randaugment` only."""
    magnitude: float | None = None
    """Strength: 0..30 for `randaugment`, 0..10 for `augmix`; None: 9 and 3."""
    brightness: float | None = None
    """Largest relative change: 0.2 multiplies by a factor in [0.8, 1.2]."""
    contrast: float | None = None
    """Largest relative change of contrast."""
    saturation: float | None = None
    """Largest relative change of colour; nothing happens to grey images."""
    hue: float | None = None
    """Largest turn of the colours to either side, 0.5 is half of the circle."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, of pixels 0..255."""
    jpeg: float = 0.0
    """Largest loss of JPEG quality: 60 stores images at a quality in [40, 100]."""
    erasing: float = 0.0
    """Chance that a rectangle is replaced by noise."""
    erasing_area: tuple[float, float] = (0.02, 1 / 3)
    """Least and largest share of the image that the rectangle has."""
    mixup: float = 0.0
    """Alpha of MixUp, e.g. 0.2: blends pairs of images and their labels; 0: off."""
    cutmix: float = 0.0
    """Alpha of CutMix, e.g. 1: pastes part of one image into another; 0: off."""
    mix_probability: float = 1.0
    """Chance that an image is mixed; with both, either of them equally often."""

    def amount(self, name: str) -> float:
        """Return the amount in force for one of the None-able numbers."""
        given: float | None = getattr(self, name)
        return AUGMENT_PRESETS[self.preset].get(name, 0.0) if given is None else given

    @property
    def flips(self) -> bool:
        """Whether images are mirrored left-right; both of tf-slim's presets do."""
        return self.flip or self.preset in SLIM_PRESETS

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)


AUGMENT_PRESETS: dict[str, dict[str, float]] = {
    "off": {},
    "light": {"zoom": 0.1, "shift": 0.1, "rotation": 10.0},
    "strong": {
        "zoom": 0.25,
        "shift": 0.15,
        "rotation": 20.0,
        "brightness": 0.3,
        "contrast": 0.3,
        "saturation": 0.3,
    },
    "vgg": {},
    "inception": {},
}
"""What `AugmentOptions.preset` stands for; an amount not named is zero.

`vgg` and `inception` have changes of their own, `worklab.slim_preprocessing`.
"""

SLIM_PRESETS = ("vgg", "inception")
"""Presets that crop, mirror and colour as tf-slim does; see `slim_preprocessing`."""


def with_test_form(reader: ReaderOptions, augment: AugmentOptions) -> ReaderOptions:
    """Return options that say how a test image is shown, where a preset decides.

    Slim's VGG networks see 224 of a shorter side of 256, its Inception networks 0.875
    of both sides, stretched.
    """
    fraction, stretch = reader.crop_fraction, reader.stretch
    if fraction is None:
        fraction = 0.875 if augment.preset in SLIM_PRESETS else 1.0
    if stretch is None:
        stretch = augment.preset == "inception"
    return dataclasses.replace(reader, crop_fraction=fraction, stretch=stretch)


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """What holds for the layers of any network; a layer's own argument wins."""

    lr_mult: _Multipliers = dataclasses.field(default_factory=dict)
    """Multipliers by scope that replace the network's own: `stem 0 stage1 0.1`."""
    train_only: tuple[str, ...] = ()
    """Scopes that learn, as if all others had multiplier 0; none: as layers say."""
    weight_decay: float = 5e-4
    """Decay of kernels; biases and normalisation are never decayed."""
    mean: tuple[float, ...] | None = None
    """Subtracted from pixels 0..255, by RGB channel; None: the network's own."""
    std: tuple[float, ...] | None = None
    """What the difference is divided by; `python -m worklab stats` computes both."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes in training, in [0, 1)."""


@dataclasses.dataclass(frozen=True)
class RestoreOptions:
    """How the pretrained file is taken in; all of it by name."""

    missing: Literal["error", "initialise"] = "error"
    """What becomes of a variable that should be restored and is not in the file."""
    unused: Literal["error", "ignore"] = "error"
    """What becomes of a name in the file among those that are used."""
    dialect: Literal["keras", "tensorflow", "torch"] | None = None
    """Whose names and array layouts the file has; None: it is recognised."""
    layout: str | None = None
    """Form of a canonical network, e.g. `torchvision`; None: the file's."""
    exclude: tuple[str, ...] = ()
    """Scopes that are initialised, as if their layers had `restore=False`."""
    rule: Literal["layers", "names"] = "layers"
    """`names`: take what has the same name and shape, whatever the layers say."""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """How gradients become updates; None takes the optimizer's own number.

    A number that the optimizer does not have is an error.
    """

    name: Literal[
        "sgd",
        "rmsprop",
        "adagrad",
        "adadelta",
        "adam",
        "adamw",
        "adamax",
        "nadam",
        "adafactor",
        "lamb",
        "lion",
        "ftrl",
        "muon",
    ] = "sgd"
    """Keras optimizer; adamw, lamb, lion and muon decay apart from the gradient."""
    momentum: float | None = None
    """Momentum of sgd and rmsprop (None: 0.9), and muon, in [0, 1)."""
    nesterov: bool | None = None
    """Nesterov's momentum, of sgd (None: yes) and muon."""
    beta_1: float | None = None
    """Decay of the mean gradient, of the adam family, lamb and lion, in [0, 1)."""
    beta_2: float | None = None
    """Decay of the mean square, of the adam family, lamb and lion, in [0, 1)."""
    rho: float | None = None
    """Decay of the mean square of rmsprop and adadelta, in [0, 1)."""
    epsilon: float | None = None
    """Added to what the optimizer divides by."""
    initial_accumulator_value: float | None = None
    """First value of the squares that adagrad and ftrl add up."""
    learning_rate_power: float | None = None
    """Power of ftrl's sum of squares, at most 0."""
    l1_regularization_strength: float | None = None
    """Pull of ftrl towards zero, by the absolute value."""
    l2_regularization_strength: float | None = None
    """Pull of ftrl towards zero, by the square."""
    clip_norm: float | None = None
    """Largest global norm of the gradient, over all trained layers; None: any."""
    clip_variable_norm: float | None = None
    """Largest norm of each variable's gradient; None: any."""
    clip_value: float | None = None
    """Largest absolute value in a gradient; None: any."""
    average: float | None = None
    """Momentum of a moving average of the weights, to test with; None: no average."""


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """The learning rate as a function of the step, under a warm-up.

    A number that the shape does not have is an error.
    """

    name: Literal[
        "fixed",
        "exponential",
        "polynomial",
        "steps",
        "cosine",
        "triangular",
        "triangular2",
        "exp-range",
        "triangular-hold",
        "one-cycle",
    ] = "fixed"
    """Shape; `polynomial`, `cosine` and `one-cycle` have a length."""
    num_steps: int | None = None
    """Step at which that length ends; None: the end of the run, where it has one."""
    learning_rate: float = 0.1
    """The largest learning rate; each layer's is this times its `lr_mult`."""
    warmup_steps: int = 0
    """Steps of linear rise from zero to where the shape begins."""
    end_learning_rate: float = 0.0
    """Where `polynomial` and `cosine` end."""
    decay_steps: int = 1000
    """Steps in which `exponential` falls by `decay_rate`."""
    decay_rate: float = 0.94
    """What `exponential` multiplies the learning rate with."""
    staircase: bool = True
    """`exponential` falls at once after `decay_steps`, not a little at each step."""
    power: float = 1.0
    """Power of `polynomial`; 1 falls evenly."""
    drops: tuple[int, ...] = ()
    """Steps of the run at which `steps` falls."""
    drop_factor: float = 0.1
    """What `steps` multiplies the learning rate with."""
    period: int | None = None
    """Steps before `cosine` restarts at the peak; None: it never does."""
    period_mult: float = 1.0
    """Length of a period of `cosine` as a multiple of the one before."""
    peak_mult: float = 1.0
    """Peak of `cosine` after a restart as a multiple of the one before."""
    base_learning_rate: float | None = None
    """Least learning rate of the cycles; None: a quarter of the largest."""
    stepsize: int = 2000
    """Steps in which a cycle rises, and in which it falls; 2 to 10 epochs."""
    gamma: float = 0.99994
    """What the height of `exp-range` is multiplied with at each step."""
    hold: int | None = None
    """Steps that `triangular-hold` stays at the base; None: `stepsize`."""
    cool_down: Literal["off", "log", "step", "plateau"] = "off"
    """After cycles, a fall far below the base; `runs cool-down RUN` asks for it."""
    cool_down_decades: float = 3.0
    """Powers of ten that `log` falls by, in `stepsize` steps."""
    cool_down_patience: int = 100
    """Steps without a lower training loss before `plateau` falls to a tenth."""
    snapshots: bool = True
    """Keep the checkpoint of each cycle's lowest point, for `test_ensemble.py`."""
    rise: float = 0.3
    """Share of the steps in which `one-cycle` rises."""
    start_factor: float = 1 / 25
    """Where `one-cycle` begins, as a share of the largest learning rate."""
    final_factor: float = 1e-4
    """Where `one-cycle` ends, as a share of where it began."""
    anneal: Literal["cos", "linear"] = "cos"
    """Form of the ways of `one-cycle`."""
    three_phase: bool = False
    """`one-cycle` falls as long as it rose, and then from where it began."""
    momentum: tuple[float, float] | None = (0.85, 0.95)
    """Momentum at the peak of `one-cycle` and at its ends; None: the optimizer's."""


@dataclasses.dataclass(frozen=True)
class SessionOptions:
    """What outlives the process, and the machine it runs on."""

    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of the layers, not of weights and loss; auto: what the machine has."""
    num_threads: int = 0
    """Threads of TensorFlow; 0 takes every core."""
    device: Literal["auto", "cpu"] = "auto"
    """`cpu` leaves the GPU to others."""
    gpu_megabytes: int | None = None
    """Most memory to take of each GPU; None: as much as TensorFlow likes."""
    num_devices: int = 0
    """Devices that share each batch; 0: every GPU, or else the CPU as one."""
    keep: int = 3
    """Newest checkpoints kept, besides the best."""
    keep_every: int = 0
    """Checkpoints of steps divisible by this are kept as well; 0: none."""
    time_limit: float | None = None
    """Seconds after which the run saves and ends as after SIGTERM; None: no limit."""
    restore_anyway: bool = False
    """Load the pretrained file even when the run has a checkpoint."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """The training loop."""

    stages: _Stages = dataclasses.field(default_factory=dict)
    """Multipliers of scopes from a step on: `0:stem=0,stage1=0 500:stage1=0.1`."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """At a loss that is not finite: `rollback` goes back and skips that batch."""
    log_every: int = 20
    """Steps between rows of the log."""
    micro_batches: int = 1
    """Parts in which a batch goes through the network, as each needs less memory."""
    cache_features: bool = False
    """Compute frozen first layers once for each of the reader's `copies`, and keep."""
    profile: tuple[int, int] | None = None
    """First and last step of a profile for TensorBoard; None: no profile."""
    estimate_statistics: int = 0
    """Batches over which batch-norm statistics are estimated at a cold start."""
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Log to Weights & Biases or MLflow, too; each wants the extra of its name."""
    log_images: bool = False
    """Write images of the first training batch, as augmented, to TensorBoard."""
    log_histograms: int = 0
    """Steps between histograms of weights and gradients in TensorBoard; 0: none."""


@dataclasses.dataclass(frozen=True)
class PatienceOptions:
    """When to lower the learning rate and when to stop."""

    valid_every: int = 50
    """Steps between validations."""
    patience: int = 3
    """Validations without a lower loss, after the warm-up, before the rate falls."""
    factor: float = 0.1
    """What the learning rate is multiplied with, in (0, 1)."""
    max_decays: int = 1
    """Falls of the learning rate; at the next the run is complete."""


@dataclasses.dataclass(frozen=True)
class FindOptions:
    """A learning-rate range test."""

    start: float = 1e-7
    """First learning rate."""
    end: float = 10.0
    """Last learning rate, where the loss has not stopped the test before."""
    num_steps: int = 100
    """Steps from the first to the last rate; each rate is tried on one batch."""
    spacing: Literal["exponential", "linear"] = "exponential"
    """Rates rise by equal factors, or by equal differences."""
    beta: float = 0.98
    """Momentum of the moving average that smooths the loss, in [0, 1)."""
    stop_at: float = 4.0
    """The test ends where the smoothed loss is this many times its best."""
    repeats: int = 1
    """Tests on one stretch of batches after the other; the mean of their losses."""
    suggestion: Literal["valley", "slide", "steep", "minimum"] = "valley"
    """Rule that picks the rate to use next; all four are shown."""


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """From where on an image is unusual."""

    min_side: int = 32
    """Shorter side, in pixels, below which an image is tiny."""
    max_megapixels: float = 100.0
    """Millions of pixels beyond which an image is huge, and is not decoded here."""
    max_aspect: float = 4.0
    """Ratio of the longer to the shorter side beyond which it is extreme."""
    near_duplicates: bool = True
    """Look for images that look alike, too."""


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """What to try: values of `hyper` one after the other, or a space of options."""

    start: float = 1.0
    """First value of `hyper`, where no space is given."""
    step: float = 1.0
    """What is added to it for the next."""
    factor: float | None = None
    """What it is multiplied with instead; None: the step is added."""
    hyper_patience: int = 1
    """Values without a lower validation loss that end the search."""
    warm_start: bool = False
    """Begin each value with the best weights before, where names and shapes agree."""
    space: tuple[str, ...] = ()
    """A JSON file, or `optimizer.name=sgd,adam layers.weight-decay=1e-5:1e-3:log`."""
    num_trials: int | None = None
    """Trials in a space, those of all processes; None: 20, or the whole grid."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How values are chosen; `tpe` learns from the trials before."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Which trials are given up before their end, by their validation losses."""
    engine: Literal["local", "ray"] = "local"
    """`ray` starts workers on a cluster; wants the extra `ray`, and a space."""
    workers: int = 2
    """Trials at a time with Ray; without, start the same command several times."""
    cpus_per_trial: int = 1
    """CPUs that Ray keeps for each trial."""
    gpus_per_trial: float = 0.0
    """GPUs, or a share of one, that Ray gives to each trial."""
    address: str | None = None
    """Address of the Ray cluster; None: the one around, or a new one here."""

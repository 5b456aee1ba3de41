"""Option dataclasses of the launchers: one documented field per line.

`tyro` turns them into the command line, so each docstring here is a line of `--help`.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.constructors import PrimitiveConstructorSpec


def _multipliers_from_words(words: list[str]) -> dict[str, float]:
    if len(words) % 2:
        raise ValueError("give pairs of a scope and its multiplier: stem 0 stage1 0.1")
    return {
        name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)
    }


# tyro would spell it `--layers.lr-mult.stem` where a `--config` has a multiplier.
_Multipliers = Annotated[
    dict[str, float],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[SCOPE FLOAT ...]",
        instance_from_str=_multipliers_from_words,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [
            word for pair in value.items() for word in map(str, pair)
        ],
    ),
]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Where the images and their labels are."""

    folder: Path = Path("data/digits")
    """Folder of the lists; paths in a list are relative to it."""
    train: str = "train.json"
    """List to train on; the class names are pinned from it."""
    valid: str = "valid.json"
    """List that decides about learning rate and stopping."""
    test: str = "test.json"
    """List that is read once, at the end."""


@dataclasses.dataclass(frozen=True)
class ReaderOptions:
    """How images become batches."""

    image_size: tuple[int, int] = (32, 32)
    """Height and width the network sees, in pixels."""
    channels: Literal[1, 3] = 3
    """3 for RGB, 1 for grey; images are converted."""
    crop_fraction: float = 1.0
    """Share of the shorter side that a test image shows, in (0, 1]."""
    batch_size: int = 64
    """Images per step."""
    copies: int = 0
    """Fixed augmented forms of each image, by turns; 0: a fresh one each time."""
    test_batch_size: int = 256
    """Images per batch when testing; changes speed and memory, never a result."""
    num_threads: int | None = None
    """Threads that prepare batches; 0: between steps, None: from a record's cost."""
    cache_megabytes: int = 1024
    """Decoded images that each list keeps in memory, at most; 0: none."""


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Random changes of training images; None takes the preset's amount."""

    preset: Literal["off", "light", "strong"] = "light"
    """Amounts for whatever is not given below."""
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
    brightness: float | None = None
    """Largest relative change: 0.2 multiplies by a factor in [0.8, 1.2]."""
    contrast: float | None = None
    """Largest relative change of contrast."""
    saturation: float | None = None
    """Largest relative change of colour; nothing happens to grey images."""

    def amount(self, name: str) -> float:
        """Return the amount in force for one of the None-able fields."""
        given: float | None = getattr(self, name)
        return AUGMENT_PRESETS[self.preset].get(name, 0.0) if given is None else given


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
}
"""What `AugmentOptions.preset` stands for; an amount not named is zero."""


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """What holds for the layers of any network; a layer's own argument wins."""

    lr_mult: _Multipliers = dataclasses.field(default_factory=dict)
    """Multipliers by scope that replace the network's own: `stem 0 stage1 0.1`."""
    weight_decay: float = 5e-4
    """Decay of kernels; biases and normalisation are never decayed."""
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


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """How gradients become updates."""

    name: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    """Keras optimizer; `sgd` has the momentum below."""
    momentum: float = 0.9
    """Momentum of sgd and rmsprop, in [0, 1)."""
    nesterov: bool = True
    """Nesterov's momentum; sgd only."""
    clip_norm: float | None = None
    """Largest global norm of the gradient, over all trained layers; None: any."""
    average: float | None = None
    """Momentum of a moving average of the weights, to test with; None: no average."""


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """The learning rate as a function of the step."""

    name: Literal["fixed", "cosine", "one-cycle"] = "fixed"
    """Shape; `cosine` and `one-cycle` have a length."""
    num_steps: int | None = None
    """Length of `cosine` and `one-cycle`; None: that of the run, where it has one."""
    learning_rate: float = 0.1
    """The largest learning rate; each layer's is this times its `lr_mult`."""
    warmup_steps: int = 0
    """Steps of linear rise from zero; not for `one-cycle`, which has its own."""
    rise: float = 0.3
    """Share of the steps in which `one-cycle` rises."""


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
    log_images: bool = False
    """Write images of the first training batch, as augmented, to TensorBoard."""
    log_histograms: int = 0
    """Steps between histograms of the weights in TensorBoard; 0: none."""


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

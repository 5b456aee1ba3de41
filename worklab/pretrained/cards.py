"""Cards: what a weights file expects and answers, in a small JSON file beside it."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from worklab.files import write_json
from worklab.images import decode_image
from worklab.layouts import Preprocessing
from worklab.network import Network

FILE_MODULE = "worklab_network_"
"""How the modules of network files begin, so that no real module is hidden."""

# On any processor, relative to the largest number. Wrong preprocessing or padding
# moves the answers of a float32 network by a percent and more.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True)
class Card:
    """What is beside a weights file as `<its name without suffix>.json`.

    Attributes:
        sha256: Of the weights file.
        network: The class it was saved from, with its module.
        layout: Form of a canonical network; None: it has no forms.
        class_names: Names in label order.
        preprocessing: Of the images.
        probe: A PNG image, base64, of the size the network saw.
        features: What its last layer sees of the probe.
        logits: Its answer to the probe.
        about: Whatever a person should know: data, accuracy, licence.
    """

    sha256: str
    network: str
    layout: str | None
    class_names: list[str]
    preprocessing: Preprocessing
    probe: str
    features: list[float]
    logits: list[float]
    about: dict[str, str]

    def image(self) -> np.ndarray:
        """Return the probe, uint8 (height, width, channels)."""
        data = base64.b64decode(self.probe)
        is_grey = data[25:26] == b"\0"  # PNG's colour type, RFC 2083, section 4.1.1
        return decode_image(data, 1 if is_grey else 3, "the probe of the card")


def card_path(weights: Path) -> Path:
    """Return where the card of a weights file is, or would be."""
    weights = Path(weights)
    return weights.parent / f"{weights.stem}.json"


def read_card(weights: Path) -> Card | None:
    """Return the card of a weights file; None where there is none.

    Raises:
        ValueError: If there is one that is no card, or it is another file's.
    """
    path = card_path(weights)
    if not path.is_file() or not Path(weights).is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "sha256" not in content:
            return None  # some other JSON that has the name by chance
        preprocessing = content.pop("preprocessing")
        for name in ("mean", "std"):
            preprocessing[name] = tuple(preprocessing[name])
        card = Card(preprocessing=Preprocessing(**preprocessing), **content)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`{path}` is not a whole card of `{weights}`; mend it, or take it away. "
            f"Received: {error}"
        ) from error
    found = _digest(Path(weights))
    if card.sha256 != found:
        raise ValueError(
            f"`{weights}` is not the file that its card `{path}` describes: one of "
            "them was changed or is not whole. Get both again, or take the card away. "
            f"Received: sha256={found}, the card has {card.sha256}"
        )
    return card


def check_place(weights: Path) -> None:
    """Refuse a place for a weights file whose card would replace another file.

    Raises:
        ValueError: If something else has the card's name.
    """
    path = card_path(weights)
    if not path.exists():
        return
    try:
        is_card = "sha256" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        is_card = False
    if not is_card:
        raise ValueError(
            f"the card of `{weights}` would replace `{path}`, which is something else. "
            f"Give the weights another name. Received: `{weights}`"
        )


def write_card(
    weights: Path,
    network: Network,
    *,
    network_name: str,
    class_names: Sequence[str],
    crop_fraction: float = 1.0,
    about: dict[str, str] | None = None,
) -> Path:
    """Write the card of a weights file.

    Args:
        weights: The file, already written.
        network: With the values of the file.
        network_name: Its class, as `module:Class`.
        class_names: Names in label order.
        crop_fraction: Share of the shorter side that a test image showed.
        about: Whatever a person should know.

    Returns:
        Path of the card.
    """
    image = _probe_image(network.image_shape)
    _, png = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    features, logits = _answers(network, image)
    card = Card(
        sha256=_digest(Path(weights)),
        network=network_name,
        layout=None if network.layout is None else network.layout.name,
        class_names=list(class_names),
        preprocessing=Preprocessing(
            mean=network.mean,
            std=network.std,
            channel_order=network.channel_order,
            image_size=network.image_shape[0],
            crop_fraction=crop_fraction,
        ),
        probe=base64.b64encode(png.tobytes()).decode(),
        features=[round(float(value), 6) for value in features],
        logits=[round(float(value), 6) for value in logits],
        about=about or {},
    )
    write_json(card_path(weights), dataclasses.asdict(card))
    return card_path(weights)


def check_preprocessing(card: Card, network: Network, weights: Path) -> None:
    """Refuse a network that feeds images otherwise than the weights expect.

    Raises:
        ValueError: With what to write in the network.
    """
    expected = card.preprocessing
    found = dataclasses.replace(
        expected,
        mean=network.mean,
        std=network.std,
        channel_order=network.channel_order,
    )
    if not _equal(found, expected):
        raise ValueError(
            f"`{type(network).__name__}` feeds images otherwise than `{weights}` was "
            f"trained with. Write into the class: `mean, std = {expected.mean}, "
            f'{expected.std}` and `channel_order = "{expected.channel_order}"`, '
            "train from scratch (`--pretrained None`), or delete the card beside the "
            "weights. "
            f"Received: mean={network.mean}, std={network.std}, "
            f"channel_order={network.channel_order!r}"
        )


def check_answers(card: Card, network: Network, weights: Path) -> None:
    """Refuse a network that answers the card's probe otherwise than the weights did.

    Only a network of the card's own class, for images of the card's size, can be
    compared; what its last layer sees is, as the layer itself may be fresh.

    Raises:
        ValueError: If it sees something else.
    """
    image = card.image()
    if not _is_of_class(network, card.network) or network.image_shape != image.shape:
        return
    found, _ = _answers(network, image)
    expected = np.array(card.features)
    if found.shape != expected.shape:
        return
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not error < _TOLERANCES[_last_layer(network).compute_dtype]:
        raise ValueError(
            f"with `{weights}`, `{type(network).__name__}` does not see in the card's "
            "probe image what the weights saw when they were saved: its padding, its "
            "epsilon or its layers have changed. Give `restore=False` to layers that "
            "are meant to differ, or take the card away. Received: features that "
            f"differ by {error:.1%} of the largest"
        )


def _answers(network: Network, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    last = _last_layer(network)
    both = keras.Model(network.model.input, [last.input, network.model.output])
    inputs: dict[str, Any] = {"images": image[None]}
    if network.num_features:
        inputs["features"] = np.zeros((1, network.num_features), np.float32)
    features, logits = both(inputs, training=False)
    return np.ravel(np.asarray(features, np.float32)), np.ravel(logits)


def _probe_image(shape: tuple[int, int, int]) -> np.ndarray:
    """Return a pattern with slopes and edges in every channel, the same each time."""
    height, width, channels = shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin((3 + n) * x + 2 * n * y) * np.cos(5 * y - n * x) for n in range(3)]
    pattern = np.stack(waves, axis=-1)[..., :channels]
    edges = (np.floor(4 * x) + np.floor(4 * y)) % 2
    values = 127.5 + 90 * pattern + 35 * (edges[..., None] - 0.5)
    return values.astype(np.uint8)


def _last_layer(network: Network) -> Any:
    """Return the layer with variables that is nearest to the output."""
    return [layer for layer in network.model.layers if layer.variables][-1]


def is_of_file(*modules: str) -> bool:
    """Return whether all these modules were loaded from files of a person's own."""
    return all(module.startswith(FILE_MODULE) for module in modules)


def _is_of_class(network: Network, name: str) -> bool:
    module, _, class_name = name.partition(":")
    return any(
        base.__name__ == class_name
        # A file of a person's own has a module's name that nobody else has.
        and (base.__module__ == module or is_of_file(base.__module__, module))
        for base in type(network).__mro__
    )


def _equal(one: Preprocessing, other: Preprocessing) -> bool:
    return one.channel_order == other.channel_order and all(
        np.allclose(
            np.broadcast_to(getattr(one, name), 3),
            np.broadcast_to(getattr(other, name), 3),
            rtol=1e-4,
        )
        for name in ("mean", "std")
    )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

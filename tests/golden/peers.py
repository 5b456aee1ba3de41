"""PyTorch's models with the values of `values.py`. Needs torch, torchvision, timm."""

import importlib
from typing import Any

import numpy as np
import torch

from tests.golden.values import make_value

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)


def import_torchvision() -> Any:
    """Import torchvision, with or without its compiled operators.

    They are built for one build of PyTorch, often one for GPUs, and load with no
    other. The models need none of them, but the import wants them declared.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:  # "operator torchvision::nms does not exist"
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        import_torchvision.library = library  # lives as long as the process
        return importlib.import_module("torchvision")


def make_peer(
    library: str, name: str, *, gain: float = 1.0, **settings: Any
) -> torch.nn.Module:
    """Return a model of torchvision or timm, filled, ready to answer."""
    models = import_torchvision().models
    if library == "timm":
        create = importlib.import_module("timm").create_model
        model = create(name, **settings)
    else:
        model = getattr(models, name)(**settings)
    state = {
        key: torch.from_numpy(make_value(key, tuple(value.shape), gain))
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


def answer(
    model: torch.nn.Module,
    images: np.ndarray,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET,
) -> np.ndarray:
    """Return the logits for uint8 images, after the library's preprocessing.

    From here on the model reckons in float64, so that what differs from its answers
    is our own rounding.
    """
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    with torch.no_grad():
        return model.double()((inputs - mean) / std).numpy()

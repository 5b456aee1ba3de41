"""Any network of `keras.applications` under a new last layer.

Each is named as Keras names it: `--network worklab.networks.keras_backbone:ResNet50V2`.
"""

import dataclasses
import importlib
from typing import Any

import keras
import numpy as np

from worklab.adoption import Rules
from worklab.layouts import Layout, Preprocessing
from worklab.network import Network

# Layers to which Keras gives no names of their own, in some of the networks.
_COUNTED = "conv2d|batch_normalization|layer_normalization|normalization"
# What stands above the part that is taken: `include_top=True`.
_TOPS = r"^(predictions|\w+_head_dense)/"

# ImageNet's, of pixels 0..1, as Keras's EfficientNet has them.
_MEAN = np.array([0.485, 0.456, 0.406])
_STD = np.array([0.229, 0.224, 0.225])
# The published EfficientNets have the deviation where their first layer wants the
# variance, and Keras divides by its root once more if it loads these weights itself:
# (x / 255 - mean) / sqrt(std) / sqrt(std). The second division, done beforehand:
_EFFICIENT = Preprocessing(
    tuple((255.0 * _MEAN * (1.0 - np.sqrt(_STD))).tolist()),
    tuple(np.sqrt(_STD).tolist()),
)


class KerasBackbone(Network):
    """A network of `keras.applications` up to its pooling, dropout, and new logits.

    Weights that Keras saved (`.weights.h5`, `.h5`, `.keras`, with the top or without)
    restore by Keras's names of the layers. Images are fed as Keras's own
    `preprocess_input` of that network does; networks that do so inside get 0..255.

    Scopes: Keras's names of the layers, those of nested models after the model's and
    a slash, and `logits`, which is fresh. Layers that Keras only counts are counted
    from zero in each network: `conv2d`, `conv2d_1`, ...

    Attributes:
        application: Name in `keras.applications`.
        dropout_rate: Of the pooled features.
        lr_mults: Pairs of a pattern of layers' names and a multiplier; the first that
            fits holds, e.g. `(("top_.*", 0.1), (".*", 0.0))`.

    Example:
        >>> class Mine(KerasBackbone):
        ...     application = "MobileNetV2"
        ...     lr_mults = (("block_1[3-6]_.*|Conv_1.*", 0.1), (".*", 0.0))

    Source: Keras 3 makes the layers; the layers' settings are therefore Keras's.
    """

    application: str
    dropout_rate: float = 0.2
    lr_mults: Rules = ()

    def __init_subclass__(cls, **settings: Any) -> None:
        """Find out how the application wants its images, when a class names one."""
        super().__init_subclass__(**settings)
        if "application" in vars(cls):
            cls.layouts = _layouts(cls.application)

    def _construct(self, images: Any) -> Any:
        make = getattr(keras.applications, self.application)
        # With its pooling, as ConvNeXt normalises once more after that.
        model = make(
            weights=None,
            include_top=False,
            input_shape=self.image_shape,
            pooling="avg",
        )
        x = self.adopt(model, images, lr_mult=self.lr_mults)
        x = self.dropout(x, self.dropout_rate)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


# === How the images go in, and what the file calls the layers ===


def probe_preprocessing(application: str) -> Preprocessing:
    """Return what Keras does to the images of an application, by trying it out.

    Each channel becomes (pixel - mean) / std, so that two images tell; a third, all
    red, tells the order.

    Raises:
        ValueError: If there is no such application.
    """
    make = getattr(keras.applications, application, None)
    if make is None:
        names = [name for name in dir(keras.applications) if name[0].isupper()]
        raise ValueError(
            f"`application` must be one of `keras.applications`: {', '.join(names)}. "
            f"Received: application={application!r}"
        )
    # The module that has the network has the preparation of its images, too.
    prepare = importlib.import_module(make.__module__).preprocess_input
    pixels = np.zeros((3, 1, 1, 3))
    pixels[1], pixels[2, ..., 0] = 255.0, 255.0
    black, white, red = prepare(pixels).reshape(3, 3)
    is_rgb = red[0] != black[0]
    if not is_rgb:
        black, white = black[::-1], white[::-1]
    std = 255.0 / (white - black)
    mean = -black * std
    return Preprocessing(_numbers(mean), _numbers(std), "RGB" if is_rgb else "BGR")


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    """Return one number where all channels have the same, as grey images may do."""
    rounded = [float(value) for value in values.round(6)]
    return tuple(rounded[:1] if len(set(rounded)) == 1 else rounded)


def _layouts(application: str) -> tuple[Layout, ...]:
    """Return the layouts of an application's files, that of Keras's own files first."""
    keras_layout = Layout(
        "keras",
        rf"({_COUNTED})(_\d+)?/\w+",
        str,  # each layer is called as here
        probe_preprocessing(application),
        epsilon=None,
        ignored=_TOPS,
        counted=_COUNTED,
    )
    if application.startswith("EfficientNetB"):
        # As they are made with `weights="imagenet"`, and as they are without.
        published = dataclasses.replace(keras_layout, preprocessing=_EFFICIENT)
        return published, dataclasses.replace(keras_layout, name="keras-raw")
    if application.startswith("ConvNeXt"):
        size = application.removeprefix("ConvNeXt").lower()
        head = f"convnext_{size}_head_layernorm"
        with_top = dataclasses.replace(
            keras_layout,
            name="keras-top",
            sign=f"{head}/gamma",
            rename=lambda layer: head if layer == "layer_normalization" else layer,
        )
        return keras_layout, with_top
    return (keras_layout,)


# === The applications ===


def _backbone(application: str) -> type[KerasBackbone]:
    members = {
        "__doc__": f"`keras.applications.{application}`; see `KerasBackbone`.",
        "__module__": __name__,
        "application": application,
    }
    return type(application, (KerasBackbone,), members)


ConvNeXtTiny = _backbone("ConvNeXtTiny")
ConvNeXtSmall = _backbone("ConvNeXtSmall")
ConvNeXtBase = _backbone("ConvNeXtBase")
ConvNeXtLarge = _backbone("ConvNeXtLarge")
ConvNeXtXLarge = _backbone("ConvNeXtXLarge")
DenseNet121 = _backbone("DenseNet121")
DenseNet169 = _backbone("DenseNet169")
DenseNet201 = _backbone("DenseNet201")
EfficientNetB0 = _backbone("EfficientNetB0")
EfficientNetB1 = _backbone("EfficientNetB1")
EfficientNetB2 = _backbone("EfficientNetB2")
EfficientNetB3 = _backbone("EfficientNetB3")
EfficientNetB4 = _backbone("EfficientNetB4")
EfficientNetB5 = _backbone("EfficientNetB5")
EfficientNetB6 = _backbone("EfficientNetB6")
EfficientNetB7 = _backbone("EfficientNetB7")
EfficientNetV2B0 = _backbone("EfficientNetV2B0")
EfficientNetV2B1 = _backbone("EfficientNetV2B1")
EfficientNetV2B2 = _backbone("EfficientNetV2B2")
EfficientNetV2B3 = _backbone("EfficientNetV2B3")
EfficientNetV2S = _backbone("EfficientNetV2S")
EfficientNetV2M = _backbone("EfficientNetV2M")
EfficientNetV2L = _backbone("EfficientNetV2L")
InceptionResNetV2 = _backbone("InceptionResNetV2")
InceptionV3 = _backbone("InceptionV3")
MobileNet = _backbone("MobileNet")
MobileNetV2 = _backbone("MobileNetV2")
MobileNetV3Small = _backbone("MobileNetV3Small")
MobileNetV3Large = _backbone("MobileNetV3Large")
NASNetMobile = _backbone("NASNetMobile")
NASNetLarge = _backbone("NASNetLarge")
ResNet50 = _backbone("ResNet50")
ResNet101 = _backbone("ResNet101")
ResNet152 = _backbone("ResNet152")
ResNet50V2 = _backbone("ResNet50V2")
ResNet101V2 = _backbone("ResNet101V2")
ResNet152V2 = _backbone("ResNet152V2")
VGG16 = _backbone("VGG16")
VGG19 = _backbone("VGG19")
Xception = _backbone("Xception")

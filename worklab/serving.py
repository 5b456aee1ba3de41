"""The form in which a network leaves: a Keras model, and a SavedModel with signatures.

Nothing here needs worklab to be used later.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from worklab.layers import (
    AdaptedNormalization,
    BatchNormalization,
    GroupedConv2D,
    PointwiseConv2D,
)
from worklab.network import Network

# As in `worklab.images`: below it, bilinear interpolation would skip pixels.
_MINIMUM_BILINEAR_SCALE = 0.5


def plain_model(network: Network) -> Any:
    """Return a copy of a network's model that is made of Keras's own layers alone.

    Those of `worklab.layers` that only compute otherwise become Keras's; they give the
    same in inference. Layers that the network itself brings stay.

    Returns:
        A functional model: the network's inputs in, float32 logits out.
    """
    copy = keras.models.clone_model(network.model, clone_function=_plain_layer)
    for layer in network.model.layers:
        if not isinstance(layer, AdaptedNormalization):
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def answering(model: Any, *, named: bool = False) -> Any:
    """Return a model that gives probabilities (batch, num_classes).

    Args:
        model: As `plain_model` returns it.
        named: Whether to return them by the name `probabilities`.
    """
    inputs = model.input if len(model.inputs) > 1 else model.inputs[0]
    outputs = keras.layers.Softmax(name="probabilities")(model.output)
    if named:
        outputs = {"probabilities": outputs}
    return keras.Model(inputs, outputs, name=model.name)


def write_saved_model(
    model: Any,
    path: Path,
    class_names: Sequence[str],
    crop_fraction: float,
    stretch: bool = False,
) -> None:
    """Write a SavedModel with the signatures `serving_default` and `serve_bytes`.

    `serving_default` takes `images`, uint8 (batch, height, width, channels);
    `serve_bytes` takes `encoded`, the bytes of image files of any size, string
    (batch,). Both take `features` where the network does. Both return `probabilities`,
    `class_name` of the most probable (batch,), and `class_names` in label order.

    Args:
        model: As `answering` returns it.
        path: Folder to make.
        class_names: Names in label order.
        crop_fraction: As the Reader had it.
        stretch: As the Reader had it.
    """
    specs = {
        tensor.name: tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, tensor.name)
        for tensor in model.inputs
    }
    height, width, channels = specs["images"].shape[1:]
    names = list(class_names)
    module = tf.Module()
    module.kept = [variable.value for variable in model.variables]

    def answer(inputs: dict[str, Any]) -> dict[str, Any]:
        given = inputs if len(inputs) > 1 else inputs["images"]
        probabilities = model(given, training=False)
        best = tf.argmax(probabilities, axis=-1)
        return {
            "probabilities": probabilities,
            "class_name": tf.gather(tf.constant(names), best),
            "class_names": tf.constant(names),
        }

    def serve(**inputs: Any) -> dict[str, Any]:
        return answer(inputs)

    def serve_bytes(encoded: Any, **inputs: Any) -> dict[str, Any]:
        images = tf.map_fn(
            lambda data: decode_centre(
                data, (height, width), channels, crop_fraction, stretch
            ),
            encoded,
            fn_output_signature=tf.TensorSpec((height, width, channels), tf.uint8),
        )
        return answer({"images": images, **inputs})

    others = {name: spec for name, spec in specs.items() if name != "images"}
    encoded = tf.TensorSpec((None,), tf.string, "encoded")
    signatures = {
        "serving_default": tf.function(serve).get_concrete_function(**specs),
        "serve_bytes": tf.function(serve_bytes).get_concrete_function(
            encoded=encoded, **others
        ),
    }
    tf.saved_model.save(module, str(path), signatures=signatures)


def decode_centre(
    data: Any,
    size: tuple[int, int],
    channels: int,
    crop_fraction: float,
    stretch: bool = False,
) -> Any:
    """Decode an image file and cut its centre, in TensorFlow, as a Reader does.

    It follows `worklab.images.warp`: halve while the scale is below a half, then one
    bilinear resize. Pixels differ from OpenCV's by rounding, 1 of 255 and seldom 3,
    but for the outermost rows of an image that is enlarged.

    Args:
        data: Bytes of a JPEG or PNG file, string (). EXIF orientation is ignored.
        size: Height and width of the result.
        channels: 3 for RGB, 1 for grey.
        crop_fraction: Share of the shorter side that is seen.
        stretch: Scale height and width apart, so that this much of both is seen.

    Returns:
        uint8 (height, width, channels).
    """
    image = tf.cond(
        tf.io.is_jpeg(data),
        # As exact as OpenCV; `decode_image` would choose the fast method.
        lambda: tf.io.decode_jpeg(data, channels, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, channels, expand_animations=False),
    )
    image = tf.cast(tf.ensure_shape(image, (None, None, channels)), tf.float32)
    scale = tf.constant(size, tf.float32) / _size(image) / crop_fraction
    if not stretch:
        scale = tf.fill((2,), tf.reduce_max(scale))
    image, scale, centre = tf.while_loop(
        lambda image, scale, centre: tf.logical_and(
            tf.reduce_max(scale) < _MINIMUM_BILINEAR_SCALE,
            tf.reduce_min(_size(image)) > 1,
        ),
        lambda image, scale, centre: (_halve(image), 2 * scale, (centre - 0.5) / 2),
        (image, scale, (_size(image) - 1) / 2),
        shape_invariants=(
            tf.TensorShape((None, None, channels)),
            tf.TensorShape((2,)),
            tf.TensorShape((2,)),
        ),
    )
    offset = centre - (tf.constant(size, tf.float32) - 1) / 2 / scale
    whole = tf.reduce_all(scale == 1.0)
    offset = tf.where(whole, tf.floor(offset), offset)  # no blur by half a pixel
    # Maps a pixel (x, y) of the result to its place in the image.
    zero = tf.zeros(())
    inverse = 1 / scale
    matrix = [inverse[1], zero, offset[1], zero, inverse[0], offset[0], zero, zero]
    image = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack(matrix)[None],
        output_shape=tf.constant(size),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]
    return tf.cast(tf.clip_by_value(tf.floor(image + 0.5), 0, 255), tf.uint8)


def _plain_layer(layer: Any) -> Any:
    kind, config = type(layer), layer.get_config()
    if kind is BatchNormalization:
        kind = keras.layers.BatchNormalization
    elif kind in (GroupedConv2D, PointwiseConv2D):
        kind = keras.layers.Conv2D
    elif kind is AdaptedNormalization:
        mean, variance, _ = layer.get_weights()
        kind = keras.layers.Normalization
        config |= {"mean": mean.tolist(), "variance": variance.tolist()}
    return kind.from_config(config)


def _size(image: Any) -> Any:
    return tf.cast(tf.shape(image)[:2], tf.float32)


def _halve(image: Any) -> Any:
    return tf.floor(tf.nn.avg_pool2d(image[None], 2, 2, "VALID")[0] + 0.5)

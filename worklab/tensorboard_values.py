"""Values of TensorBoard's summaries, made without TensorFlow."""

import time
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
)
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from worklab.curves import ThresholdCounts

_NUM_BUCKETS = 30

_SCALAR = scalar_metadata.create_summary_metadata(None, None)

# What OpenCV has its channels in the order of, by their number.
_TO_OPENCV = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}


def scalar(tag: str, number: float) -> Any:
    """Return a point of a curve."""
    # TensorBoard's own helper takes five times as long, and there are many.
    return Summary.Value(
        tag=tag,
        metadata=_SCALAR,
        tensor=TensorProto(
            dtype=DT_FLOAT, tensor_shape=TensorShapeProto(), float_val=[number]
        ),
    )


def text(tag: str, markdown: str) -> Any:
    """Return a text in Markdown."""
    return text_pb(tag, markdown).value[0]


def images(tag: str, batch: np.ndarray) -> Any:
    """Return images.

    Args:
        tag: Their name.
        batch: uint8 (batch, height, width, channels), with 1, 3 (RGB) or 4 (RGBA).

    Raises:
        ValueError: If they have another type or shape.
    """
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"images `{tag}` must be uint8 of shape (batch, height, width, channels), "
            "with 1, 3 or 4 channels. "
            f"Received: {batch.dtype} of shape {batch.shape}"
        )
    _, height, width, _ = batch.shape
    sizes = [str(width).encode(), str(height).encode()]
    return Summary.Value(
        tag=tag,
        metadata=image_metadata.create_summary_metadata(None, None),
        tensor=make_tensor_proto(sizes + [_encode_png(image) for image in batch]),
    )


def histogram(tag: str, array: np.ndarray) -> Any:
    """Return how the finite values of an array are distributed."""
    values = np.asarray(array, np.float64).ravel()
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if _can_be_divided(low, high):
        counts, edges = np.histogram(values, _NUM_BUCKETS)
    else:  # NumPy would give one value a width, or refuse
        edges = np.full(_NUM_BUCKETS + 1, low)
        edges[-1] = high
        counts = np.zeros(_NUM_BUCKETS)
        counts[-1] = len(values)
    return Summary.Value(
        tag=tag,
        metadata=histogram_metadata.create_summary_metadata(None, None),
        tensor=make_tensor_proto(np.stack([edges[:-1], edges[1:], counts], axis=1)),
    )


def precision_recall(tag: str, counts: ThresholdCounts) -> Any:
    """Return a precision-recall curve."""
    called = counts.true_positives + counts.false_positives
    of_class = counts.true_positives + counts.false_negatives
    rows = [
        counts.true_positives,
        counts.false_positives,
        counts.true_negatives,
        counts.false_negatives,
        counts.true_positives / np.maximum(called, 1),
        counts.true_positives / np.maximum(of_class, 1),
    ]
    return Summary.Value(
        tag=tag,
        metadata=pr_curve_metadata.create_summary_metadata(None, None, len(called)),
        tensor=make_tensor_proto(np.array(rows, np.float32)),
    )


def session_start(run: str, hparams: Mapping[str, bool | float | str]) -> Any:
    """Return the hyper-parameters of a run, for the HParams plugin.

    Args:
        run: What tells it from others with the same hyper-parameters.
        hparams: By name.
    """
    return hparams_pb(dict(hparams), trial_id=run).value[0]


def session_end() -> Any:
    """Return that a run is complete, for the HParams plugin."""
    info = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    return Summary.Value(
        tag=hparams_metadata.SESSION_END_INFO_TAG,
        metadata=hparams_metadata.create_summary_metadata(
            HParamsPluginData(session_end_info=info)
        ),
        tensor=hparams_metadata.NULL_TENSOR,
    )


def _can_be_divided(low: float, high: float) -> bool:
    """Return whether float64 has room for the edges of buckets between two values."""
    if low == high or not np.isfinite(float(high) - float(low)):
        return False
    return bool(np.all(np.diff(np.linspace(low, high, _NUM_BUCKETS + 1)) > 0))


def _encode_png(image: np.ndarray) -> bytes:
    to_opencv = _TO_OPENCV.get(image.shape[-1])
    if to_opencv is not None:
        image = cv2.cvtColor(image, to_opencv)
    return bytes(cv2.imencode(".png", image)[1])

"""`tf.train.Example` without TensorFlow, and the keys that tf-slim gives an image."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_Field = descriptor_pb2.FieldDescriptorProto
_INT64, _FLOAT, _BYTES = _Field.TYPE_INT64, _Field.TYPE_FLOAT, _Field.TYPE_BYTES
_STRING, _MESSAGE = _Field.TYPE_STRING, _Field.TYPE_MESSAGE

Values = Sequence[int] | Sequence[float] | Sequence[bytes]


@dataclasses.dataclass(frozen=True)
class ImageExample:
    """What a record says of an image.

    Attributes:
        encoded: Content of an image file.
        label: Number of the class as the record has it, or its name.
        text: Name of the class; empty where the record has none.
        filename: Of the image; empty where the record has none.
        features: Numbers that go with it; empty where the record has none.
        weight: What it counts; NaN where the record does not say.
    """

    encoded: bytes
    label: int | str
    text: str = ""
    filename: str = ""
    features: tuple[float, ...] = ()
    weight: float = math.nan


def parse_image(data: bytes) -> ImageExample:
    """Return what a serialised Example says of an image.

    The keys are tf-slim's, or `image` and `label`, as in TensorFlow Datasets.

    Raises:
        ValueError: If it is no Example, or has no image or no class.
    """
    try:
        features = _Example.FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(
            "is not a `tf.train.Example`. Give records that hold Examples, or pack "
            f"the images by `python -m worklab pack`. Received: {data[:16]!r}"
        ) from error

    def text(key: str) -> str:
        values = features[key].bytes_list.value if key in features else ()
        return values[0].decode("utf-8", "replace") if values else ""

    encoded, label, key = b"", None, ""
    for key in ("image/encoded", "image"):
        if key in features and features[key].bytes_list.value:
            encoded = features[key].bytes_list.value[0]
            break
    for key in ("image/class/label", "label"):
        if key in features and features[key].int64_list.value:
            label = features[key].int64_list.value[0]
            break
    name = text("image/class/text") or text("label")
    if not encoded or (label is None and not name):
        raise ValueError(
            "has no image or no class: expected `image/encoded` and "
            "`image/class/label` (or `image` and `label`). Pack the images by `python "
            f"-m worklab pack`. Received: {sorted(features)}"
        )
    numbers = features["features"].float_list.value if "features" in features else ()
    return ImageExample(
        encoded,
        name if label is None else label,
        name,
        text("image/filename"),
        tuple(numbers),
        float(text("weight") or "nan"),  # text keeps all digits, a float half of them
    )


def make_example(values: Mapping[str, Values]) -> bytes:
    """Return a serialised Example; the same values give the same bytes.

    Args:
        values: Lists of int, float or bytes by key; one that is empty has no type,
            as in TensorFlow.
    """
    example = _Example()
    for key, each in values.items():
        feature = example.features.feature[key]
        first = each[0] if len(each) else None
        if isinstance(first, bytes):
            feature.bytes_list.value.extend(each)
        elif isinstance(first, float | np.floating):
            feature.float_list.value.extend(each)
        elif first is not None:
            feature.int64_list.value.extend(each)
    return example.SerializeToString(deterministic=True)


def _make_class() -> Any:
    # TensorFlow's own message comes with TensorFlow, which takes three seconds to
    # import. These are the fields of tensorflow/core/example/{example,feature}.proto.
    file = descriptor_pb2.FileDescriptorProto(
        name="worklab/example.proto", package="worklab", syntax="proto3"
    )

    def message(name: str, parent: Any = None) -> Any:
        made = (file.message_type if parent is None else parent.nested_type).add()
        made.name = name
        return made

    def field(parent: Any, name: str, number: int, kind: Any, of: str = "") -> Any:
        made = parent.field.add(name=name, number=number, type=kind)
        made.label = _Field.LABEL_OPTIONAL
        if of:
            made.type_name = f".worklab.{of}"
        return made

    lists = (("BytesList", _BYTES), ("FloatList", _FLOAT), ("Int64List", _INT64))
    for name, kind in lists:
        field(message(name), "value", 1, kind).label = _Field.LABEL_REPEATED
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, _) in enumerate(lists, 1):
        short = name.removesuffix("List").lower() + "_list"
        field(feature, short, number, _MESSAGE, name).oneof_index = 0
    features = message("Features")
    entry = message("FeatureEntry", features)
    entry.options.map_entry = True
    field(entry, "key", 1, _STRING)
    field(entry, "value", 2, _MESSAGE, "Feature")
    every = field(features, "feature", 1, _MESSAGE, "Features.FeatureEntry")
    every.label = _Field.LABEL_REPEATED
    field(message("Example"), "features", 1, _MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("worklab.Example")
    )


_Example = _make_class()

"""Pretrained weights: files as {name: array}, the mapping, the import report."""

from worklab.pretrained.files import open_weights, read_weights
from worklab.pretrained.mapping import import_weights
from worklab.pretrained.recognition import recognise_layout
from worklab.pretrained.report import ImportReport, ImportRow
from worklab.pretrained.weights_file import WeightsFile

__all__ = [
    "ImportReport",
    "ImportRow",
    "WeightsFile",
    "import_weights",
    "open_weights",
    "read_weights",
    "recognise_layout",
]

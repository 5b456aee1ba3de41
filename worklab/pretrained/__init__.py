"""Pretrained weights: files as {name: array}, the mapping, the import report."""

from worklab.pretrained.files import read_weights
from worklab.pretrained.mapping import ImportReport, ImportRow, import_weights

__all__ = ["ImportReport", "ImportRow", "import_weights", "read_weights"]

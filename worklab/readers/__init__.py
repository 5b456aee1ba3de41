"""Concrete Readers, one file each."""

from worklab.readers.arrays import ArrayReader
from worklab.readers.json_list import JsonListReader
from worklab.readers.mixed import MixedReader

__all__ = ["ArrayReader", "JsonListReader", "MixedReader"]

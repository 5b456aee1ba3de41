"""Concrete Readers, one file each."""

from worklab.readers.arrays import ArrayReader
from worklab.readers.json_list import JsonListReader

__all__ = ["ArrayReader", "JsonListReader"]

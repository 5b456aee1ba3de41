"""Concrete Readers, one file each, and what picks one for a path."""

from worklab.readers.array_record import ArrayRecordReader
from worklab.readers.arrays import ArrayReader, NpzReader
from worklab.readers.encoded import EncodedReader
from worklab.readers.files import FileReader
from worklab.readers.folder import FolderReader
from worklab.readers.hdf5 import Hdf5Reader
from worklab.readers.idx import IdxReader
from worklab.readers.images import ImageReader
from worklab.readers.json_list import JsonListReader
from worklab.readers.mixed import MixedReader
from worklab.readers.opening import digest_source, find_class_names, open_reader
from worklab.readers.tar import TarReader
from worklab.readers.tfrecord import TFRecordReader

__all__ = [
    "ArrayReader",
    "ArrayRecordReader",
    "EncodedReader",
    "FileReader",
    "FolderReader",
    "Hdf5Reader",
    "IdxReader",
    "ImageReader",
    "JsonListReader",
    "MixedReader",
    "NpzReader",
    "TFRecordReader",
    "TarReader",
    "digest_source",
    "find_class_names",
    "open_reader",
]

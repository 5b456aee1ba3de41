"""`.keras` archives: a model's config and its weights as HDF5."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py

from worklab.pretrained.formats.keras_config import find_layers
from worklab.pretrained.formats.keras_hdf5 import read_entries
from worklab.pretrained.formats.zip_members import check_sums, open_member
from worklab.pretrained.weights_file import WeightsFile, refusing

FORMAT = ".keras archive"
CONFIG = "config.json"
WEIGHTS = "model.weights.h5"


def open_keras(
    path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]
) -> WeightsFile:
    """Open an archive whose members `zip_members.check_members` has found sound."""
    with refusing(path, FORMAT):
        layers = find_layers(json.loads(archive.read(members[CONFIG])))
        weights = open_member(path, archive, members[WEIGHTS])
        file = h5py.File(weights, "r")
        entries = read_entries(file, weights, layers, members[WEIGHTS].file_size)
        entries = check_sums(path, [members[WEIGHTS]], entries)

    def close() -> None:
        file.close()
        weights.close()
        archive.close()

    return WeightsFile(path, FORMAT, entries, close=close)

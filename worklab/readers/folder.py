"""FolderReader: a folder that holds a folder of images for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worklab.labels import Labels
from worklab.list_making import find_classes
from worklab.lists import Record
from worklab.readers.files import FileReader
from worklab.readers.json_list import refuse_offset


class FolderReader(FileReader):
    """Reads the images in a folder of class folders, sorted by class and name.

    Args:
        path: The folder of one split, e.g. `data/train`.
        class_names: Names in label order, pinned for all splits of a run.
        labels_offset: Must be 0, as the classes have names.
        **settings: As for `Reader`.

    Raises:
        ValueError: If there are no class folders, one is empty or of an unknown class,
            or images lie beside them.
    """

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        *,
        labels_offset: int = 0,
        **settings: Any,
    ) -> None:
        refuse_offset(path, labels_offset)
        classes = _find_classes(Path(path))
        counts = [len(images) for images in classes.values()]
        labels = Labels(np.repeat(np.array(list(classes)), counts))
        indices = labels.indices(class_names, lambda _: f"`{path}`")
        images = [image for images in classes.values() for image in images]
        records = [
            Record(image.relative_to(path).as_posix(), int(label))
            for image, label in zip(images, indices, strict=True)
        ]
        super().__init__(Path(path), Path(path), records, class_names, **settings)

    @classmethod
    def find_class_names(cls, path: Path, *, labels_offset: int = 0) -> list[str]:
        """Return the names of the class folders, sorted."""
        refuse_offset(path, labels_offset)
        return sorted(_find_classes(Path(path)))


def _find_classes(path: Path) -> dict[str, list[Path]]:
    classes = path / "train"
    if classes.is_dir() and any(each.is_dir() for each in classes.iterdir()):
        raise ValueError(
            f"`{path}` has a folder `train` of class folders: it is a folder of "
            "splits, not of classes. Give one of the splits, or make lists of them: "
            f"`python -m worklab lists {path}`. Received: {path}"
        )
    return find_classes(path)

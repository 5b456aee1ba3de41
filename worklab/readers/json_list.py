"""JsonListReader: image files named in a list, JSON or CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worklab import lists
from worklab.lists import Record, read_list
from worklab.readers.files import FileReader


class JsonListReader(FileReader):
    """Reads the image files of a list; see `worklab.lists` for its forms.

    Args:
        list_path: The list, JSON or CSV; paths in it are relative to its folder.
            Records may carry `features`, a list of numbers, equally long in each, and
            `weight`, a number above 0; where some have one, that of the others is 1.
        class_names: Names in label order, pinned for all splits of a run.
        labels_offset: Must be 0; the labels of a list are those that it has.
        **settings: As for `Reader`.

    Raises:
        ValueError: If the list is malformed, a class is unknown, or an image that is
            read is missing or broken; each names the file.

    Example:
        >>> import tempfile, cv2
        >>> folder = Path(tempfile.mkdtemp())
        >>> cv2.imwrite(str(folder / "a.png"), np.zeros((8, 8, 3), np.uint8))
        True
        >>> _ = (folder / "train.json").write_text('{"a.png": "cat"}')
        >>> len(JsonListReader(folder / "train.json", ["cat", "dog"]))
        1
    """

    def __init__(
        self,
        list_path: Path,
        class_names: Sequence[str],
        *,
        labels_offset: int = 0,
        **settings: Any,
    ) -> None:
        refuse_offset(list_path, labels_offset)
        records = read_list(Path(list_path), class_names)
        super().__init__(
            Path(list_path),
            Path(list_path).parent,
            records,
            class_names,
            features=_read_features(Path(list_path), records),
            weights=_read_weights(records),
            **settings,
        )

    @classmethod
    def find_class_names(cls, path: Path, *, labels_offset: int = 0) -> list[str]:
        """Return the class names that the list pins."""
        refuse_offset(path, labels_offset)
        return lists.find_class_names(Path(path))


def refuse_offset(path: Path, labels_offset: int) -> None:
    """Refuse an offset for a source whose labels need none.

    Raises:
        ValueError: If there is one.
    """
    if labels_offset:
        raise ValueError(
            f"`labels_offset` is for labels that are numbers in a file of records; "
            f"`{path}` has the labels that its user wrote. Leave the offset out, or "
            f"change the labels. Received: labels_offset={labels_offset}"
        )


def _read_weights(records: list[Record]) -> list[float] | None:
    if all("weight" not in record.fields for record in records):
        return None
    return [record.fields.get("weight", 1.0) for record in records]


def _read_features(list_path: Path, records: list[Record]) -> np.ndarray | None:
    rows = [record.fields.get("features") for record in records]
    if all(row is None for row in rows):
        return None
    for row, record in zip(rows, records, strict=True):
        numeric = isinstance(row, list) and all(
            isinstance(value, int | float) for value in row
        )
        if not numeric or len(row or []) != len(rows[0] or []):
            raise ValueError(
                f"`{record.path}` in `{list_path}`: where records have `features`, "
                "each must have a list of numbers, equally long in all. "
                f"Received: features={row!r}"
            )
    return np.array(rows, np.float32)

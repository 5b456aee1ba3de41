"""JsonListReader: image files named in a JSON list."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worklab.lists import Record, read_list
from worklab.reader import Reader


class JsonListReader(Reader):
    """Reads the image files of a JSON list; see `worklab.lists` for its two forms.

    Args:
        list_path: The JSON list; paths in it are relative to its folder. Records may
            carry `features`, a list of numbers, equally long in each, and `weight`, a
            number above 0; where some have one, that of the others is 1.
        class_names: Names in label order, pinned for all splits of a run.
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
        self, list_path: Path, class_names: Sequence[str], **settings: Any
    ) -> None:
        self.list_path = Path(list_path)
        self._folder = str(self.list_path.parent)
        self.records = read_list(self.list_path, class_names)
        super().__init__(
            [record.label for record in self.records],
            class_names,
            features=_read_features(self.list_path, self.records),
            weights=_read_weights(self.records),
            **settings,
        )

    def name(self, index: int) -> str:
        """Return the path of record `index`, as it stands in the list."""
        return self.records[index].path

    def version(self, index: int) -> str:
        """Return the path of record `index`, its size and when it was changed."""
        status = os.stat(os.path.join(self._folder, self.records[index].path))
        return f"{self.name(index)} {status.st_size} {status.st_mtime_ns}"

    def _load(self, index: int) -> np.ndarray:
        # Plain calls: through pathlib an image would cost 35 us more, 2 % of a photo.
        path = os.path.join(self._folder, self.records[index].path)
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
        except OSError as error:
            raise ValueError(
                f"`{path}`, named in `{self.list_path}`, cannot be read "
                f"({error.strerror}). Paths in a list are relative to its folder; "
                "`python -m worklab check` names all that are missing. "
                f"Received: {self.records[index].path!r}"
            ) from error
        return self._decode(data, path)


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

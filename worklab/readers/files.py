"""FileReader: image files, one for each record."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worklab.lists import Record
from worklab.readers.encoded import EncodedReader


class FileReader(EncodedReader):
    """Reads image files that are named by records.

    Args:
        path: The list or folder that named them, for errors.
        folder: What the paths in the records are relative to.
        records: Path and label of each image.
        class_names: Names in label order, pinned for all splits of a run.
        **settings: As for `Reader`.

    Raises:
        ValueError: If an image that is read is missing or broken; names the file.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        records: list[Record],
        class_names: Sequence[str],
        **settings: Any,
    ) -> None:
        self._folder = str(folder)
        self.records = records
        labels = [record.label for record in records]
        super().__init__(labels, class_names, **settings)
        self.path = path

    def name(self, index: int) -> str:
        """Return the path of record `index`, as it stands in the list."""
        return self.records[index].path

    def where(self, index: int) -> str:
        """Return the path of record `index` from here."""
        return os.path.join(self._folder, self.records[index].path)

    def version(self, index: int) -> str:
        """Return the path of record `index`, its size and when it was changed."""
        status = os.stat(self.where(index))
        return f"{self.name(index)} {status.st_size} {status.st_mtime_ns}"

    def encoded(self, index: int) -> bytes:
        """Return the content of the image file of record `index`.

        Raises:
            ValueError: If it cannot be read.
        """
        # Plain calls: through pathlib an image would cost 35 us more, 2 % of a photo.
        path = os.path.join(self._folder, self.records[index].path)
        try:
            with open(path, "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise ValueError(
                f"`{path}`, named in `{self.path}`, cannot be read "
                f"({error.strerror}). Paths in a list are relative to its folder; "
                "`python -m worklab check` names all that are missing. "
                f"Received: {self.records[index].path!r}"
            ) from error

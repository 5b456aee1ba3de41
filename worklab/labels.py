"""Labels of any source: pinned to class names, which are the same for every split."""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from worklab.lists import CLASSES_FILE, class_index, read_class_names

LABELS_FILE = "labels.txt"
"""What tf-slim writes beside its TFRecords: lines like `0:daisy`."""

_MOST_CLASSES = 2**24  # a larger number is damage, not a class


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a source says of the classes of its records.

    Attributes:
        values: int64 numbers or str names, (num_records,).
        names: What the source itself calls a number; may lack some, or all.
    """

    values: np.ndarray
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def without(self, offset: int) -> "Labels":
        """Return the labels less an offset, as tf-slim's `labels_offset`.

        Raises:
            ValueError: If labels are names, as there is nothing to take from.
        """
        if not offset:
            return self
        if self.values.dtype.kind != "i":
            raise ValueError(
                "`labels_offset` is taken from labels that are numbers; these are "
                f"class names. Leave it out. Received: labels_offset={offset}"
            )
        names = {number - offset: name for number, name in self.names.items()}
        return Labels(self.values - offset, names)

    def class_names(self, where: Callable[[int], str]) -> list[str]:
        """Return the class names that these labels pin.

        Numbers have the source's names where it has them and it gives no two of them
        the same; without, they are "0", "1", ... Names are sorted.

        Args:
            where: Says of a record's number where it stands, for errors.

        Raises:
            ValueError: If a number is out of range.
        """
        if self.values.dtype.kind != "i":
            return sorted(set(self.values.tolist()))
        self._refuse_out_of_range(where)
        most = max(int(self.values.max(initial=0)), *self.names, 0)
        names = [
            self.names.get(number, "") or str(number) for number in range(most + 1)
        ]
        counts = collections.Counter(names)
        return [
            f"{name} ({number})" if counts[name] > 1 else name
            for number, name in enumerate(names)
        ]

    def indices(
        self, class_names: Sequence[str], where: Callable[[int], str]
    ) -> np.ndarray:
        """Return the index of each record's class, int64 (num_records,).

        Args:
            class_names: In label order.
            where: Says of a record's number where it stands, for errors.

        Raises:
            ValueError: If a label is not one of the class names, or its number has
                another name there than in the source.
        """
        indices = {name: index for index, name in enumerate(class_names)}
        if self.values.dtype.kind == "i":
            self._refuse_out_of_range(where)
            self._refuse_other_numbering(class_names, indices)
        found, first, inverse = np.unique(
            self.values, return_index=True, return_inverse=True
        )
        of_each = [
            class_index(label, indices, where(int(record)))
            for label, record in zip(found.tolist(), first, strict=True)
        ]
        return np.array(of_each, np.int64)[inverse]

    def _refuse_out_of_range(self, where: Callable[[int], str]) -> None:
        wrong = np.flatnonzero((self.values < 0) | (self.values >= _MOST_CLASSES))
        if len(wrong):
            record = int(wrong[0])
            raise ValueError(
                f"{where(record)} has a label that numbers no class: they are numbered "
                "from 0, after `labels_offset` was taken from what is in the data. "
                "Give the offset that they have, 0 or 1 mostly, or mend the label. "
                f"Received: label={self.values[record]}"
            )

    def _refuse_other_numbering(
        self, class_names: Sequence[str], indices: Mapping[str, int]
    ) -> None:
        counts = collections.Counter(self.names.values())
        for number, name in self.names.items():
            pinned = indices.get(name, number)
            if pinned != number and counts[name] == 1:
                raise ValueError(
                    f"the source numbers the classes in another way: it calls {number} "
                    f"what is class {pinned} here. Give the `labels_offset` that makes "
                    "them equal (1 leaves out tf-slim's background class), or the "
                    f"class names of this source. Received: {number}={name!r}"
                )


def find_pinned_names(path: Path, labels_offset: int = 0) -> list[str] | None:
    """Return the class names in a file beside a source or in its folder, if any.

    Args:
        path: The source: a file, a folder, or a pattern of files.
        labels_offset: Taken from the numbers in `labels.txt`.

    Raises:
        ValueError: If there is such a file, and it is not one of class names.
    """
    for folder in (path, path.parent) if path.is_dir() else (path.parent,):
        if (folder / CLASSES_FILE).is_file():
            return read_class_names(folder / CLASSES_FILE)
        if (folder / LABELS_FILE).is_file():
            return _read_labels_file(folder / LABELS_FILE, labels_offset)
    return None


def _read_labels_file(path: Path, labels_offset: int) -> list[str] | None:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    matches = [re.fullmatch(r"(\d+):(.+)", line.strip()) for line in lines if line]
    names = {
        int(match[1]) - labels_offset: match[2].strip() for match in matches if match
    }
    for number in range(-labels_offset, 0):
        names.pop(number, None)  # e.g. `0:background`
    if None in matches or not names:
        return None  # another file of that name
    labels = Labels(np.array(sorted(names), np.int64), names)
    return labels.class_names(lambda record: f"`{path}`, entry {record + 1},")

"""EncodedReader: what Readers of image files and of their bytes share."""

import abc

import numpy as np

from worklab.reader import Reader


class EncodedReader(Reader):
    """Reads records that are the content of image files: JPEG, PNG, ...

    Implement: `encoded(index)`, which must be safe in threads.
    """

    has_pixels = False
    """Whether the records are pixels after all, as those of some HDF5 files are."""

    @abc.abstractmethod
    def encoded(self, index: int) -> bytes:
        """Return the content of record `index` as it is in its image file."""

    def filename(self, index: int) -> str:
        """Return what the image of record `index` is called by itself; may be empty."""
        return self.name(index)

    def where(self, index: int) -> str:
        """Return how an error calls record `index`: the file, and where in it."""
        return self.name(index)

    def _load(self, index: int) -> np.ndarray:
        where = self.where(index).replace("`", "")  # which the error puts about it
        return self._decode(self.encoded(index), where)

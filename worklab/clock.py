"""How fast training goes."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Measures images per second, apart from what comes between calls of `train`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._began, self._images, self._waited = time.perf_counter(), 0, 0.0

    def count(self, images: int) -> None:
        """Count images that have been trained on."""
        self._images += images

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as spent on waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def read(self) -> tuple[float, float]:
        """Return images per second, and the share of time spent on waiting.

        Both since they were last read, or since `start`.
        """
        seconds = time.perf_counter() - self._began
        speed, waited = self._images / seconds, self._waited / seconds
        self.start()
        return speed, waited

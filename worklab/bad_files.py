"""Records that cannot be read, where a run may go on without them."""

import logging
import threading
from collections.abc import Callable, Mapping

_logger = logging.getLogger(__name__)

# Beyond this share it is not about single files, but e.g. about a disk that is gone.
LARGEST_SHARE = 0.01


class BadFiles:
    """Counts records that cannot be read, and ends the run at too many.

    Use it as it is; a `Reader` makes one.

    Args:
        num_records: Records of the list, of which in a short list one may be bad.
        name: What to call a record, by its number.
        largest_share: Share of the records that may be bad.
    """

    def __init__(
        self,
        num_records: int,
        name: Callable[[int], str],
        *,
        largest_share: float = LARGEST_SHARE,
    ) -> None:
        self._num_records = num_records
        self._largest_share = largest_share
        self._name = name
        self._reasons: dict[int, str] = {}
        self._lock = threading.Lock()

    def __contains__(self, index: int) -> bool:
        return index in self._reasons

    @property
    def by_index(self) -> Mapping[int, str]:
        """Why each record could not be read, by its number."""
        with self._lock:
            return dict(sorted(self._reasons.items()))

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why each record could not be read, by its name, in the list's order."""
        return {self._name(index): reason for index, reason in self.by_index.items()}

    def add(self, index: int, error: Exception) -> None:
        """Note a record as bad, and log it the first time.

        Args:
            index: The record's number.
            error: What reading it ended with.

        Raises:
            ValueError: If these are too many now.
        """
        with self._lock:
            if index in self._reasons:
                return
            self._reasons[index] = str(error)
            count = len(self._reasons)
        share = self._largest_share
        most = min(max(1, int(share * self._num_records)), self._num_records - 1)
        if count > most:
            raise ValueError(
                f"{count} of {self._num_records} images cannot be read, more than the "
                f"{most} that may be skipped ({share:.0%}): is a disk missing? "
                "`python -m worklab check` names all of them. The newest: "
                f"{error}"
            ) from error
        _logger.warning("skipped, as it cannot be read: %s", error)

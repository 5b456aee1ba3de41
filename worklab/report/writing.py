"""Writes a report: `report.html` and `report.json`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from worklab.files import write_atomically, write_json
from worklab.printing import print_plainly
from worklab.report.contents import find_run, gather
from worklab.report.page import make_page

_logger = logging.getLogger(__name__)


def write_report(
    place: Path,
    *,
    split: str = "test",
    output: Path | None = None,
    data_folder: Path | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write what is known of a run, complete or not, as a page and as JSON.

    The page needs no other file and no network: it may be sent. Its numbers are those
    of the JSON file beside it.

    Args:
        place: The run's folder, or the JSON file of one of its tests.
        split: Which test of a run.
        output: The page; None: `report.html` in the run, for another split than `test`
            `report.<split>.html`, for a file of a test `<stem>.report.html` beside it.
        data_folder: Where the lists are now; None: where they were in training.
        groups: Names of classes by the name of their group, for a coarser confusion.

    Returns:
        Path of the page; the JSON file has the same stem.

    Raises:
        ValueError: If it is no run, a file in it cannot be understood, or `output` does
            not end with `.html`.
        FileNotFoundError: If the file of a test is missing.
        OSError: If the report cannot be written.
    """
    if output is None and place.is_file():
        output = place.with_suffix(".report.html")
    elif output is None:
        name = "report.html" if split == "test" else f"report.{split}.html"
        output = find_run(place) / name
    if output.suffix != ".html":
        raise ValueError(
            "a report is a page, and a JSON file beside it: give the name of the page, "
            f"which ends with `.html`. Received: output={str(output)!r}"
        )
    contents = gather(place, split=split, data_folder=data_folder, groups=groups)
    page = make_page(contents)
    write_json(output.with_suffix(".json"), contents.to_json())
    write_atomically(output, lambda file: file.write(page))
    return output


def report_run(options: Any) -> None:
    """Write the report of a complete run, unless `options.report` is off.

    One that is newer than the result stays, as of a run that is only shown again. What
    prevents it is logged: the result itself is on disk.
    """
    result, page = options.run / "result.json", options.run / "report.html"
    if not options.report:
        return
    if not page.exists() or page.stat().st_mtime_ns < result.stat().st_mtime_ns:
        _write_or_warn(options.run)


def report_test(console: Console, test: Path, options: Any) -> None:
    """Write the report of a saved test, unless `options.report` is off.

    What prevents it is logged: the test itself is on disk.
    """
    if options.report:
        path = _write_or_warn(test, data_folder=options.data_folder)
        if path is not None:
            print_plainly(console, f"report: {path}")


def _write_or_warn(place: Path, *, data_folder: Path | None = None) -> Path | None:
    try:
        return write_report(place, data_folder=data_folder)
    except (OSError, ValueError) as error:
        _logger.warning(
            "there is no report, all else is saved; `python -m worklab report %s` "
            "tries again: %s",
            place,
            error,
        )
        return None

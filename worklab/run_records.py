"""The record of a run: what it was started with, on what, and by which code."""

import dataclasses
import datetime
import json
import logging
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worklab.files import write_atomically, write_json
from worklab.lists import write_class_names
from worklab.network import Network
from worklab.network_source import find_file, find_source
from worklab.option_files import changed_options, flatten, options_to_json
from worklab.options import DataOptions, ReaderOptions, with_test_form
from worklab.pretrained import ImportReport
from worklab.provenance import describe_code, describe_machine, package_versions
from worklab.reader import Reader
from worklab.readers import digest_source
from worklab.run_summaries import spell
from worklab.runtime import gpu_names
from worklab.session import Session
from worklab.writer import Writer

NETWORK_FILE = "network.py"
"""Copy of the network's module in a run folder."""

CHANGES_FILE = "changes.diff"
"""What was not committed when the run was started."""

# Options that runs are compared by, whether or not somebody has changed them.
_HPARAMS = (
    *("network", "pretrained", "reader.batch_size", "optimizer.name"),
    *("schedule.learning_rate", "layers.weight_decay", "session.seed"),
)

_logger = logging.getLogger(__name__)


def write_run(
    session: Session,
    writer: Writer,
    options: Any,
    network: Network,
    train_reader: Reader,
    report: ImportReport | None = None,
) -> None:
    """Write `run.json` and, beside it, what else tells where a run comes from.

    That is `network.py`, a copy of the network's module; `changes.diff`, what is not
    committed of the project it is in, and of worklab; `classes.json`; `summary.txt`;
    and an empty `notes.md`. When a run begins, TensorBoard gets its options as well.

    On a restart, options, versions and code that differ from those of the last start
    are logged, and what makes it another run is refused. Of several workers only the
    chief writes.

    Args:
        session: Of the run, started.
        writer: Gets the options as a table, and as hyper-parameters.
        options: The launcher's option dataclass.
        network: The source of its module is copied.
        train_reader: Its class names are pinned, its source is part of the run.
        report: What was loaded at the start; None on a restart or from scratch.

    Raises:
        ValueError: If the folder has a run of another network or other images.
    """
    run, plain = session.run, options_to_json(options)
    if not session.is_chief:
        return
    run.mkdir(parents=True, exist_ok=True)
    path = run / "run.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data = _digest_data(options.data, train_reader)
    if before:
        _refuse_another_run(run, before, plain, data)
    revisions, changes = describe_code(
        {"network": find_file(type(network)), "worklab": Path(__file__)}
    )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    imported = None if report is None else options_to_json(dataclasses.asdict(report))
    weights = options.pretrained and digest_source(options.pretrained)
    content = {
        "options": plain,
        "changed": _changed(options),
        "command": sys.argv,
        "started": before.get("started", before.get("time", now)),
        "time": now,
        "seed": options.session.seed,
        "versions": package_versions(),
        "python": platform.python_version(),
        "machine": describe_machine(gpu_names()),
        "num_workers": session.devices.num_workers,
        "revisions": revisions,
        "data": data,
        "pretrained": weights or before.get("pretrained"),
        "imported": imported or before.get("imported"),
    }
    _log_differences(run, before, content)
    _write_source(type(network), run / NETWORK_FILE)
    if changes:
        write_atomically(run / CHANGES_FILE, lambda file: file.write(changes))
    else:
        (run / CHANGES_FILE).unlink(missing_ok=True)
    write_class_names(run / "classes.json", train_reader.class_names)
    notes = run / "notes.md"
    if not notes.exists():
        write_atomically(notes, lambda file: file.write(f"# {run.name}\n\n"))
    if session.is_new:
        _write_options(writer, content["options"], content["changed"])
    summary = network.summary()
    write_atomically(run / "summary.txt", lambda file: file.write(summary))
    write_json(path, content)  # last: whoever waits for the run may read it now


def compare_with_run(run: Path, options: Any) -> None:
    """Log the options that differ from those of a run, where it has begun.

    Args:
        run: Its folder.
        options: Of a launcher that does not train; what it has not is not compared.

    Raises:
        ValueError: If the run is of another network.
    """
    path = run / "run.json"
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))["options"]
    plain = options_to_json(options)
    _refuse_another_network(run, before["network"], plain["network"])
    common = [name for name in plain if name in before]
    before, plain = ({n: each[n] for n in common} for each in (before, plain))
    for line in differences(before, plain):
        _logger.warning("other than in %s: %s", run, line)


def _log_differences(
    run: Path, before: Mapping[str, Any], content: Mapping[str, Any]
) -> None:
    for part in ("options", "versions", "revisions"):
        if part in before:
            prefix = "" if part == "options" else part
            for line in differences(before[part], content[part], prefix):
                _logger.warning("changed since the last start of %s: %s", run, line)


def _digest_data(data: DataOptions, train_reader: Reader) -> dict[str, Any]:
    names = {"valid": data.valid, "test": data.test}
    sources = {"train": train_reader.path}
    sources |= {split: data.folder / name for split, name in names.items()}
    digests: dict[str, Any] = {
        split: path and digest_source(path) for split, path in sources.items()
    }
    digests["mix"] = {name: digest_source(data.folder / name) for name in data.mix}
    return digests


def _changed(options: Any) -> dict[str, Any]:
    """Return the options that somebody has changed, by full name."""
    changed = changed_options(options)
    # What `resolve` filled in was not.
    unsaid = with_test_form(ReaderOptions(), options.augment)
    for name in ("crop_fraction", "stretch"):
        if getattr(options.reader, name) == getattr(unsaid, name):
            changed.pop(f"reader.{name}", None)
    return changed


def _write_options(
    writer: Writer, options: Mapping[str, Any], changed: Mapping[str, Any]
) -> None:
    flat = flatten(options)
    rows = ["| option | value | |", "|---|---|---|"]
    for name, value in flat.items():
        text = spell(value).replace("|", "\\|")
        rows.append(f"| {name} | {text} | {'changed' if name in changed else ''} |")
    writer.write_text(0, {"options": "\n".join(rows)})
    names = [*_HPARAMS, *(name for name in changed if name not in ("run", *_HPARAMS))]
    writer.write_hparams({name: _plain(flat[name]) for name in names if name in flat})


def _plain(value: Any) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else spell(value)


def _write_source(network_class: type[Network], copy: Path) -> None:
    file, text = find_file(network_class), find_source(network_class)
    name = network_class.__name__ if file is None else file
    if text is None:
        _logger.warning(
            "the source of %s is not known, so the run has no copy of it: write it to "
            "a file, and give `network='my_network.py:%s'`",
            name,
            network_class.__name__,
        )
        return
    if file is not None and file.resolve() == copy.resolve():
        return
    if copy.exists() and copy.read_text(encoding="utf-8") != text:
        _logger.warning("changed since the last start of %s: %s", copy.parent, name)
    write_atomically(copy, lambda file: file.write(text))


def _refuse_another_network(run: Path, before: str, network: str) -> None:
    if before.partition(":")[2] != network.partition(":")[2]:
        raise ValueError(
            f"`{run}` is a run of the network `{before}`. Give that one, or another "
            f"`--run`. Received: network={network!r}"
        )


def _refuse_another_run(
    run: Path, before: Mapping[str, Any], options: Mapping[str, Any], data: Any
) -> None:
    _refuse_another_network(run, before["options"]["network"], options["network"])
    # Without validations nothing was decided by the valid list.
    names = ["train", "mix"]
    if {"patience", "sequence"} & options.keys():
        names.append("valid")
    for name in names:
        if before["data"].get(name, {}) != data[name]:
            raise ValueError(
                f"the {name} list is not the one that `{run}` began with, so it cannot "
                "go on where it was. Give that list, or another `--run` (with "
                "`--pretrained` a checkpoint of this one). "
                f"Received: data.{name}={options['data'][name]!r}"
            )


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """Return a line for each value that differs, with its full name."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            line
            for key in sorted({*before, *after})
            for line in differences(
                before.get(key), after.get(key), f"{name}.{key}".lstrip(".")
            )
        ]
    return [] if before == after else [f"`{name}` was {before!r}, is {after!r}"]

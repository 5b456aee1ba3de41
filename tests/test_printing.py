"""What is shown, whatever names of files and classes hold."""

import io
import logging

import numpy as np
from rich.console import Console

from worklab import cli
from worklab.console import show_places, show_skipped, show_statistics, show_tests
from worklab.metrics import classification_statistics

HOSTILE = "[/b][red]\x1b[31mx"
SHOWN = "[/b][red]\ufffd[31mx"


def shown(show, *arguments):
    console = Console(file=io.StringIO(), width=200)
    show(console, *arguments)
    return console.file.getvalue()


def test_names_are_shown_as_they_are_and_command_nothing(tmp_path):
    assert f"1 ({SHOWN})" in shown(show_skipped, {"valid": {HOSTILE: "torn"}})
    assert f"results: {tmp_path / SHOWN}/" in shown(show_places, tmp_path / HOSTILE)
    names = ["a", HOSTILE]
    found = classification_statistics(np.arange(2), np.eye(2), np.zeros(2), names)
    assert f"1 {SHOWN} " in shown(show_statistics, found.to_json(), names)
    assert f" {SHOWN} " in shown(show_tests, {HOSTILE: found.to_json()})


def test_log_commands_no_terminal(monkeypatch):
    logger = logging.getLogger("worklab")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    cli.log_to_standard_error()
    (handler,) = logger.handlers
    record = logging.makeLogRecord({"msg": "%s\nline", "args": (HOSTILE,)})
    assert handler.format(record) == f"{SHOWN}\nline"

"""How launchers speak: to a person, to nobody, to a machine."""

import dataclasses
import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from launchers import predict, ray_train, train, train_with_patience
from launchers import test as test_launcher
from worklab import Writer, cli
from worklab import __main__ as tools
from worklab.console import make_console
from worklab.output import JsonLines, emit, output_mode, speaking, to_plain
from worklab.predicting import Predictions
from worklab.printing import print_plainly
from worklab.tester import TestResult


@pytest.fixture(autouse=True)
def _logger():
    """The handler that a command line makes is for these tests alone."""
    yield
    logger = logging.getLogger("worklab")
    logger.handlers.clear()
    logger.propagate = True


def strict(text):
    def refuse(token):
        raise AssertionError(token)

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_training_in_json_lines(tiny_folder, tmp_path, capsys):
    run = tmp_path / "run"
    words = f"""--run {run} --network tests.conftest:TinyNetwork --pretrained None
    --data.folder {tiny_folder} --reader.image-size 8 8 --reader.batch-size 6
    --json-lines --num-steps 4 --training.log-every 2"""
    cli.run(train.main, words.split())
    output, errors = capsys.readouterr()
    assert "started from scratch" in errors
    *progress, message, places, report, curves, result = strict(output)
    assert [(each["step"], each["end"]) for each in progress] == [(2, 4), (4, 4)]
    names = "event step end loss learning_rate images_per_second seconds_left"
    assert list(progress[0]) == names.split()
    assert message == {"event": "message", "text": f"{run} is at step 4"}
    assert [each["event"] for each in (places, report, curves)] == ["message"] * 3
    content = json.loads((run / "result.json").read_text())
    assert result == {"event": "result"} | content
    options = json.loads((run / "run.json").read_text())["options"]
    assert not {"quiet", "json_lines"} & {*options}


def test_validation_in_json_lines(tmp_path, capsys):
    def work() -> None:
        with Writer(tmp_path, console=make_console()) as writer:
            writer.show_progress(2, 4, 0.5, 0.1, 100.0)
            writer.show_validation(2, float("inf"), 0.5, "decay")
            writer.show("a line")

    cli.run_commands({"work": work, "ask": ask}, ["work", "--json-lines"])
    _, validation, message, _ = strict(capsys.readouterr().out)
    values = {"step": 2, "loss": None, "accuracy": 0.5, "decision": "decay"}
    assert validation == {"event": "validation"} | values
    assert message["text"] == "a line"
    cli.run_commands({"work": work, "ask": ask}, ["work", "--quiet"])
    assert capsys.readouterr() == ("", "")


def test_finished_run_tells_its_result(tiny_run, capsys):
    words = ["--run", str(tiny_run)]
    result = cli.run(train_with_patience.main, [*words, "--json-lines"])
    *messages, last = strict(capsys.readouterr().out)
    assert last == {"event": "result"} | json.loads(json.dumps(result))
    assert f"{tiny_run} is complete" in messages[0]["text"]
    assert any("recall" in each["text"] for each in messages)
    cli.run(train_with_patience.main, [*words, "--quiet"])
    assert capsys.readouterr() == ("", "")
    cli.run(train_with_patience.main, words)  # a quiet command leaves nothing behind
    assert "is complete" in capsys.readouterr().out


def test_tests_in_json_lines(tiny_run, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "classes.json", "checkpoints", "result.json"):
        (run / name).symlink_to(tiny_run / name)
    words = ["--run", str(run), "--json-lines", "--split", "valid", "--every", "0.1"]
    result = cli.run(test_launcher.main, words)
    test, *places, last = strict(capsys.readouterr().out)
    assert (test["event"], last["event"]) == ("test", "result")
    assert [each["text"].partition(":")[0] for each in places] == ["result", "report"]
    assert test["step"] == last["step"] == result.step
    assert test["loss"] == last["loss"] == result.statistics.loss
    assert last["split"] == "valid"
    assert last["confusion"] == result.statistics.confusion
    assert "confusion" not in test
    many: list[TestResult] = [result, result]
    cli.run_commands({"many": lambda: many, "ask": ask}, ["many", "--json-lines"])
    (last,) = strict(capsys.readouterr().out)
    assert [each["step"] for each in last["results"]] == [result.step] * 2


def test_answers_asked_for_on_standard_output_are_not_silenced(
    tiny_run, tiny_folder, capsys
):
    words = [str(tiny_folder / "0.png"), "--run", str(tiny_run)]
    cli.run(predict.main, [*words, "--quiet"])
    output, errors = capsys.readouterr()
    assert output.startswith("image,")
    assert errors == ""
    tools.main(["digest", str(tiny_run), "--quiet"])
    assert str(tiny_run) in capsys.readouterr().out


def test_events_leave_out_what_is_of_single_images():
    found = Predictions(4, ["a.png"], np.ones((1, 2), np.float32), ["x", "y"], {})
    content = {"step": 4, "num_images": 1, "class_names": ["x", "y"], "skipped": {}}
    assert to_plain(found) == content


# === Commands ===


def fail(names: tuple[str, ...] = ()) -> None:
    raise ValueError(f"this fails. Received: {names}")


def ask(names: tuple[str, ...] = ()) -> None:
    print_plainly(make_console(), f"names: {names}")
    logging.getLogger("worklab.tests").info("some news")


COMMANDS = {"fail": fail, "ask": ask, "group": {"ask": ask}}


def test_tools_take_the_words_anywhere(capsys):
    for words in (["--quiet", "group", "ask"], ["ask", "--quiet"]):
        cli.run_commands(COMMANDS, words)
        assert capsys.readouterr() == ("", "")
    cli.run_commands(COMMANDS, ["group", "--json-lines", "ask"])
    output, errors = capsys.readouterr()
    assert strict(output) == [
        {"event": "message", "text": "names: ()"},
        {"event": "result"},
    ]
    assert errors == "some news\n"
    with pytest.raises(SystemExit):
        cli.run_commands(COMMANDS, ["--help"])
    assert "--json-lines" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["--quiet", "--json-lines"])
def test_result_reaches_the_caller_untouched(mode, capsys):
    class Costly:
        def to_json(self):
            raise AssertionError("made for nobody")

    if mode == "--quiet":
        result = Costly()
        given = cli.run_commands({"give": lambda: result, "ask": ask}, ["give", mode])
        assert given is result
    lazy = iter([1, 2])
    given = cli.run_commands({"give": lambda: lazy, "ask": ask}, ["give", mode])
    assert list(given) == [1, 2]


def test_help_ends_with_a_result(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run_commands(COMMANDS, ["--help", "--json-lines"])
    assert not stop.value.code
    *messages, last = strict(capsys.readouterr().out)
    assert any("--json-lines" in each["text"] for each in messages)
    assert last == {"event": "result"}


def test_tables_that_were_asked_for_are_not_silenced(tiny_run, capsys):
    tools.main(["runs", "list", str(tiny_run.parent), "--quiet"])
    assert "tiny" in capsys.readouterr().out
    tools.main(["runs", "clean", str(tiny_run), "--quiet"])
    assert capsys.readouterr() == ("", "")


def test_tables_of_tools_are_messages(tiny_run, capsys):
    tools.main(["runs", "list", str(tiny_run.parent), "--json-lines"])
    table, last = strict(capsys.readouterr().out)
    assert "tiny" in table["text"]
    assert last == {"event": "result"}


def test_error_is_an_event_too(capsys):
    for words, code in ((["fail", "--json-lines"], 1), (["--json-lines", "other"], 2)):
        with pytest.raises(SystemExit) as stop:
            cli.run_commands(COMMANDS, words)
        assert stop.value.code == code
        output, errors = capsys.readouterr()
        (event,) = strict(output)
        assert (event["event"], event["exit_code"]) == ("error", code)
        assert errors
    assert event["message"] == "standard error says why"


def test_errors_and_warnings_are_not_quiet(capsys):
    def warn() -> None:
        logging.getLogger("worklab.tests").warning("look out")
        fail()

    with pytest.raises(SystemExit):
        cli.run_commands({"warn": warn, "ask": ask}, ["warn", "--quiet"])
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors == "look out\nerror: this fails. Received: ()\n"


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()])
def test_being_stopped_is_an_event(stop, capsys):
    def work() -> None:
        raise stop

    with pytest.raises(SystemExit) as error:
        cli.run_commands({"work": work, "ask": ask}, ["work", "--json-lines"])
    (event,) = strict(capsys.readouterr().out)
    name = {143: "SIGTERM", 130: "SIGINT"}[error.value.code]
    assert event == {
        "event": "stopped",
        "message": f"stopped by {name}; the same command goes on",
        "exit_code": error.value.code,
    }


def test_both_ways_at_once_are_an_error(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run_commands(COMMANDS, ["ask", "--quiet", "--json-lines"])
    assert stop.value.code == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.endswith("Received: --quiet --json-lines\n")


def test_words_after_two_dashes_are_anothers():
    def start(options: ray_train.Options) -> tuple[str, ...]:
        return ray_train.launcher_words(options.launcher)

    launcher = ["launchers/train.py", "--run", "x"]
    assert cli.run(start, ["--", *launcher, "--quiet"])[-1] == "--quiet"
    quiet = (launcher[0], "--quiet", *launcher[1:])
    assert cli.run(start, ["--quiet", "--", *launcher]) == quiet
    assert cli.run(start, ["--", *launcher]) == tuple(launcher)
    events = (*launcher, "--json-lines")
    assert cli.run(start, ["--quiet", "--", *events]) == events


def test_option_of_a_name_that_each_launcher_has_is_an_error(capsys):
    @dataclasses.dataclass
    class Options:
        quiet: bool = False
        json_lines: int = 0
        silent: bool = False

    def main(options: Options) -> None: ...

    main.__annotations__["options"] = Options
    with pytest.raises(SystemExit):
        cli.run(main, [])
    assert capsys.readouterr().err.endswith("Received: ['json_lines', 'quiet']\n")


# === Events ===


def test_what_anybody_prints_is_a_message():
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        with speaking("json", run=Path("runs/x")):
            assert output_mode() == "json"
            print("one\n two", "\x1b[31m")
            print("half", end="")
            emit("progress", step=1)
            print()
            print("rest", end="", flush=True)
        print("after")
    *lines, last = file.getvalue().splitlines()
    assert [(each["event"], each.get("text")) for each in strict("\n".join(lines))] == [
        ("message", "one\n two \x1b[31m"),
        ("message", "half"),
        ("progress", None),
        ("message", "rest"),
    ]
    assert all('"run": "runs/x"' in line for line in lines)
    assert last == "after"
    assert output_mode() == "lines"
    emit("progress", step=2)  # nobody reads


def test_reader_that_goes_away_is_an_error_once():
    receiving, sending = os.pipe()
    os.close(receiving)
    with os.fdopen(sending, "w") as file:
        lines = JsonLines(file)
        with pytest.raises(OSError, match="nobody reads the JSON lines.*Received: "):
            lines.event("progress", step=1)
        lines.event("error", message="the end")

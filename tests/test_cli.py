import dataclasses
import json
from pathlib import Path

import pytest

from worklab import cli
from worklab.options import LayerOptions, ReaderOptions


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do."""

    run: Path = Path("runs/x")
    """Folder."""
    pretrained: Path | None = Path("weights")
    """File."""
    reader: ReaderOptions = ReaderOptions()
    layers: LayerOptions = LayerOptions()


def main(options: Options) -> Options:
    return options


def test_options_come_from_the_command_line():
    options = cli.run(
        main,
        [
            "--run",
            "r",
            "--pretrained",
            "None",
            "--reader.image-size",
            "8",
            "9",
            "--layers.lr-mult",
            "stem",
            "0",
            "stage1",
            "0.5",
        ],
    )
    assert options == Options(
        run=Path("r"),
        pretrained=None,
        reader=ReaderOptions(image_size=(8, 9)),
        layers=LayerOptions(lr_mult={"stem": 0.0, "stage1": 0.5}),
    )


def test_options_survive_json():
    options = Options(
        run=Path("a/b"),
        pretrained=None,
        reader=ReaderOptions(image_size=(3, 4), num_threads=None),
        layers=LayerOptions(lr_mult={"stem": 0.1}),
    )
    text = json.dumps(cli.options_to_json(options))
    assert cli.options_from_json(Options, json.loads(text)) == options


def test_config_gives_the_defaults(tmp_path):
    given = Options(run=Path("from/config"), reader=ReaderOptions(batch_size=7))
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"options": cli.options_to_json(given)}))
    words = ["--config", str(path), "--reader.channels", "1"]
    options = cli.run(main, words)
    assert options.run == Path("from/config")
    assert options.reader == ReaderOptions(batch_size=7, channels=1)


def test_multipliers_are_spelled_alike_over_a_config_that_has_some(tmp_path):
    path = tmp_path / "run.json"
    given = Options(layers=LayerOptions(lr_mult={"stem": 0.1}))
    path.write_text(json.dumps({"options": cli.options_to_json(given)}))
    words = ["--config", str(path), "--layers.lr-mult", "stage1", "0.5"]
    assert cli.run(main, words).layers.lr_mult == {"stage1": 0.5}
    assert cli.run(main, words[:2]).layers.lr_mult == {"stem": 0.1}


@pytest.mark.parametrize("words", [["stem"], ["stem", "fast"]])
def test_multipliers_are_pairs_of_scope_and_number(words, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(main, ["--layers.lr-mult", *words])
    assert error.value.code == 2
    assert "lr-mult" in capsys.readouterr().err


def test_unknown_name_in_a_config_is_an_error(tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"options": {"readr": {}}}))
    with pytest.raises(SystemExit) as error:
        cli.run(main, ["--config", str(path)])
    assert error.value.code == 1
    assert "`readr` is not an option; the nearest are ['reader'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("words", [["--config"], ["--config", "missing.json"]])
def test_config_must_be_a_run_json(words, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(main, words)
    assert error.value.code == 1
    assert "`--config` wants the `run.json` of a run" in capsys.readouterr().err


def test_unknown_option_is_an_error_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(main, ["--reader.batchsize", "3"])
    assert error.value.code == 2
    assert "--reader.batch-size" in capsys.readouterr().err


def test_errors_for_the_user_have_no_traceback(capsys):
    def fails(options: Options) -> None:
        raise ValueError("it does not fit. Received: x=1")

    with pytest.raises(SystemExit) as error:
        cli.run(fails, [])
    assert error.value.code == 1
    assert capsys.readouterr().err == "error: it does not fit. Received: x=1\n"


def test_defects_keep_their_traceback():
    def fails(options: Options) -> None:
        raise ValueError("something inside broke")

    with pytest.raises(ValueError, match="something inside broke"):
        cli.run(fails, [])

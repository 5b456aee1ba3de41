import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Literal

import pytest
import tyro

from launchers import train
from worklab import cli
from worklab.option_files import changed_options, read_options, write_options
from worklab.options import (
    AugmentOptions,
    DataOptions,
    LayerOptions,
    OptimizerOptions,
    ReaderOptions,
    TrainingOptions,
)

ROOT = Path(__file__).parent.parent
LAUNCHERS = sorted(path.stem for path in (ROOT / "launchers").glob("[!_]*.py"))


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


def test_words_of_options_give_the_options_again():
    options = train.Options(
        run=Path("my run"),
        pretrained=None,
        data=DataOptions(mix={"more.json": 0.25}),
        reader=ReaderOptions(
            image_size=(8, 9), class_weights="balanced", reduced_decoding=False
        ),
        augment=AugmentOptions(flip=True, area=(0.5, 1.0)),
        layers=LayerOptions(lr_mult={"stem": 0.0, "stage1": 0.5}),
        optimizer=OptimizerOptions(nesterov=False, clip_norm=1.5),
        training=TrainingOptions(stages={"0": {"stem": 0.0}, "5": {"stem": 0.1}}),
    )
    words = cli.words_of_options(options)
    assert tyro.cli(train.Options, args=words) == options
    assert "--augment.flip" in words
    assert "--stages" in words
    assert cli.words_of_options(train.Options()) == []


def test_config_of_any_launcher_leaves_out_what_a_launcher_has_not(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Part(Options):
        """Some of the options."""

        config_of_any_launcher = True

    def take(options: Part) -> Part:
        return options

    take.__annotations__["options"] = Part
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"options": {"run": "a", "patience": {}}}))
    assert cli.run(take, ["--config", str(path)]) == Part(run=Path("a"))
    path.write_text(json.dumps({"options": {"reader": {"channel": 1}}}))
    with pytest.raises(SystemExit):  # within what it has, a wrong name is an error
        cli.run(take, ["--config", str(path)])


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


def error_of(words, capsys, **settings):
    with pytest.raises(SystemExit) as error:
        cli.run(main, words, **settings)
    assert error.value.code == 1
    return capsys.readouterr().err


def test_config_must_be_a_file_of_options(tmp_path, capsys):
    for words in (["--config"], ["--config", "--run", "r"], ["--write-config"]):
        found = error_of(words, capsys)
        assert f"`{words[0]}` wants the name of a file. Received: " in found
    match = "`--config` wants the `run.json` of a run, or a file that `--write-config`"
    assert match in error_of(["--config", "missing.json"], capsys)
    path = tmp_path / "x.json"
    for text, received in {"{": "Expecting", "[]": "list", '{"b": 1}': "['b']"}.items():
        path.write_text(text)
        assert received in error_of([f"--config={path}"], capsys).split("Received")[1]


# === One file for each experiment ===


def test_written_config_gives_the_same_options(tmp_path, capsys):
    path = tmp_path / "folder/[b]experiment.json"
    words = ["--reader.batch-size", "7", "--layers.lr-mult", "b", "1", "a", "0"]
    assert cli.run(main, [*words, "--write-config", str(path)]) is None
    assert f"{path}: written" in capsys.readouterr().out
    read = cli.run(main, ["--config", str(path), "--run", "r"])
    assert read == dataclasses.replace(cli.run(main, words), run=Path("r"))
    # Sorted by name, but for a dictionary, whose order may have a meaning.
    content = json.loads(path.read_text())["train"]
    assert list(content) == ["layers", "pretrained", "reader", "run"]
    assert list(content["reader"]) == sorted(content["reader"])
    assert list(content["layers"]["lr_mult"]) == ["b", "a"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_reads_what_it_writes(name, tmp_path):
    launcher = importlib.import_module(f"launchers.{name}")
    path = tmp_path / "experiment.json"
    given = launcher.Options()
    write_options(path, given, "train")
    assert read_options(path, launcher.Options, "train") == given
    assert not re.search(r"\[\n", path.read_text())  # a list is on one line


def test_each_launcher_has_its_own_face_of_a_config(tmp_path, capsys):
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps({"about": "wider", "test": {"run": "tested"}}))
    words = ["--config", str(path)]
    assert cli.run(main, words, face="test").run == Path("tested")
    found = error_of(words, capsys)
    assert "no options for this launcher, which takes `train`" in found
    assert found.endswith("Received: ['about', 'test']\n")
    cli.run(main, ["--write-config", str(path), "--run", "trained"])
    assert cli.run(main, words, face="test").run == Path("tested")
    assert cli.run(main, words).run == Path("trained")
    cli.run(main, ["--write-config", str(path), "--run", "again"])
    assert list(json.loads(path.read_text())) == ["about", "train", "test"]
    assert cli.run(main, words).run == Path("again")


@pytest.mark.parametrize("text", ['{"options": {}}', '{"0.png": "cat"}', "[]", "no"])
def test_config_is_not_written_over_something_else(text, tmp_path, capsys):
    path = tmp_path / "train.json"
    path.write_text(text)
    found = error_of(["--write-config", str(path)], capsys)
    assert "`--write-config` replaces nothing but a file of options" in found
    assert path.read_text() == text


def test_config_is_not_written_over_another_launchers_options(tmp_path, capsys):
    path = tmp_path / "experiment.json"
    text = json.dumps({"train": {"run": "r", "num_steps": 3, "find": {}}})
    path.write_text(text)
    found = error_of(["--write-config", str(path)], capsys)
    assert "is another launcher's, as it has ['find', 'num_steps']; " in found
    assert found.endswith(f"Received: `{path}`\n")
    assert path.read_text() == text
    cli.run(main, ["--write-config", str(path)], face="test")  # another face
    assert json.loads(path.read_text())["train"] == json.loads(text)["train"]


def test_missing_options_of_a_config_are_the_launchers_defaults():
    found = cli.options_from_json(Launcher, {"layers": {"lr_mult": {"a": 1}}})
    assert found.layers == LayerOptions(lr_mult={"a": 1.0}, weight_decay=0.25)


@dataclasses.dataclass(frozen=True)
class Starter:
    """Starts another launcher."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()


def start(options: Starter) -> Starter:
    return options


def test_what_stands_after_two_dashes_is_anothers():
    words = ["launcher.py", "--config", "x.json", "--write-config=y.json"]
    assert cli.run(start, ["--", *words]).words == tuple(words)


@dataclasses.dataclass(frozen=True)
class Launcher:
    """Has one field of each kind that options have."""

    number: float = 0.0
    count: int = 0
    on: bool = False
    name: str = ""
    place: Path = Path()
    kind: Literal["a", 1] = "a"
    limit: float | None = None
    step: Literal["best"] | int = "best"
    size: tuple[int, int] = (1, 1)
    mean: tuple[float, ...] | None = None
    weights: dict[str, float] | Literal["balanced"] = "balanced"
    layers: LayerOptions = LayerOptions(weight_decay=0.25)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("number", 3, 3.0),
        ("kind", 1, 1),
        ("limit", None, None),
        ("limit", 2, 2.0),
        ("step", 7, 7),
        ("size", [3, 4], (3, 4)),
        ("mean", [1, 2.5, 3], (1.0, 2.5, 3.0)),
        ("weights", {"cat": 2}, {"cat": 2.0}),
        ("place", "a/b", Path("a/b")),
    ],
)
def test_values_of_a_config_become_their_types(name, given, expected):
    found = getattr(cli.options_from_json(Launcher, {name: given}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("number", "3", "a number"),
        ("number", True, "a number"),
        ("number", 10**400, "a number"),
        ("limit", 10**400, "a number or null"),
        ("count", "3", "int"),
        ("count", 3.5, "int"),
        ("count", True, "int"),
        ("on", 1, "bool"),
        ("on", "false", "bool"),
        ("name", 3, "text"),
        ("name", None, "text"),
        ("place", 3, "a path"),
        ("kind", "b", "one of 'a', 1"),
        ("kind", True, "one of 'a', 1"),
        ("limit", "none", "a number or null"),
        ("step", "newest", "one of 'best' or int"),
        ("size", [1], "a list of int, int"),
        ("size", 3, "a list of int, int"),
        ("size", [1, "2"], "a list of int, int"),
        ("mean", ["1"], "a list of a number, ... or null"),
        ("weights", {"cat": "2"}, "names with a number or one of 'balanced'"),
        ("weights", [1], "names with a number or one of 'balanced'"),
        ("layers", 3, "holds options of its own"),
        ("layers", {"weight_decay": "0"}, "weight_decay` must be a number"),
        ("layers", {"wd": 0}, "wd` is not an option.*'weight_decay'"),
    ],
)
def test_wrong_values_of_a_config_are_errors(name, wrong, expected):
    match = f"`{name}.*{expected}.*Received: {name}.*="
    with pytest.raises(ValueError, match=match):
        cli.options_from_json(Launcher, {name: wrong})


def test_error_in_a_config_names_the_file(tmp_path, capsys):
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps({"train": {"reader": {"batch_size": "8"}}}))
    assert error_of(["--config", str(path)], capsys) == (
        f"error: in `{path}`, `reader.batch_size` must be int. "
        "Received: reader.batch_size='8'\n"
    )


def test_changed_options_have_their_full_names():
    assert changed_options(Launcher()) == {}
    changed = Launcher(
        size=(2, 1), layers=LayerOptions(weight_decay=0.5, lr_mult={"a": 1.0})
    )
    assert changed_options(changed) == {
        "size": [2, 1],
        "layers.weight_decay": 0.5,
        "layers.lr_mult": {"a": 1.0},
    }


# === Errors ===


def test_unknown_option_is_an_error_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(main, ["--reader.batchsize", "3"])
    assert error.value.code == 2
    assert "--reader.batch-size" in capsys.readouterr().err


def test_errors_for_the_user_have_no_traceback(capsys):
    def fails(options: Options) -> None:
        raise ValueError("it [b]does\nnot fit. Received: x=\x1b[31m1")

    with pytest.raises(SystemExit) as error:
        cli.run(fails, [])
    assert error.value.code == 1
    assert capsys.readouterr().err == (
        "error: it [b]does\nnot fit. Received: x=\ufffd[31m1\n"
    )


def test_defects_keep_their_traceback():
    def fails(options: Options) -> None:
        raise ValueError("something inside broke")

    with pytest.raises(ValueError, match="something inside broke"):
        cli.run(fails, [])

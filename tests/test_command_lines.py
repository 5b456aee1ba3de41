"""Every option has its help, every launcher a test; commands in the pages are right."""

import ast
import dataclasses
import functools
import importlib
import logging
import re
import runpy
import shlex
import shutil
import sys
import typing
from collections.abc import Mapping
from pathlib import Path

import cv2
import keras
import pytest
import tyro

from worklab import __main__ as tools
from worklab import cli
from worklab.runs import load_network_class, read_result

ROOT = Path(__file__).parent.parent
LAUNCHERS = sorted(path.stem for path in (ROOT / "launchers").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Commands whose options are only parsed, by how they begin, and why.
HEAVY = {
    "python launchers/train_with_patience.py --run runs/photos": "trains a ResNet-50",
    "python launchers/train_with_patience.py --run runs/two": "wants two devices",
    "python launchers/train_with_patience.py --run /shared": "wants other machines",
    "python launchers/train_with_patience.py --run runs/tracked": "test_trackers.py",
    "python launchers/ray_train.py": "wants a cluster; tested with Ray",
    "python launchers/train.py --run runs/crops": "trains a ResNet-20",
    "python launchers/train.py --run runs/flowers": "trains an Inception v3",
    "python launchers/train.py --run runs/cycles": "trains a ResNet-20; test_cycles.py",
    "python launchers/train.py --run runs/stages": "trains a ResNet-20; test_stages.py",
    "python launchers/train_and_test.py": "trains a ResNet-20; test_sequences.py",
    "python launchers/test.py --run runs/flowers": "wants that run",
    "python launchers/test.py --run runs/mine --checkpoint weights": "test_trained.py",
    "python launchers/train_with_hyper.py": "trains many; test_search.py",
    "python launchers/test_ensemble.py": "wants a long run; test_ensembles.py",
    "python -m worklab export": "test_exporting.py",
    "python -m worklab compare-tests": "wants two runs; test_comparison.py",
    "python -m worklab runs diff": "wants another run; test_run_tools.py",
    "python -m worklab runs compare": "wants another run; test_run_tools.py",
    "python -m worklab runs clean": "wants another run; test_run_tools.py",
    "python -m worklab runs cool-down": "wants a run of cycles; test_run_tools.py",
    "python -m worklab report runs/mine/tests": "wants step 700; test_report.py",
    "python -m worklab imagenet": "wants ImageNet; test_imagenet.py",
    "python -m worklab pack imagenet": "wants ImageNet",
    "python -m worklab inspect resnet50.pth": "wants the file; test_inspecting.py",
}

# Commands that train are shortened.
SHORTER = {
    "train_with_patience.py": "--patience.valid-every 2 --patience.patience 1 "
    "--patience.max-decays 0 --reader.batch-size 8 --schedule.learning-rate 0.01 "
    "--schedule.warmup-steps 0",  # validations within a warm-up are not waited for
    "train.py": "--num-steps 2 --reader.batch-size 6",
    "find_lr.py": "--find.num-steps 20 --reader.batch-size 8",
}


@pytest.fixture(autouse=True)
def _logger():
    """The handler that a command line makes is for the stderr of this test alone."""
    yield
    logger = logging.getLogger("worklab")
    logger.handlers.clear()
    logger.propagate = True


def launcher(name):
    return importlib.import_module(f"launchers.{name}")


def options_of(options_class, prefix=""):
    """Return the options that the command line has for a dataclass, nested ones too."""
    hints = typing.get_type_hints(options_class, include_extras=True)
    fields = [field.name for field in dataclasses.fields(options_class)]
    return options_of_hints({name: hints[name] for name in fields}, prefix)


def options_of_hints(hints, prefix=""):
    options = set()
    for name, hint in hints.items():
        marks = getattr(hint, "__metadata__", ())
        plain = hint.__origin__ if marks else hint
        name = prefix + name.replace("_", "-")
        for mark in marks:  # tyro.conf.arg
            if getattr(mark, "name", None) is not None:
                name = mark.name
            if getattr(mark, "prefix_name", None) is False:
                name = name.removeprefix(prefix)
        if dataclasses.is_dataclass(plain):
            options |= options_of(plain, f"{name}." if name else "")
        elif tyro.conf.Positional not in marks:
            options.add(f"--{name}")
    return options


def help_of(call, capsys, monkeypatch):
    """Return what the help says of each option, by the option's name."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code in (0, None)
    output, errors = capsys.readouterr()
    assert errors == ""
    lines = [line.strip("│╭╰─╮╯ ") for line in output.splitlines()]
    text = " ".join(lines).split("-h, --help")[1]
    options = re.split(r"(?<!,)\s(?=--[a-z])", text)[1:]
    return {option.split()[0].rstrip(","): option for option in options}


def check_words(option):
    words = re.sub(r"--\S+|[A-Z{|}\[\]]{3,}|\((default|required|repeat).*", "", option)
    assert len(words.split()) >= 3, option


# === Options ===


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_option_of_a_launcher_is_explained(name, capsys, monkeypatch):
    path = str(ROOT / f"launchers/{name}.py")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    explained = help_of(
        lambda: runpy.run_path(path, run_name="__main__"), capsys, monkeypatch
    )
    assert set(explained) == options_of(launcher(name).Options)
    for option in explained.values():
        assert "(default: " in option, option
        check_words(option)


def commands_of_tools(monkeypatch):
    taken = {}
    with monkeypatch.context() as patch:
        patch.setattr(
            cli, "run_commands", lambda commands, words: taken.update(commands)
        )
        tools.main([])
    groups = [name for name, each in taken.items() if isinstance(each, Mapping)]
    for group in groups:
        commands = taken.pop(group)
        taken |= {f"{group} {name}": each for name, each in commands.items()}
    return taken


def test_every_option_of_a_tool_is_explained(capsys, monkeypatch):
    commands = commands_of_tools(monkeypatch)
    assert len(commands) >= 10
    for name, function in commands.items():
        words = [*name.split(), "--help"]
        explained = help_of(functools.partial(tools.main, words), capsys, monkeypatch)
        hints = typing.get_type_hints(function, include_extras=True)
        del hints["return"]
        assert set(explained) == options_of_hints(hints), name
        for option in explained.values():
            check_words(option)


def test_every_launcher_is_run_by_a_test():
    run = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {
            node.func.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "main"
            and isinstance(node.func.value, ast.Name)
        }
        run |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "launchers"
            for alias in node.names
            if (alias.asname or alias.name) in called
        }
    assert set(LAUNCHERS) <= run


def test_options_that_the_pages_name_exist(capsys, monkeypatch):
    scripts = [f"launchers/{name}.py" for name in LAUNCHERS]
    known = {"--help", "--config", "--write-config", "--logdir"}
    known |= {"--quiet", "--json-lines"}
    for path in (*scripts, "benchmarks/retraining.py"):
        monkeypatch.setattr(sys, "argv", [path, "--help"])
        run = functools.partial(runpy.run_path, str(ROOT / path), run_name="__main__")
        explained = help_of(run, capsys, monkeypatch)
        known |= set(re.findall(r"--[a-z][\w.-]*", " ".join(explained.values())))
    for name in commands_of_tools(monkeypatch):
        words = [*name.split(), "--help"]
        explained = help_of(functools.partial(tools.main, words), capsys, monkeypatch)
        known |= set(explained)
    known |= {name.partition(".")[0] for name in known}  # `--schedule.`...
    for page in PAGES:
        text = re.sub("(?m)^#SBATCH .*", "", page.read_text())  # Slurm's own
        named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text))
        assert named <= known, page.name


# === Commands ===


def commands_in(text):
    """Return the words of each call of a launcher or tool, after `python`."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"python ((?:launchers/\w+\.py|-m worklab) [^\n`'#&]+)", text)
    calls = map(shlex.split, found)
    return [words for words in calls if len(words) > 1 + 2 * (words[0] == "-m")]


def fenced(page):
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    return [words for block in blocks for words in commands_in(block)]


def inline(text):
    spans = re.findall(r"`(python [^`]+|launchers/\w+\.py [^`]+)`", text)
    spans = [" ".join(span.split()).removeprefix("python ") for span in spans]
    return commands_in("\n".join(f"python {span}" for span in spans))


def all_commands():
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        yield from ((page.name, words) for words in (*fenced(page), *inline(prose)))
    for name in LAUNCHERS:
        text = launcher(name).__doc__
        yield from (
            (f"{name}.py", words) for words in (*commands_in(text), *inline(text))
        )


def parse(words, monkeypatch):
    """Return what the real parser makes of a command, without calling anything."""

    def parsing(function):
        if isinstance(function, Mapping):  # a group of commands
            return {name: parsing(each) for name, each in function.items()}
        return functools.wraps(function)(lambda *given, **named: (given, named))

    for option in {"--config", "--write-config"} & {*words}:  # files of a person
        place = words.index(option)
        words = words[:place] + words[place + 2 :]

    if words[0] == "-m":
        original = cli.run_commands
        with monkeypatch.context() as patch:
            patch.setattr(
                cli,
                "run_commands",
                lambda commands, *given, **named: original(
                    parsing(commands), *given, **named
                ),
            )
            return tools.main(words[2:])
    main = launcher(Path(words[0]).stem).main
    (options,), _ = cli.run(parsing(main), words[1:])
    if "--" in words:  # what a launcher of launchers starts
        parse(words[words.index("--") + 1 :], monkeypatch)
    return options


def test_commands_in_pages_and_launchers_are_parsed(monkeypatch):
    networks = {}
    commands = list(all_commands())
    assert len(commands) > 30
    assert {words[0] for _, words in commands} >= {"-m", "launchers/test_ensemble.py"}
    for place, words in commands:
        try:
            options = parse(words, monkeypatch)
        except SystemExit as stop:
            pytest.fail(f"{place}: {' '.join(words)}: exit {stop.code}")
        if "worklab.networks" in getattr(options, "network", ""):
            networks[options.network, str(options.layers)] = options
    for options in networks.values():  # scopes of their options are checked by these
        with keras.StatelessScope(initialize_variables=False):
            network = load_network_class(options.network)(
                10,
                image_shape=(*options.reader.image_size, 3),
                options=options.layers,
            )
        network.check_scopes("exclude", options.restore.exclude)
    assert len(networks) > 2


def test_wrong_command_is_not_parsed(monkeypatch, capsys):
    for wrong in (
        ["launchers/train.py", "--num-step", "3"],
        ["launchers/train.py", "--num-steps", "many"],
        ["-m", "worklab", "packs", "data"],
        ["launchers/ray_train.py", "--", "launchers/train.py", "--unknown"],
    ):
        with pytest.raises(SystemExit):
            parse(wrong, monkeypatch)
    capsys.readouterr()


@pytest.fixture
def project(tmp_path, tiny_images):
    """A person's folder: images of three classes, and the README's network."""
    for number, (image, label) in enumerate(zip(*tiny_images, strict=True)):
        folder = tmp_path / "my_data" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        large = cv2.resize(image, (40, 40), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{number}.png"), large)
    text = (ROOT / "README.md").read_text().split("## Your own images")[1]
    network = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "my_network.py").write_text(network)
    (tmp_path / "launchers").symlink_to(ROOT / "launchers")
    shutil.copytree(tmp_path / "my_data/class0", tmp_path / "photos")
    (tmp_path / "more").mkdir()
    shutil.copy(tmp_path / "my_data/class1/1.png", tmp_path / "more/a.jpg")
    return tmp_path


def test_commands_in_the_pages_work(project, monkeypatch):
    """All that are not heavy, one after the other as a person reads them."""
    monkeypatch.chdir(project)
    ran, heavy = [], set()
    for page in PAGES:
        for words in fenced(page):
            command = f"python {' '.join(words)}"
            reasons = [start for start in HEAVY if command.startswith(start)]
            heavy.update(reasons)
            if reasons:
                continue
            if words[0] == "-m":
                tools.main(words[2:])
            else:
                shorter = SHORTER.get(Path(words[0]).name, "").split()
                monkeypatch.setattr(sys, "argv", [*words, *shorter])
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
            ran.append(command)
            if command == "python -m worklab lists my_data":  # for the pages after it
                shutil.copytree("my_data", "data")
                shutil.copytree("my_data", "data/digits")
    assert heavy == set(HEAVY)
    assert len(ran) > 11
    result = read_result(Path("runs/mine"))
    assert result["test"]["num_images"] == 6
    assert result["test"]["loss"] < 10

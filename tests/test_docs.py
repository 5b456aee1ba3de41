"""What the documents claim is executed here."""

import dataclasses
import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import typing
from pathlib import Path

import cv2
import numpy as np
import pytest

import worklab
from launchers import test as test_launcher
from launchers import test_many, train, train_with_patience
from worklab import cli
from worklab.__main__ import main as tools
from worklab.lists import read_list
from worklab.option_files import read_options
from worklab.options import AugmentOptions, OptimizerOptions, ScheduleOptions
from worklab.runs import read_result

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(worklab.__path__, "worklab.")
    if not module.name.endswith("__main__")
]
TOOLS = (
    *("check", "digest", "export", "flops", "imagenet"),
    *("inspect", "lists", "pack", "show", "stats"),
    *("runs list", "runs show", "runs diff"),
    *("runs compare", "runs clean", "runs cool-down"),
)
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    )
]


@pytest.fixture(scope="module")
def digits_project(tmp_path_factory):
    """A folder as a person has it after `make demo`: data/digits and launchers."""
    folder = tmp_path_factory.mktemp("project")
    module = load_script(ROOT / "data" / "make_digits.py")
    module.make_digits(folder / "data" / "digits")
    (folder / "launchers").symlink_to(ROOT / "launchers")
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_public_classes_are_documented():
    for name in worklab.__all__:
        assert getattr(worklab, name).__doc__
        assert f"`{name}`" in (ROOT / "README.md").read_text()


def test_public_names_are_those_listed():
    assert all(isinstance(getattr(worklab, name), type) for name in worklab.__all__)
    public = {
        name
        for name, value in vars(worklab).items()
        if not name.startswith("_") and isinstance(value, type)
    }
    assert public <= set(worklab.__all__)
    with pytest.raises(AttributeError, match="`worklab` has no attribute `Trainers`"):
        _ = worklab.Trainers


@pytest.mark.parametrize("block", BLOCKS)
def test_python_in_the_pages_runs(block, digits_project, monkeypatch):
    monkeypatch.chdir(digits_project)
    exec(compile(block, "block", "exec"), {"__name__": "block"})


def load_script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_augmentations_is_that_of_the_code():
    script = load_script(ROOT / "docs" / "make_augmentation.py")
    fields = [field.name for field in dataclasses.fields(AugmentOptions)]
    assert list(script.EXAMPLES) == fields
    hint = "run: python docs/make_augmentation.py"
    assert (ROOT / "docs/augmentation.md").read_text() == script.make_page(), hint
    pictures = {path.name for path in (ROOT / "docs/images").glob("augment_*.jpg")}
    assert pictures == {f"augment_{name}.jpg" for name in fields}, hint
    for name, example in script.EXAMPLES.items():
        kept = cv2.imread(str(ROOT / f"docs/images/augment_{name}.jpg"))[:, :, ::-1]
        made = script.strip(example)
        # Means of squares, as JPEG loses much where there is noise.
        squares = [
            cv2.resize(each, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
            for each in (kept, made)
        ]
        assert cv2.norm(*squares, cv2.NORM_L1) / squares[0].size < 2, (name, hint)


def test_page_and_picture_of_schedules_have_each_of_them():
    names = typing.get_args(typing.get_type_hints(ScheduleOptions)["name"])
    script = load_script(ROOT / "docs" / "make_schedules.py")
    assert list(script.EXAMPLES) == list(names)
    text = (ROOT / "docs/training.md").read_text()
    rows = re.findall(r"(?m)^\| `([\w-]+)` \|", text)
    assert rows == list(names)
    optimizers = typing.get_args(typing.get_type_hints(OptimizerOptions)["name"])
    assert all(name in text for name in optimizers)
    rates, kept = script.follow("triangular")
    assert rates[125] == pytest.approx(0.1)
    assert kept == [250, 500, 750]


def test_json_in_the_pages_is_a_list(tmp_path):
    blocks = re.findall(
        r"```json\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL
    )
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / "train.json"
        path.write_text(block)
        assert [r.label for r in read_list(path, ["cat", "dog"])] == [0, 1]


def test_experiment_in_the_pages_is_one_for_training_and_testing(tmp_path):
    text = (ROOT / "docs/runs.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "experiment.json"
    path.write_text(block)
    for launcher in (train, train_with_patience):
        options = read_options(path, launcher.Options, "train")
        assert options.layers.lr_mult == {"stem": 0.0, "stage1": 0.1}
        defaults = launcher.Options().schedule
        assert options.schedule == dataclasses.replace(defaults, learning_rate=0.02)
    for tester in (test_many, test_launcher):
        options = read_options(path, tester.Options, "test")
        assert options.run == Path("runs/wider")


def test_what_the_readme_walks_through_works(tmp_path, tiny_images, monkeypatch):
    """The commands of the section `Your own images`, on images of three classes."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## Your own images")[1].split("\n## ")[0]
    network = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    commands = [
        command.replace("\\\n", " ").strip()
        for command in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    ]
    assert len(commands) == 3
    images, labels = tiny_images
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "my_data" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        large = cv2.resize(image, (40, 40), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{number}.png"), large)
    (tmp_path / "my_network.py").write_text(network)
    (tmp_path / "launchers").symlink_to(ROOT / "launchers")
    fast = " --patience.valid-every 2 --patience.patience 1 --patience.max-decays 0"
    fast += " --reader.batch-size 8 --schedule.learning-rate 0.01"
    commands[2] += fast
    for command in commands:
        words = command.split()
        assert words[0] == "python"
        subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    result = read_result(tmp_path / "runs/mine")
    assert result["test"]["num_images"] == 6
    assert np.isfinite(result["test"]["loss"])


def test_files_that_the_pages_name_exist():
    found = []
    for page in PAGES:
        named = re.findall(
            r"`((?:launchers|worklab|benchmarks|data)/[\w/]+\.py)`", page.read_text()
        )
        links = re.findall(r"\]\((?!http)([\w/.]+)\)", page.read_text())
        found += [*named, *links]
        for name in named:
            assert (ROOT / name).exists(), f"{page.name}: {name}"
        for link in links:
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    assert len(found) > 10


def test_options_that_the_pages_name_exist(monkeypatch, capsys):
    environment = os.environ | {"COLUMNS": "100"}
    commands = [["benchmarks/retraining.py"]]
    monkeypatch.setenv("COLUMNS", "100")
    for name in TOOLS:  # here, as a process of its own takes seconds to start
        with pytest.raises(SystemExit):
            tools([*name.split(), "--help"])
    for path in sorted((ROOT / "launchers").glob("*.py")):
        launcher = importlib.import_module(f"launchers.{path.stem}")
        with pytest.raises(SystemExit):
            cli.run(launcher.main, ["--help"])
    known = {"--help", "--config", "--write-config", "--logdir"}
    known |= set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
    for words in commands:
        done = subprocess.run(
            [sys.executable, *words, "--help"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        known |= set(re.findall(r"--[a-z][\w.-]*", done.stdout))
    for page in PAGES:
        text = re.sub("(?m)^#SBATCH .*", "", page.read_text())  # Slurm's own
        named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text))
        assert named <= known, page.name

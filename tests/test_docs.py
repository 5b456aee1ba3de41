"""What the documents claim is executed here."""

import dataclasses
import doctest
import importlib
import importlib.util
import pkgutil
import re
import typing
from pathlib import Path

import cv2
import pytest

import worklab
from launchers import test as test_launcher
from launchers import test_many, train, train_with_patience
from worklab.lists import read_list
from worklab.option_files import read_options
from worklab.options import AugmentOptions, OptimizerOptions, ScheduleOptions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(worklab.__path__, "worklab.")
    if not module.name.endswith("__main__")
]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    if page.stem != "notebook"  # its blocks are cells
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


def test_cells_of_the_notebook_run(digits_project, monkeypatch, notebook):
    monkeypatch.chdir(digits_project)
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = (ROOT / "docs/notebook.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        notebook.run(block)
    plt = notebook.names["plt"]
    assert len(plt.gca().lines[0].get_xdata()) > 0
    plt.close()


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


SLIM_FLAGS = {  # of the help that research/slim at 1.12 prints, script by script
    "train_image_classifier": """
        adadelta_rho adagrad_initial_accumulator_value adam_beta1 adam_beta2 batch_size
        checkpoint_exclude_scopes checkpoint_path clone_on_cpu dataset_dir dataset_name
        dataset_split_name end_learning_rate ftrl_initial_accumulator_value ftrl_l1
        ftrl_l2 ftrl_learning_rate_power ignore_missing_vars label_smoothing
        labels_offset learning_rate learning_rate_decay_factor learning_rate_decay_type
        log_every_n_steps master max_number_of_steps model_name momentum
        moving_average_decay num_clones num_epochs_per_decay num_preprocessing_threads
        num_ps_tasks num_readers opt_epsilon optimizer preprocessing_name
        quantize_delay replicas_to_aggregate rmsprop_decay rmsprop_momentum
        save_interval_secs save_summaries_secs sync_replicas task train_dir
        train_image_size trainable_scopes weight_decay worker_replicas""",
    "eval_image_classifier": """
        batch_size checkpoint_path dataset_dir dataset_name dataset_split_name eval_dir
        eval_image_size labels_offset master max_num_batches model_name
        moving_average_decay num_preprocessing_threads preprocessing_name quantize
        use_grayscale""",
    "export_inference_graph": """
        batch_size dataset_dir dataset_name image_size is_training is_video_model
        labels_offset model_name num_frames output_file quantize use_grayscale
        write_text_graphdef""",
}


@pytest.mark.parametrize("script", SLIM_FLAGS)
def test_table_of_slim_has_every_flag_and_says_what_is_here(script):
    text = (ROOT / "docs/slim.md").read_text()
    section = text.split(f"## {script}.py\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if "|" in line]
    named = []
    for flags, here, differs in rows[2:]:
        named += re.findall(r"`(\w+)`", flags)
        # An option, which another test looks for, or why there is none.
        assert re.search(r"`--|the run's", here) or (
            here.strip() == "no counterpart" and differs.strip()
        ), flags
    assert sorted(named) == sorted(SLIM_FLAGS[script].split())

import dataclasses
import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from launchers import test as test_launcher
from tests.conftest import CLASS_NAMES
from tests.made_tests import make_test, random_test
from worklab.__main__ import main
from worklab.checkpoints import (
    Checkpoints,
    checkpoint_path,
    list_steps,
    load_checkpoint,
)
from worklab.option_files import options_to_json
from worklab.options import ReaderOptions
from worklab.pretrained.report import ImportReport, ImportRow
from worklab.readers import ArrayReader
from worklab.report.contents import find_decays, gather, read_groups
from worklab.report.examples import choose_examples
from worklab.report.figures import confusion_chart, make_charts
from worklab.report.page import largest_confusions, make_page
from worklab.report.writing import report_run, write_report
from worklab.report_statistics import detailed_statistics
from worklab.saved_tests import find_test, read_test

HOSTILE = '</script><img src=x onerror="alert(1)">&'


class Page(html.parser.HTMLParser):
    """What a page is made of; closing tags that do not fit are errors."""

    VOID = ("meta", "img", "input", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.tags, self.open, self.ids, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []
        assert len({*self.ids}) == len(self.ids)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def table(self, name):
        """Return the titles and the rows of a table."""
        text = self.source[self.source.index(f'<table id="{name}"') :]
        head, body = text[: text.index("</table>")].split("<tbody>")
        titles = re.findall(r"<th[^>]*><button[^>]*>([^<]*)</button>", head)
        rows = [
            re.findall(r"<t[hd][^>]*>([^<]*)</t", row) for row in body.split("</tr>")
        ]
        return titles, [row for row in rows if row]

    def words(self):
        return " ".join(" ".join(self.text).split())


def numbers_of(page):
    return json.loads(page.with_suffix(".json").read_text())


@pytest.fixture
def copied_run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "copy")


def other_test(run, test, *, split="test"):
    """Put a test in the place of a run's own."""
    shutil.rmtree(run / "tests")
    test.save(run / "tests", stem=f"step-{test.step:08d}.{split}")
    (run / "result.json").unlink()
    return run


def test_report_of_a_run_has_the_numbers_of_its_files(tiny_run):
    page = tiny_run / "report.html"  # as the launcher wrote it
    found, result = numbers_of(page), json.loads((tiny_run / "result.json").read_text())
    test = read_test(find_test(tiny_run))
    valid = read_test(find_test(tiny_run, "valid"))
    expected = detailed_statistics(test, valid=valid).to_json()
    assert found["test"]["accuracy"] == result["test"]["accuracy"]
    for name in ("calibration", "intervals", "averages", "temperature", "confusion"):
        assert found["test"][name] == json.loads(json.dumps(expected[name]))
    assert found["test"]["temperature"] is not None
    assert found["class_counts"]["train"] == [6, 6, 6]
    assert found["state"] == "complete"
    assert found["remarks"] == []
    assert found["best_step"] == result["best_step"]
    words = Page(page.read_text()).words()
    assert f"{result['test']['accuracy']:.2%}".replace("%", " %") in words
    assert "not complete" not in words
    interval = found["test"]["intervals"]["accuracy"]
    lower, upper = (f"{100 * interval[name]:.2f} %" for name in ("lower", "upper"))
    assert f"95 %: {lower} to {upper}" in words


def test_page_needs_no_other_file_and_says_what_each_part_is(tiny_run):
    page = Page((tiny_run / "report.html").read_text())
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
            if value is not None and value.startswith("#"):
                assert value[1:] in page.ids
        if tag == "img":
            assert "alt" in attributes
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in page.ids
        if attributes.get("role") in ("img", "region"):
            assert attributes["aria-label"].strip()
    assert page.tags[0] == ("html", {"lang": "en"})


@pytest.fixture(scope="module")
def uneven(tiny_run, tmp_path_factory):
    """What a report says of a test no two of whose classes have equal numbers."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("uneven") / "run")
    test = random_test(90, 3, hit=0.7, step=3)
    test.class_names[:] = CLASS_NAMES
    return gather(other_test(run, test))


def test_charts_are_what_plotly_draws(uneven):
    for chart in make_charts(uneven).values():
        figure = go.Figure(chart["data"], chart["layout"])  # refuses unknown names
        assert len(figure.data) > 0


def short(values):
    return [pytest.approx(value, rel=1e-4) for value in values]


def test_charts_of_training_have_the_logged_points(uneven):
    charts, best = make_charts(uneven), uneven.summary.best_step
    for name in ("loss", "accuracy"):
        train, valid, star = charts[name]["data"]
        for line, split in ((train, "train"), (valid, "valid")):
            points = uneven.curves[split][name]
            assert line["name"] == split
            assert line["x"] == [*points]
            assert line["y"] == short(points.values())
        assert (star["x"], star["y"]) == (
            [best],
            short([valid["y"][valid["x"].index(best)]]),
        )
    for name in ("learning_rate", "update_to_weight"):
        groups = {line["name"]: line for line in charts[name]["data"]}
        assert {*groups} == {"slow", "logits"}  # not what is frozen
        assert groups["slow"]["y"] == short(uneven.layers[name]["slow"].values())
    colours = [
        {line["name"]: line["line"]["color"] for line in charts[name]["data"]}
        for name in ("learning_rate", "update_to_weight")
    ]
    assert colours[0] == colours[1]


def test_charts_of_a_test_have_its_numbers(uneven):
    charts, found = make_charts(uneven), uneven.statistics
    matrix = charts["confusion"]["matrix"]
    confusion = np.zeros((3, 3), int)
    confusion[matrix["rows"], matrix["columns"]] = matrix["counts"]
    assert confusion.tolist() == found.statistics.confusion
    assert confusion.tolist() != confusion.T.tolist()
    recalls = [
        found.classes[n].recall for n in matrix["orders"]["recall, lowest first"]
    ]
    assert recalls == sorted(recalls)
    for number, each in enumerate(found.classes):
        line = charts["roc"]["data"][number]
        assert line["name"] == f"{each.name} ({each.curves.roc_auc:.3f})"
        assert line["x"] == short(each.curves.roc.false_positive_rate)
        assert line["y"] == short(each.curves.roc.true_positive_rate)
        line = charts["precision_recall"]["data"][number]
        assert line["x"] == short(each.curves.precision_recall.recall)
        assert line["y"] == short(each.curves.precision_recall.precision)
    bins = [b for b in found.calibration.equal_width.bins if b.num_images]
    line = charts["reliability"]["data"][0]
    assert line["x"] == short(b.confidence for b in bins)
    assert line["y"] == short(b.accuracy for b in bins)
    bars = charts["class_counts"]["data"]
    assert [bar["y"] for bar in bars] == [[6, 6, 6], [2, 2, 2], [2, 2, 2]]


def test_table_of_classes_has_their_numbers_under_their_titles(uneven):
    page = Page(make_page(uneven))
    titles, rows = page.table("class-table")
    for each, row in zip(uneven.statistics.classes, rows, strict=True):
        cells = dict(zip(titles, row, strict=True))
        sensitivity, specificity = (
            next(p for p in points if p.target == 0.95)
            for points in (each.curves.at_specificity, each.curves.at_sensitivity)
        )
        assert cells == {
            "class": each.name,
            "train images": "6",
            "valid images": "2",
            "tested": str(each.support),
            "called": str(each.num_predicted),
            "precision": f"{100 * each.precision:.1f} %",
            "recall": f"{100 * each.recall:.1f} %",
            "F1": f"{100 * each.f1:.1f} %",
            "ROC AUC": f"{each.curves.roc_auc:.4f}",
            "average precision": f"{each.curves.average_precision:.4f}",
            "sensitivity at 95 % specificity": f"{100 * sensitivity.sensitivity:.1f} %",
            "specificity at 95 % sensitivity": f"{100 * specificity.specificity:.1f} %",
        }


def test_lines_keep_their_extremes_where_rows_are_many(uneven):
    points = dict.fromkeys(range(20_000), 1.0) | {7_001: 500.0, 9_003: 0.25}
    curves = uneven.curves | {"train": {"loss": points}}
    chart = make_charts(dataclasses.replace(uneven, curves=curves))["loss"]
    line = chart["data"][0]
    assert len(line["x"]) <= 1000
    assert (line["x"][0], line["x"][-1]) == (0, 19_999)
    assert line["y"][line["x"].index(7_001)] == 500
    assert min(line["y"]) == 0.25


def test_import_is_counted_as_the_console_does(uneven):
    report = ImportReport(
        Path("w.npz"),
        "npz",
        "keras",
        None,
        tuple(
            ImportRow(f"layer{number}/kernel", ("a",), "own name", action)
            for number, action in enumerate(["copied", "transposed", "skipped"])
        ),
        ("left",),
    )
    plain = options_to_json(dataclasses.asdict(report))
    contents = dataclasses.replace(uneven, record=uneven.record | {"imported": plain})
    says = "2 variables restored, 1 initialised, 1 names in the file unused"
    assert says in str(report)
    assert says in Page(make_page(contents)).words()


def test_rate_that_never_changes_is_in_the_middle_of_its_axis(uneven):
    layers = {"learning_rate": {"a": {1: 0.05, 2: 0.05}}}
    contents = dataclasses.replace(uneven, layers=layers)
    chart = make_charts(contents)["learning_rate"]
    assert chart["layout"]["yaxis"]["range"] == [0, 0.1]


def test_axes_tell_all_classes_apart(uneven):
    names = ["constructor", "a\tb", "a\0b", "x" * 60]
    chart = confusion_chart(np.eye(4, dtype=int).tolist(), names)
    shown = chart["matrix"]["names"]
    assert len({*shown}) == 4
    assert "constructor" not in shown  # JavaScript has one of its own
    plain = [name.strip("\u200b") for name in shown]
    assert plain[:3] == ["constructor", "a\ufffdb", "a\ufffdb"]
    assert len(plain[3]) == 25


def test_temperature_is_of_the_same_answers(copied_run):
    tests = copied_run / "tests"
    right, valid = (random_test(50, 3, seed=seed, step=51) for seed in (1, 2))
    names = {"class_names": CLASS_NAMES}
    right, valid = (dataclasses.replace(each, **names) for each in (right, valid))
    valid = dataclasses.replace(valid, split="valid")
    valid.save(tests)  # of the run's own step 51
    paths = [
        right.save(tests / "elsewhere"),  # another file's step 51
        right.save(tests, stem="ensemble.test", notes={"members": {"a": 1, "b": 2}}),
    ]
    for path in paths:
        assert gather(path).statistics.temperature is None
    valid.save(tests / "elsewhere")
    assert gather(paths[0]).statistics.temperature is not None
    valid.save(tests, stem="ensemble.valid", notes={"members": {"a": 1, "c": 2}})
    assert gather(paths[1]).statistics.temperature is None
    valid.save(tests, stem="ensemble.valid", notes={"members": {"a": 1, "b": 2}})
    found = gather(paths[1])
    assert found.statistics.temperature is not None
    assert "answers of a, b together" in Page(make_page(found)).words()


def test_damaged_valid_test_costs_the_temperature_alone(copied_run):
    find_test(copied_run, "valid").write_text("{")
    found = numbers_of(write_report(copied_run))
    assert found["test"]["accuracy"] is not None
    assert found["test"]["temperature"] is None
    assert "A test cannot be read, and is left out." in found["remarks"][0]


def test_report_is_of_the_test_at_the_end_or_else_of_the_best(copied_run):
    path = copied_run / "result.json"
    result = json.loads(path.read_text())
    best = result["best_step"]
    for step in (best - 1, best + 1):  # others, made by hand
        other = random_test(6, 3, seed=step, step=step)
        other.class_names[:] = CLASS_NAMES
        other.save(copied_run / "tests")
    assert gather(copied_run).test.step == best
    at_end = read_test(copied_run / f"tests/step-{best - 1:08d}.test.json")
    path.write_text(json.dumps(result | {"test": at_end.statistics.to_json()}))
    assert gather(copied_run).test.step == best - 1
    path.write_text(json.dumps(result | {"test": None}))
    assert gather(copied_run).test.step == best
    path.unlink()
    assert gather(copied_run).test.step == best + 1


def test_table_of_validations_marks_the_best_and_the_decays(uneven):
    steps = [*uneven.curves["valid"]["loss"]]
    best = uneven.summary.best_step
    other = next(step for step in steps if step != best)
    source = make_page(dataclasses.replace(uneven, decays=[other]))
    table = source[source.index('aria-label="Validations"') :]
    rows = re.findall(r'row">(\d+)</th>.*?class="left">([^<]*)</td></tr>', table)
    remarks = {int(step): remark for step, remark in rows[: len(steps)]}
    expected = {best: "best", other: "rate lowered"}
    assert remarks == {step: expected.get(step, "") for step in steps}


def test_what_prevents_a_report_costs_no_result(copied_run, caplog):
    options = test_launcher.Options(run=copied_run)
    (copied_run / "report.html").unlink()
    for path in (copied_run / "tests").glob("*.csv"):
        path.unlink()
    report_run(options)  # it says so on the page
    found = numbers_of(copied_run / "report.html")
    assert found["test"] is None
    assert any("cannot be read, and is left out" in line for line in found["remarks"])
    (copied_run / "report.html").unlink()
    (copied_run / "history.csv").write_text("step,split\nx,train\n")
    report_run(options)
    assert not (copied_run / "report.html").exists()
    assert "there is no report, all else is saved" in caplog.text
    assert "history.csv" in caplog.text


def test_numbers_that_are_none_are_null(copied_run):
    with open(copied_run / "history.csv", "a") as file:
        file.write("99,train,nan,0.5,0.1\n")
    page = write_report(copied_run)
    text = page.with_suffix(".json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found["curves"]["train"]["loss"]["99"] is None


def test_names_from_files_are_texts_and_nothing_else(copied_run):
    test = random_test(9, 2, names=[HOSTILE, *map(str, range(8))], step=3)
    test.class_names[:] = [HOSTILE, "plain"]
    run = other_test(copied_run, test)
    (run / "notes.md").write_text(f"# title\n\n{HOSTILE}")
    text = write_report(run).read_text()
    assert HOSTILE not in text
    assert "<img src=x" not in text
    page = Page(text)
    assert page.words().count(HOSTILE) >= 3
    assert not any("onerror" in attributes for _, attributes in page.tags)


def test_run_that_was_killed_says_so(copied_run):
    shutil.rmtree(copied_run / "tests")
    (copied_run / "result.json").unlink()
    page = write_report(copied_run)
    found, words = numbers_of(page), Page(page.read_text()).words()
    assert found["test"] is None
    assert found["state"].startswith("stopped at step")
    assert f"This run is not complete : {found['state']}" in words
    assert "There is no test yet" in words
    command = f"python launchers/test.py --run {copied_run} --split test"
    assert f"`{command}` tests the best checkpoint" in found["remarks"][0]
    assert f"<code>{command}</code>" in page.read_text()
    record = json.loads((copied_run / "run.json").read_text())
    del record["options"]["patience"]  # as of train.py, which does not validate
    (copied_run / "run.json").write_text(json.dumps(record))
    (remark,) = numbers_of(write_report(copied_run))["remarks"]
    assert f"`{command} --checkpoint latest` tests the newest" in remark
    assert "Training" in words
    assert found["curves"]["valid"]["loss"]


def test_report_without_the_images_has_all_else(copied_run, tmp_path, capsys):
    main(["report", str(copied_run), "--data-folder", str(tmp_path)])
    page = copied_run / "report.html"
    found = numbers_of(page)
    assert found["class_counts"] == {}
    assert found["test"]["accuracy"] is not None
    (remark,) = found["remarks"]
    assert remark.startswith("The lists of train and valid and test cannot be read")
    assert "`--data-folder` says where" in remark
    assert f"missing: {remark}"[:60] in capsys.readouterr().out
    assert "no picture" in page.read_text()
    before = page.read_bytes()
    with pytest.raises(FileNotFoundError, match="no folder `.*/gone`"):
        write_report(copied_run, data_folder=tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="has no test of `train`"):
        write_report(copied_run, split="train")
    assert page.read_bytes() == before


def test_thousand_classes_stay_readable_and_small(copied_run):
    test = random_test(1500, 1000, hit=1.5, step=3)
    run = other_test(copied_run, test)
    images = np.random.default_rng(0).integers(
        0, 255, (1500, 90, 120, 3), dtype=np.uint8
    )
    reader = ArrayReader(
        images, test.labels, test.class_names, options=ReaderOptions(image_size=(8, 8))
    )
    reader.name = lambda index: test.names[index]
    contents = gather(run)
    object.__setattr__(contents, "examples", choose_examples(test, reader))
    assert contents.examples.num_missing == 0
    text = make_page(contents)
    assert len(text) < 5e6  # of noise, which JPEG hardly compresses
    charts = make_charts(contents)
    assert len(charts["roc"]["data"]) == 21  # 20 classes and chance
    matrix = charts["confusion"]["matrix"]
    assert sum(matrix["counts"]) == 1500
    assert all(sorted(order) == [*range(1000)] for order in matrix["orders"].values())
    page = Page(text)
    assert "filter" in page.ids
    assert len([1 for tag, _ in page.tags if tag == "tr"]) < 1500


def test_two_classes_one_of_which_is_never_seen(copied_run):
    test = make_test([0, 0], [[0.9, 0.1], [0.2, 0.8]], step=3)
    found = numbers_of(write_report(other_test(copied_run, test)))
    assert found["test"]["accuracy"] == 0.5
    assert found["test"]["roc_auc"] is None
    words = Page((copied_run / "report.html").read_text()).words()
    assert "There are none, as the test has images of one class only." in words
    assert "–" in words


def test_examples_are_the_surest_errors_and_the_closest_hits():
    probabilities = [[0.9, 0.1], [0.6, 0.4], [0.45, 0.55], [0.2, 0.8], [0.3, 0.7]]
    test = make_test([1, 0, 0, 1, 1], probabilities)
    found = choose_examples(test, None)
    assert [each.image for each in found.errors] == ["0.png", "2.png"]
    assert [each.image for each in found.hits] == ["1.png", "4.png", "3.png"]
    assert [each.image for each in found.classes] == ["1.png", "4.png"]
    assert found.errors[0].answers[0][0] == "class 0"
    assert not found.errors[0].is_right
    assert found.num_missing == 5
    order = [3, 1, 4, 0, 2]
    again = make_test(
        test.labels[order],
        test.probabilities[order],
        names=[test.names[n] for n in order],
    )
    assert choose_examples(again, None) == found


def test_largest_confusions_are_sorted_and_have_no_hits():
    test = make_test([0, 0, 0, 1], [[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]])
    found = largest_confusions(detailed_statistics(test))
    assert [(each["label"], each["count"]) for each in found] == [
        ("class 0", 2),
        ("class 1", 1),
    ]
    assert found[0]["share"] == pytest.approx(2 / 3)


def test_decays_are_those_that_training_has_kept(copied_run):
    assert find_decays(copied_run) == []  # a run without
    path = copied_run / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"decay_steps": [3, 6]}))
    assert find_decays(copied_run) == [3, 6]
    path.unlink()  # it was killed: what the newest checkpoint says
    newest = list_steps(copied_run / "checkpoints")[-1]
    checkpoint = checkpoint_path(copied_run / "checkpoints", newest)
    arrays, state = load_checkpoint(checkpoint)
    state["states"]["patience"]["decay_steps"] = [3]
    Checkpoints(checkpoint.parent).save(newest + 1, arrays, state, kept_steps=set())
    assert find_decays(copied_run) == [3]


def test_report_of_a_test_is_beside_it(copied_run, capsys):
    path = find_test(copied_run, "valid")
    main(["report", str(path)])
    page = path.with_suffix(".report.html")
    assert numbers_of(page)["test"]["split"] == "valid"
    assert str(page) in capsys.readouterr().out
    assert find_test(copied_run, "valid") == path  # the report is not taken for one


def test_groups_have_a_confusion_of_their_own(copied_run, tmp_path):
    groups = tmp_path / "groups.json"
    groups.write_text('{"round": ["circle"], "straight": ["square", "cross"]}')
    output = tmp_path / "sent/page.html"
    main(["report", str(copied_run), "--groups", str(groups), "--output", str(output)])
    found = numbers_of(output)["test"]["groups"]
    assert found["names"] == ["round", "straight"]
    assert np.sum(found["confusion"]) == 6
    assert 'data-chart="groups"' in output.read_text()
    groups.write_text('{"round": "circle"}')
    with pytest.raises(ValueError, match="the classes of a group are a list"):
        read_groups(groups)
    groups.write_text("[1]")
    with pytest.raises(ValueError, match="groups of classes are a JSON file"):
        read_groups(groups)


def test_what_is_no_run_is_refused(tmp_path, tiny_run):
    with pytest.raises(ValueError, match="is not the folder of a run"):
        write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no `.*/step-1\.test\.json`"):
        write_report(tmp_path / "step-1.test.json")
    test = make_test([0], [[0.5, 0.5]]).save(tmp_path)
    with pytest.raises(ValueError, match="must be in the run's folder"):
        write_report(test)
    with pytest.raises(ValueError, match=r"ends with `\.html`"):
        write_report(tiny_run, output=tmp_path / "report.txt")

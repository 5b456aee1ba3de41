import html.parser
import json
import shutil

import numpy as np
import plotly.graph_objects as go
import pytest

from tests.made_tests import make_test, random_test
from worklab.__main__ import main
from worklab.options import ReaderOptions
from worklab.readers import ArrayReader
from worklab.report.contents import find_decays, gather, read_groups
from worklab.report.examples import choose_examples
from worklab.report.figures import make_charts
from worklab.report.page import largest_confusions, make_page
from worklab.report.writing import write_report
from worklab.report_statistics import detailed_statistics
from worklab.saved_tests import find_test, read_test

HOSTILE = '</script><img src=x onerror="alert(1)">&'


class Page(html.parser.HTMLParser):
    """What a page is made of; closing tags that do not fit are errors."""

    VOID = ("meta", "img", "input", "link", "br")

    def __init__(self, text):
        super().__init__()
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
    assert f"95 %: {interval['lower']:.2%}".replace("0%", "0 %")[:10] in words


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


def test_charts_are_what_plotly_draws(tiny_run):
    charts = make_charts(gather(tiny_run))
    assert {"loss", "accuracy", "learning_rate", "confusion", "roc"} < {*charts}
    assert {"precision_recall", "reliability", "class_counts"} < {*charts}
    for chart in charts.values():
        figure = go.Figure(chart["data"], chart["layout"])  # refuses unknown names
        assert len(figure.data) > 0


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
    assert f"test.py --run {copied_run}" in found["remarks"][0]
    assert "Training" in words
    assert found["curves"]["valid"]["loss"]


def test_report_without_the_images_has_all_else(copied_run, tmp_path):
    page = write_report(copied_run, data_folder=tmp_path / "gone")
    found = numbers_of(page)
    assert found["class_counts"] == {}
    assert found["test"]["accuracy"] is not None
    assert len(found["remarks"]) == 4  # a list each, and the pictures
    assert "`--data-folder` says where" in found["remarks"][0]
    assert "no picture" in page.read_text()


def test_thousand_classes_stay_readable_and_small(copied_run):
    test = random_test(1500, 1000, hit=1.5, step=3)
    run = other_test(copied_run, test)
    images = np.random.default_rng(0).integers(
        0, 255, (1500, 90, 120, 3), dtype=np.uint8
    )
    names = {name: number for number, name in enumerate(test.names)}
    reader = ArrayReader(
        images, test.labels, test.class_names, options=ReaderOptions(image_size=(8, 8))
    )
    reader.name = lambda index: test.names[index]
    assert len(names) == 1500
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


def test_decays_are_those_of_patience():
    options = {
        "patience": {"patience": 2, "max_decays": 2},
        "schedule": {"warmup_steps": 25},
    }
    losses = {10: 3.0, 20: 4.0, 30: 4.0, 40: 4.0, 50: 2.0, 60: 2.5, 70: 2.5, 80: 9.0}
    assert find_decays(options, losses) == [40, 70]
    assert find_decays({"num_steps": 5}, losses) == []


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

import dataclasses
import json

import numpy as np
import pytest

from worklab.report_statistics import detailed_statistics
from worklab.saved_tests import find_test, read_test

from .made_tests import make_test, random_test


@pytest.fixture
def saved(tmp_path):
    test = random_test(40, 3, names=[f'a "{n}", b.png' for n in range(40)])
    return test, test.save(tmp_path / "run" / "tests")


def test_what_was_saved_is_read_to_the_last_bit(saved):
    test, path = saved
    for each in (path, path.with_suffix(".csv")):
        found = read_test(each)
        assert found.names == test.names
        assert found.class_names == test.class_names
        assert found.probabilities.tobytes() == test.probabilities.tobytes()
        assert found.losses.tobytes() == test.losses.tobytes()
        assert (found.labels == test.labels).all()
        assert found.statistics == test.statistics
        assert (found.step, found.split, found.views) == (7, "test", "")
    settings = {"num_resamples": 5}
    assert detailed_statistics(found, **settings) == detailed_statistics(
        test, **settings
    )


def test_skipped_images_and_views_are_read(tmp_path):
    test = random_test(3, 2)
    statistics = dataclasses.replace(test.statistics, num_skipped=1)
    test = dataclasses.replace(
        test, statistics=statistics, skipped=["bad.png"], views="flip"
    )
    found = read_test(test.save(tmp_path))
    assert (found.skipped, found.views) == (["bad.png"], "flip")
    assert found.statistics == statistics


def test_files_of_six_digits_keep_their_predictions(saved):
    """As they were written before: two probabilities may be equal in them."""
    _, path = saved
    table = path.with_suffix(".csv")
    lines = table.read_text().splitlines()
    start = lines[1].rpartition("class")[0]  # the image and its label
    table.write_text(
        "\n".join([lines[0], start + "class 2,0.7,0.4,0.2,0.4", *lines[2:]])
    )
    found = read_test(path)
    assert found.predictions[0] == 2
    assert found.probabilities[0].tolist() == pytest.approx([0.4, 0.2, 0.4])


def test_test_of_a_run_is_found(saved, tmp_path):
    test, path = saved
    run = path.parent.parent
    assert find_test(run) == find_test(path.with_suffix(".csv")) == path
    dataclasses.replace(test, views="flip").save(path.parent)
    assert find_test(run) == path
    with pytest.raises(
        FileNotFoundError, match=r"no test of `valid`.*--split valid.*0007"
    ):
        find_test(run, "valid")
    dataclasses.replace(test, step=8).save(path.parent)
    with pytest.raises(
        ValueError, match=r"has 2 tests of `test`.*Received: step-00000007"
    ):
        find_test(run)
    with pytest.raises(
        FileNotFoundError, match=r"two files.*Received: no `.*none.csv`"
    ):
        find_test(tmp_path / "none.csv")


def change(old, new):
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("p(class 1)", "p(cat)"), r"line 1, is not of a test.*other columns"),
        (lambda _: "", r"line 0, is not of a test.*other columns: \[\]"),
        (change("class 1,class 1", "class 1,class 9"), r"line \d+, .*'class 9'"),
        (lambda text: text + "7.png,class 1\n", r"line 42, .*not enough values"),
        (lambda text: text + "7.png,class 1,class 1,x,0,1,0\n", r"line 42, .*'x'"),
        (
            lambda text: text + "7.png,class 1,class 1,0,0,1\n",
            r"line 42, .*2 probabilities of `7.png`",
        ),
        (
            lambda text: text + "7.png,class 1,class 0,0,0,1,0\n",
            r"line 42, .*1.0 is more",
        ),
        (
            lambda text: text.rpartition("a ")[0][:-1],
            r"should have the 40.*Received: 39",
        ),
        (lambda text: text + "7.png,class 1,class 1,0,0,1,0\n", r"Received: 41"),
    ],
)
def test_damaged_table_is_named(saved, damage, message):
    _, path = saved
    table = path.with_suffix(".csv")
    table.write_text(damage(table.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        read_test(path)
    assert str(table) in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 3}', "3"])
def test_json_that_is_none_is_named(saved, text):
    _, path = saved
    path.write_text(text)
    with pytest.raises(ValueError, match=r"step-.*json` is not the result of a test"):
        read_test(path)


def test_missing_table_is_named(saved):
    _, path = saved
    path.with_suffix(".csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"Received: no `.*csv`"):
        read_test(path)


def test_answer_that_is_not_finite_names_line_and_image(saved):
    _, path = saved
    table = path.with_suffix(".csv")
    text = table.read_text()
    line = text.splitlines()[3]
    table.write_text(text.replace(line, line.rpartition(",")[0] + ",nan"))
    with pytest.raises(ValueError, match=r'line 4, .*not finite, of `a "2", b.png`'):
        read_test(path)


def test_file_of_something_else_is_named(saved):
    _, path = saved
    notes = path.with_name("notes.md")
    notes.write_text("# notes")
    with pytest.raises(ValueError, match=r"notes.md` is not the result of a test"):
        read_test(find_test(notes))


def test_json_of_before_is_read(saved):
    test, path = saved
    numbers = json.loads(path.read_text())
    del numbers["skipped"]
    path.write_text(json.dumps(numbers))
    assert read_test(path).skipped == []
    assert np.array_equal(read_test(path).labels, test.labels)
    assert make_test([0], [[1, 0]]).views == ""
